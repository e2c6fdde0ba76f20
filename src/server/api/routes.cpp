#include "server/api/routes.h"

#include <array>
#include <cctype>

#include "server/service.h"
#include "text/json_text.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

using Json = nlohmann::ordered_json;
using enum ApiStyle;

constexpr std::array kRoutes = {
    Route{"GET", "/", handle_page, "The page.", kOpenAi, true},
    Route{"GET", "/health", handle_health, "Is the server up?", kOpenAi, true, true},
    Route{"GET", "/metrics", handle_metrics, "Counts, for Prometheus.", kOpenAi, false, true},
    Route{"GET", "/props", handle_props, "The model, the memory, the policies, the limits."},
    Route{"POST", "/v1/chat/completions", handle_chat_completions,
          "An answer in a conversation (OpenAI)."},
    Route{"POST", "/v1/completions", handle_completions, "How a text goes on (OpenAI)."},
    Route{"POST", "/v1/responses", handle_responses, "An answer, remembered by its id (OpenAI)."},
    Route{"GET", "/v1/responses/{id}", handle_response, "One that was given before (OpenAI)."},
    Route{"POST", "/v1/embeddings", handle_embeddings,
          "The mean of a text's last hidden states, normalised (OpenAI)."},
    Route{"GET", "/v1/models", handle_models, "The one model there is (OpenAI)."},
    Route{"GET", "/v1/models/{id}", handle_model, "The same, by its name (OpenAI)."},
    Route{"POST", "/v1/messages", handle_messages, "An answer in a conversation (Anthropic).",
          kAnthropic},
    Route{"POST", "/v1/messages/count_tokens", handle_count_tokens,
          "Tokens that a conversation takes (Anthropic).", kAnthropic},
    Route{"POST", "/api/chat", handle_ollama_chat, "An answer in a conversation (Ollama).",
          kOllama},
    Route{"POST", "/api/generate", handle_ollama_generate, "An answer to a prompt (Ollama).",
          kOllama},
    Route{"POST", "/api/embed", handle_ollama_embed,
          "The mean of texts' last hidden states, normalised (Ollama).", kOllama},
    Route{"POST", "/api/embeddings", handle_ollama_embeddings, "The same of one text (Ollama).",
          kOllama},
    Route{"GET", "/api/tags", handle_ollama_tags, "The one model there is (Ollama).", kOllama},
    Route{"POST", "/api/show", handle_ollama_show, "What the model is and can do (Ollama).",
          kOllama},
    Route{"GET", "/api/ps", handle_ollama_ps, "What is loaded (Ollama).", kOllama},
    Route{"GET", "/api/version", handle_ollama_version, "The version (Ollama).", kOllama, true,
          true},
    Route{"POST", "/tokenize", handle_tokenize, "The tokens of a text."},
    Route{"POST", "/detokenize", handle_detokenize, "The text of tokens."},
    Route{"POST", "/v1/documents/text", handle_document_text, "The text of a PDF."},
    Route{"GET", "/v1/sessions", handle_sessions, "Conversations that are remembered."},
    Route{"POST", "/v1/sessions/import", handle_session_import, "Takes an exported conversation."},
    Route{"GET", "/v1/sessions/{id}", handle_session, "One of them, with its messages."},
    Route{"PATCH", "/v1/sessions/{id}", handle_session_change, "Gives it a title."},
    Route{"DELETE", "/v1/sessions/{id}", handle_session_delete, "Deletes it."},
    Route{"POST", "/v1/sessions/{id}/fork", handle_session_fork, "A copy, to go another way."},
    Route{"GET", "/v1/sessions/{id}/export", handle_session_export, "The whole of it, as a file."},
    Route{"GET", "/v1/memory/{id}", handle_memory,
          "What the memory of a response or a conversation kept and let go."},
    Route{"GET", "/{file}", handle_page, "What the page is made of.", kOpenAi, true},
    Route{"GET", "/components/{file}", handle_page, "The same.", kOpenAi, true},
    Route{"GET", "/vendor/{name}/{file}", handle_page, "The same.", kOpenAi, true},
};

std::string unescaped(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size() &&
            std::isxdigit(static_cast<unsigned char>(text[i + 1])) != 0 &&
            std::isxdigit(static_cast<unsigned char>(text[i + 2])) != 0) {
            out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
            i += 2;
        } else {
            out += text[i];
        }
    }
    return out;
}

bool fits(std::string_view pattern, std::string_view path, std::vector<std::string>& params) {
    const auto wanted = split_at(pattern, '/');
    const auto there = split_at(path, '/');
    if (wanted.size() != there.size()) return false;
    params.clear();
    for (size_t i = 0; i < wanted.size(); ++i) {
        if (wanted[i].starts_with('{')) {
            if (there[i].empty()) return false;
            params.push_back(unescaped(there[i]));
        } else if (wanted[i] != there[i]) {
            return false;
        }
    }
    return true;
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

const Route* find_route(std::string_view method, std::string_view path,
                        std::vector<std::string>& params, int& status) {
    status = 404;
    for (const Route& route : kRoutes) {
        if (!fits(route.path, path, params)) continue;
        const bool is_file = route.handle == handle_page && route.path != "/";
        if (is_file && status == 405) continue;  // the path is another route's
        if (route.method == method || (method == "HEAD" && route.method == "GET")) return &route;
        if (!is_file) status = 405;
    }
    return nullptr;
}

std::string methods_of(std::string_view path) {
    std::vector<std::string> all;
    std::vector<std::string> params;
    for (const Route& route : kRoutes) {
        const bool is_file = route.handle == handle_page && route.path != "/";
        if (is_file || !fits(route.path, path, params)) continue;
        all.emplace_back(route.method);
        if (route.method == "GET") all.emplace_back("HEAD");
    }
    return join(all, ", ");
}

ApiStyle style_of(std::string_view path) {
    if (path.starts_with("/api/")) return kOllama;
    return path.starts_with("/v1/messages") ? kAnthropic : kOpenAi;
}

Json error_json(const ApiError& error, ApiStyle style) {
    if (style == kOllama) return {{"error", error.what()}};
    if (style == kAnthropic) {
        return {{"type", "error"}, {"error", {{"type", error.type()}, {"message", error.what()}}}};
    }
    Json json = {
        {"message", error.what()}, {"type", error.type()}, {"param", nullptr}, {"code", nullptr}};
    if (!error.param.empty()) json["param"] = error.param;
    if (!error.code.empty()) json["code"] = error.code;
    return {{"error", json}};
}

HttpAnswer error_answer(const ApiError& error, ApiStyle style) {
    HttpAnswer answer = {.status = error.status, .body = json_text(error_json(error, style))};
    if (error.status == 503) answer.headers.emplace_back("Retry-After", "5");
    if (error.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
    return answer;
}

RequestJson Call::body() const { return read_body(request().body); }

void Call::answer(const Json& json, int status) const {
    exchange->answer({.status = status, .body = json_text(json)});
}

void Call::fail(const ApiError& error) const { exchange->answer(error_answer(error, style)); }

}  // namespace palimpsest
