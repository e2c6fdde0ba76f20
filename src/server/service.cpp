#include "server/service.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "core/error.h"
#include "core/sha256.h"
#include "server/api/routes.h"
#include "text/json_text.h"
#include "text/text_parts.h"

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

std::string sha256_of(std::string_view key) {
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

/// The digest of a key that a request has, in either of two headers; empty: none of those there
/// are.
std::string known_key(const HttpRequest& request, const std::vector<std::string>& digests) {
    static constexpr std::string_view kBearer = "bearer ";
    std::string_view bearer = request.header("authorization");
    const bool has_bearer = lower_case(bearer.substr(0, kBearer.size())) == kBearer;
    bearer.remove_prefix(has_bearer ? kBearer.size() : bearer.size());
    std::string found;
    for (const std::string_view key : {bearer, request.header("x-api-key")}) {
        const std::string given = sha256_of(key);
        for (const std::string& known : digests) {
            if (is_equal(known, given)) found = known;
        }
    }
    return found;
}

/// "host" of "host:8080", "[::1]:8080" and "http://host:8080".
std::string_view host_of(std::string_view text) {
    if (const size_t at = text.find("://"); at != std::string_view::npos)
        text.remove_prefix(at + 3);
    if (text.starts_with('[')) return text.substr(0, text.find(']') + 1);
    return text.substr(0, text.find(':'));
}

bool is_loopback(std::string_view host) {
    in_addr address{};
    const bool is_v4 = inet_pton(AF_INET, std::string(host).c_str(), &address) == 1;
    return lower_case(host) == "localhost" || host == "[::1]" || host == "::1" ||
           (is_v4 && (ntohl(address.s_addr) >> 24U) == IN_LOOPBACKNET);
}

/// 0: it names no such budget.
int64_t most_entries(const MemoryChoice& choice) {
    if (choice.budget.empty()) return 0;
    const Budget budget = parse_budget(choice.budget);
    return budget.kind == Budget::Kind::kEntries ? budget.count : 0;
}

/// An address, or a name of this machine: not one that a page was served by.
bool is_ours(std::string_view host) {
    std::string name(host);
    if (name.starts_with('[') && name.ends_with(']')) name = name.substr(1, name.size() - 2);
    std::array<unsigned char, sizeof(in6_addr)> address{};
    if (inet_pton(AF_INET, name.c_str(), address.data()) == 1) return true;
    if (inet_pton(AF_INET6, name.c_str(), address.data()) == 1) return true;
    std::array<char, 256> own{};
    if (gethostname(own.data(), own.size() - 1) != 0) own[0] = '\0';
    const std::string wanted = lower_case(name);
    const std::string machine = lower_case(own.data());
    return wanted == "localhost" ||
           (!machine.empty() && (wanted == machine || wanted == machine + ".local"));
}

std::string name_of(const Runtime& engine) {
    const std::string& name = engine.config().name;
    return name.empty() ? engine.config().architecture : name;
}

}  // namespace

Service::Service(const Runtime& engine, ServiceOptions options)
    : engine_(engine),
      options_(std::move(options)),
      tokenizer_(engine.loaded().require_tokenizer()),
      started_(static_cast<int64_t>(std::time(nullptr))),
      prefixes_(engine, options_.memory, options_.prefixes) {
    if (options_.model_name.empty()) options_.model_name = name_of(engine);
    for (std::string& key : options_.keys) key = sha256_of(key);
    const bool has_prefixes = !options_.memory.prefixes.empty() || !options_.prefixes.empty();
    require(!has_prefixes || options_.chat_template.empty(),
            "a prefix memory was built with the model's own template; leave out --chat-template");
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
                        there >> 20, " MiB of memory are free; lower --memory-limit"));
    }
    if (!options_.sessions.empty()) store_ = open_sessions(options_.sessions);
    const ServerLimits& l = options_.limits;
    http_ = std::make_unique<HttpServer>(
        options_.host, options_.port,
        HttpRules{.limits = {.body_bytes = l.body_bytes,
                             .header_bytes = l.header_bytes,
                             .header_count = l.header_count,
                             .connections = l.connections,
                             .all_body_bytes = l.all_body_bytes,
                             .request_seconds = l.request_seconds,
                             .write_seconds = l.write_seconds,
                             .queued_bytes = l.queued_bytes},
                  .refuses = [this](const HttpRequest& r, HttpAnswer& a) { return refuses(r, a); },
                  .handle = [this](const ExchangePtr& e) { handle(e); },
                  .failure =
                      [this](int status, const std::string& why, std::string_view path) {
                          ++metrics_.refused;
                          return error_answer(ApiError(status, why), style_of(path));
                      },
                  .body_bytes =
                      [this](std::string_view path) {
                          const ServerLimits& of = options_.limits;
                          return path == "/v1/sessions/import" ? of.import_bytes : of.body_bytes;
                      },
                  .headers = headers()});
    options_.port = http_->port();
    scheduler_ = std::make_unique<Scheduler>(
        engine_,
        SchedulerOptions{.step_rows = options_.step_rows,
                         .most_running = options_.most_running,
                         .most_waiting = l.queue,
                         .table = {.most_bytes = options_.memory_bytes,
                                   .most_entries = most_entries(options_.memory),
                                   .most_stored_bytes = options_.session_bytes,
                                   .prefixes = &prefixes_}},
        store_.get(), metrics_);
    workers_ = std::make_unique<WorkerPool>(kWorkers,
                                            static_cast<size_t>(l.queue + options_.most_running));
}

Service::~Service() = default;

/// Of every answer.
std::vector<std::pair<std::string, std::string>> Service::headers() const {
    if (options_.allowed_origin.empty()) return {};
    return {{"Access-Control-Allow-Origin", options_.allowed_origin}, {"Vary", "Origin"}};
}

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
    const std::string text = chat_template().source();
    if (text.empty()) {
        if (!has_tools) return nullptr;
        throw ApiError(400, "tools need a chat template in Jinja, and a build that renders it",
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
    const bool is_guarded = is_loopback(options_.host) || options_.keys.empty();
    if (is_guarded && !host.empty() && !is_ours(host_of(host))) {
        return refuse(ApiError(403, "this server answers to its own names and addresses only"));
    }
    if (request.method == "OPTIONS" && !options_.allowed_origin.empty()) {
        answer = {.status = 204};
        answer.headers = {
            {"Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE"},
            {"Access-Control-Allow-Headers",
             "Authorization, Content-Type, x-api-key, x-session-id, x-claude-code-session-id, "
             "session-id, session_id, x-session-affinity, anthropic-version, anthropic-beta"},
            {"Access-Control-Max-Age", "86400"}};
        return true;
    }
    std::vector<std::string> params;
    int status = 0;
    const Route* route = find_route(request.method, request.path, params, status);
    if (route == nullptr) {
        static_cast<void>(refuse(ApiError(
            status, status == 405 ? "not by this method" : "there is nothing at this path")));
        if (status == 405) answer.headers.emplace_back("Allow", methods_of(request.path));
        return true;
    }
    if (!route->is_open && !options_.keys.empty()) {
        if (known_key(request, options_.keys).empty())
            return refuse(ApiError(401, "the key is missing or wrong", "", "invalid_api_key"));
    }
    return false;
}

void Service::handle(const ExchangePtr& exchange) {
    const HttpRequest& request = exchange->request();
    Call call = {.exchange = exchange};
    int status = 0;
    const Route* route = find_route(request.method, request.path, call.params, status);
    call.style = route->style;
    call.owner = known_key(request, options_.keys);
    auto answer = [this, route, call = std::move(call)] {
        try {
            route->handle(*this, call);
        } catch (...) {
            const ApiError error = current_api_error();
            ++(error.status >= 500 && error.status != 503 ? metrics_.failed : metrics_.refused);
            call.fail(error);
        }
    };
    if (route->is_quick) return answer();
    if (workers_->add(answer)) return;
    ++metrics_.refused;
    exchange->answer(error_answer(
        ApiError(503, "too many requests wait to be read; try again later", "", "queue_full"),
        route->style));
}

bool Service::knows_tools() {
    if (chat_template().source().empty()) return false;
    static const ToolRequest kAny = {
        .tools = nlohmann::ordered_json::parse(
            R"([{"type": "function", "function": {"name": "look_up", "description": "Looks up."}}])")};
    const auto made = protocol(kAny);
    return made != nullptr && made->instructions().empty();
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
    // What was written is on its way to its clients.
    if ((scheduler_->is_idle() && http_->n_answering() == 0) || seconds <= 0) return http_->stop();
    http_->post_after(kLook, [this, seconds] { end_when_idle(seconds - kLook); });
}

}  // namespace palimpsest
