#pragma once

#include <stdexcept>
#include <string>

#include "core/error.h"

namespace palimpsest {

/// A request that cannot be answered, in the words of an API.
struct ApiError : std::runtime_error {
    ApiError(int status_, const std::string& message, std::string param_ = {},
             std::string code_ = {});

    int status;
    std::string param;  // the field that is wrong; empty: none by itself
    std::string code;   // for programs: "context_length_exceeded", ...

    /// "invalid_request_error", "authentication_error", ... as OpenAI and Anthropic both say.
    [[nodiscard]] std::string type() const;
};

/// The same of an error of ours: 400 for what the request asked, 503 for what may pass.
[[nodiscard]] ApiError api_error(const Error& error);

/// What is being handled right now, as an ApiError.
[[nodiscard]] ApiError current_api_error();

}  // namespace palimpsest
