#include "server/api_error.h"

#include <exception>
#include <new>
#include <utility>

namespace palimpsest {

ApiError::ApiError(int status_, const std::string& message, std::string param_, std::string code_)
    : std::runtime_error(message),
      status(status_),
      param(std::move(param_)),
      code(std::move(code_)) {}

std::string ApiError::type() const {
    switch (status) {
        case 401:
            return "authentication_error";
        case 403:
            return "permission_error";
        case 404:
            return "not_found_error";
        case 413:
            return "request_too_large";
        case 429:
            return "rate_limit_error";
        case 503:
            return "overloaded_error";
        default:
            return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

ApiError api_error(const Error& error) {
    switch (error.code()) {
        case ErrorCode::kInvalidArgument:
        case ErrorCode::kUnsupported:
            return {400, error.what()};
        case ErrorCode::kNotFound:
            return {404, error.what()};
        case ErrorCode::kExhausted:  // of the machine; what a context lacks is told where it is
                                     // read
            return {503, error.what(), "", "out_of_memory"};
        default:
            return {500, error.what()};
    }
}

ApiError current_api_error() {
    try {
        throw;
    } catch (const ApiError& e) {
        return e;
    } catch (const Error& e) {
        return api_error(e);
    } catch (const std::bad_alloc&) {
        return {503, "there is not enough memory for this request now; try again later"};
    } catch (const std::exception& e) {
        return {500, cat("unexpected: ", e.what())};
    }
}

}  // namespace palimpsest
