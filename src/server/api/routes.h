#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/fields.h"
#include "server/http/exchange.h"

namespace palimpsest {

class Service;

/// Whose errors a route writes.
enum class ApiStyle { kOpenAi, kAnthropic, kOllama };

/// One request to one route.
struct Call {
    ExchangePtr exchange;
    std::string owner = {};                // who asks: of its key
    std::vector<std::string> params = {};  // what stands for {…} in the path
    ApiStyle style = ApiStyle::kOpenAi;

    [[nodiscard]] const HttpRequest& request() const { return exchange->request(); }
    /// The body as a JSON object. Throws ApiError 400.
    [[nodiscard]] RequestJson body() const;
    void answer(const nlohmann::ordered_json& json, int status = 200) const;
    void fail(const ApiError& error) const;
};

/// One line a route. A handler answers, now or later, or throws.
struct Route {
    std::string_view method, path;  // "/v1/sessions/{id}"
    void (*handle)(Service& service, const Call& call);
    std::string_view summary;
    ApiStyle style = ApiStyle::kOpenAi;
    bool is_open = false;   // needs no key
    bool is_quick = false;  // answers at once, whatever else goes on
};

[[nodiscard]] std::span<const Route> routes();

/// The route of a request, and what stands for {…}. nullptr, with a status: there is none.
[[nodiscard]] const Route* find_route(std::string_view method, std::string_view path,
                                      std::vector<std::string>& params, int& status);

/// The methods that a path has routes for: "GET, POST".
[[nodiscard]] std::string methods_of(std::string_view path);

/// An error as an API writes it.
[[nodiscard]] HttpAnswer error_answer(const ApiError& error, ApiStyle style);
[[nodiscard]] nlohmann::ordered_json error_json(const ApiError& error, ApiStyle style);
/// Of a path that no route has, by what its like speak.
[[nodiscard]] ApiStyle style_of(std::string_view path);

// The handlers, a file each for an API.
void handle_chat_completions(Service& service, const Call& call);
void handle_completions(Service& service, const Call& call);
void handle_responses(Service& service, const Call& call);
void handle_response(Service& service, const Call& call);
void handle_embeddings(Service& service, const Call& call);
void handle_models(Service& service, const Call& call);
void handle_model(Service& service, const Call& call);
void handle_messages(Service& service, const Call& call);
void handle_count_tokens(Service& service, const Call& call);
void handle_ollama_chat(Service& service, const Call& call);
void handle_ollama_generate(Service& service, const Call& call);
void handle_ollama_embed(Service& service, const Call& call);
void handle_ollama_embeddings(Service& service, const Call& call);
void handle_ollama_tags(Service& service, const Call& call);
void handle_ollama_show(Service& service, const Call& call);
void handle_ollama_version(Service& service, const Call& call);
void handle_ollama_ps(Service& service, const Call& call);
void handle_tokenize(Service& service, const Call& call);
void handle_detokenize(Service& service, const Call& call);
void handle_health(Service& service, const Call& call);
void handle_metrics(Service& service, const Call& call);
void handle_props(Service& service, const Call& call);
void handle_document_text(Service& service, const Call& call);
void handle_sessions(Service& service, const Call& call);
void handle_session(Service& service, const Call& call);
void handle_session_change(Service& service, const Call& call);
void handle_session_delete(Service& service, const Call& call);
void handle_session_fork(Service& service, const Call& call);
void handle_session_export(Service& service, const Call& call);
void handle_session_import(Service& service, const Call& call);
void handle_memory(Service& service, const Call& call);
void handle_page(Service& service, const Call& call);

}  // namespace palimpsest
