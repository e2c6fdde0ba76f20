#include "server/service.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "core/error.h"
#include "core/sha256.h"
#include "server/api/routes.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

constexpr int kWorkers = 2;
constexpr size_t kMostProtocols = 64;

/// Bytes of memory that nobody uses.
int64_t free_bytes() {
    struct sysinfo info {};
    if (sysinfo(&info) != 0) return 0;
    return static_cast<int64_t>((info.freeram + info.bufferram) * info.mem_unit);
}

std::string digest_of(std::string_view key) {
    Sha256 sum;
    sum.add(std::as_bytes(std::span(key)));
    return sum.hex();
}

/// Takes as long whatever the two are.
bool is_equal(std::string_view a, std::string_view b) {
    unsigned differs = a.size() == b.size() ? 0U : 1U;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        differs |= static_cast<unsigned>(a[i] ^ b[i]);
    }
    return differs == 0;
}

/// What a client says of itself; empty: nothing.
std::string_view key_of(const HttpRequest& request) {
    std::string_view key = request.header("authorization");
    static constexpr std::string_view kBearer = "Bearer ";
    if (key.starts_with(kBearer)) return key.substr(kBearer.size());
    return request.header("x-api-key");
}

/// "host" of "host:8080", "[::1]:8080" and "http://host:8080".
std::string_view host_of(std::string_view text) {
    if (const size_t at = text.find("://"); at != std::string_view::npos)
        text.remove_prefix(at + 3);
    if (text.starts_with('[')) return text.substr(0, text.find(']') + 1);
    return text.substr(0, text.find(':'));
}

bool is_loopback(std::string_view host) {
    return host == "localhost" || host == "[::1]" || host == "::1" || host.starts_with("127.");
}

/// 0: it names no such budget.
int64_t most_entries(const MemoryChoice& choice) {
    if (choice.budget.empty()) return 0;
    const Budget budget = parse_budget(choice.budget);
    return budget.kind == Budget::Kind::kEntries ? budget.count : 0;
}

std::string file_stem(const Runtime& engine) {
    const std::string& name = engine.config().name;
    return name.empty() ? engine.config().architecture : name;
}

}  // namespace

Service::Service(const Runtime& engine, ServiceOptions options)
    : engine_(engine),
      options_(std::move(options)),
      tokenizer_(engine.loaded().require_tokenizer()),
      started_(static_cast<int64_t>(std::time(nullptr))) {
    if (options_.model_name.empty()) options_.model_name = file_stem(engine);
    for (std::string& key : options_.keys) key = digest_of(key);
    if (!options_.chat_template.empty()) {
        chosen_template_ = tokenizer_.chosen_template(options_.chat_template);
    } else if (tokenizer_.has_chat_template()) {
        static_cast<void>(tokenizer_.chat_template());  // now, and not in a request
    }
    const int64_t there = free_bytes();
    if (options_.memory_bytes == 0) options_.memory_bytes = there / 2;
    if (options_.memory_bytes > there) {
        throw Error(ErrorCode::kExhausted,
                    cat("conversations may take ", options_.memory_bytes >> 20, " MiB, but only ",
                        there >> 20, " MiB of memory are free; lower --memory"));
    }
    if (!options_.sessions.empty()) store_ = open_session_folder(options_.sessions);
    const ServerLimits& l = options_.limits;
    http_ = std::make_unique<HttpServer>(
        options_.host, options_.port,
        HttpRules{.limits = {.body_bytes = l.body_bytes,
                             .header_bytes = l.header_bytes,
                             .header_count = l.header_count,
                             .connections = l.connections,
                             .request_seconds = l.request_seconds,
                             .write_seconds = l.write_seconds,
                             .queued_bytes = l.queued_bytes},
                  .refuses = [this](const HttpRequest& r, HttpAnswer& a) { return refuses(r, a); },
                  .handle = [this](const ExchangePtr& e) { handle(e); },
                  .failure =
                      [this](int status, const std::string& why) {
                          ++metrics_.refused;
                          return error_answer(ApiError(status, why), ApiStyle::kOpenAi);
                      }});
    options_.port = http_->port();
    scheduler_ = std::make_unique<Scheduler>(
        engine_,
        SchedulerOptions{.step_rows = options_.step_rows,
                         .most_running = options_.most_running,
                         .most_waiting = l.queue,
                         .table = {.most_bytes = options_.memory_bytes,
                                   .most_entries = most_entries(options_.memory),
                                   .most_stored_bytes = options_.session_bytes}},
        store_.get(), metrics_);
    workers_ = std::make_unique<WorkerPool>(kWorkers);
}

Service::~Service() = default;

const ChatTemplate& Service::chat_template() const {
    if (chosen_template_ != nullptr) return *chosen_template_;
    if (!tokenizer_.has_chat_template()) {
        throw ApiError(400,
                       "this model has no chat template; use /v1/completions, or start the server "
                       "with --chat-template");
    }
    return tokenizer_.chat_template();
}

std::shared_ptr<const ToolProtocol> Service::protocol(const ToolRequest& request) {
    const bool has_tools = !request.tools.empty();
    std::string text =
        options_.chat_template.empty() ? tokenizer_.chat_template_text() : options_.chat_template;
    const bool is_jinja =
        text.find("{%") != std::string::npos || text.find("{{") != std::string::npos;
    if (!has_jinja() || !is_jinja) {
        if (!has_tools) return nullptr;
        throw ApiError(400, "tools need the model's own chat template, and a build that renders it",
                       "tools");
    }
    const std::string key = cat(json_text(request.tools), static_cast<int>(request.choice),
                                request.may_call_several, request.may_think);
    {
        const std::scoped_lock guard(protocol_mutex_);
        for (auto at = protocols_.begin(); at != protocols_.end(); ++at) {
            if (at->first != key) continue;
            protocols_.splice(protocols_.begin(), protocols_, at);
            return protocols_.front().second;
        }
    }
    std::shared_ptr<const ToolProtocol> made;
    try {
        made = ToolProtocol::make(text, tokenizer_.template_tokens(), request);
    } catch (const Error& e) {
        if (has_tools) throw ApiError(400, e.what(), "tools");
    }
    const std::scoped_lock guard(protocol_mutex_);
    protocols_.emplace_front(key, made);
    if (protocols_.size() > kMostProtocols) protocols_.pop_back();
    return made;
}

bool Service::refuses(const HttpRequest& request, HttpAnswer& answer) const {
    const ApiStyle style = style_of(request.path);
    const auto refuse = [&](const ApiError& error) {
        answer = error_answer(error, style);
        return true;
    };
    // Pages of other sites can send requests here; a browser says where from.
    const std::string_view origin = request.header("origin");
    const std::string_view host = request.header("host");
    const bool is_own = origin.empty() || origin == "null"
                            ? origin.empty()
                            : origin.ends_with(host) && host_of(origin) == host_of(host);
    if (!is_own && origin != options_.allowed_origin && options_.allowed_origin != "*") {
        return refuse(ApiError(403, "pages of other sites may not ask here (--allow-origin)"));
    }
    // And a name that was made to lead here is not ours.
    if (is_loopback(options_.host) && !host.empty() && !is_loopback(host_of(host))) {
        return refuse(ApiError(403, "this server answers for this machine only, by its own names"));
    }
    if (request.method == "OPTIONS" && !options_.allowed_origin.empty()) {
        answer = {.status = 204};
        answer.headers = {{"Access-Control-Allow-Origin", options_.allowed_origin},
                          {"Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE"},
                          {"Access-Control-Allow-Headers", "*"}};
        return true;
    }
    std::vector<std::string> params;
    int status = 0;
    const Route* route = find_route(request.method, request.path, params, status);
    if (route == nullptr) {
        return refuse(ApiError(
            status, status == 405 ? "not by this method" : "there is nothing at this path"));
    }
    if (!route->is_open && !options_.keys.empty()) {
        const std::string given = digest_of(key_of(request));
        bool is_known = false;
        for (const std::string& key : options_.keys) is_known |= is_equal(key, given);
        if (!is_known)
            return refuse(ApiError(401, "the key is missing or wrong", "", "invalid_api_key"));
    }
    return false;
}

void Service::handle(const ExchangePtr& exchange) {
    workers_->add([this, exchange] {
        const HttpRequest& request = exchange->request();
        Call call = {.exchange = exchange};
        int status = 0;
        const Route* route = find_route(request.method, request.path, call.params, status);
        call.style = route->style;
        if (!options_.keys.empty()) call.owner = digest_of(key_of(request));
        try {
            route->handle(*this, call);
        } catch (...) {
            const ApiError error = current_api_error();
            ++(error.status >= 500 && error.status != 503 ? metrics_.failed : metrics_.refused);
            call.fail(error);
        }
    });
}

bool Service::knows_tools() const {
    const std::string& own = tokenizer_.chat_template_text();
    const std::string& text = options_.chat_template.empty() ? own : options_.chat_template;
    return text.find("tool") != std::string::npos;
}

void Service::run() { http_->run(); }

void Service::drain(double seconds) {
    is_draining_ = true;
    scheduler_->drain();
    http_->drain();
    http_->post([this, seconds] { end_when_idle(seconds); });
}

void Service::end_when_idle(double seconds) {
    constexpr double kLook = 0.1;
    if (scheduler_->is_idle() || seconds <= 0) {
        // What was written is on its way to its clients.
        http_->post_after(kLook, [this] { http_->stop(); });
        return;
    }
    http_->post_after(kLook, [this, seconds] { end_when_idle(seconds - kLook); });
}

}  // namespace palimpsest
