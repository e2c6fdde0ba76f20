// palimpsest serve: a server that speaks the APIs of OpenAI, Anthropic and Ollama, and has a page.

#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <sstream>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/memory_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "memory/budget.h"
#include "server/service.h"
#include "text/text_parts.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr double kLook = 0.1;  // seconds between looks for a signal

struct ServeFlags {
    ModelFlags model;
    ServiceOptions service;
    std::string key_file, memory_limit, session_limit;
    double drain_seconds = 30;
    bool checks = false;
};

std::atomic<int> signals = 0;
void on_signal(int /*signal*/) { ++signals; }

int64_t bytes_of(const std::string& flag, const std::string& text) {
    const Budget budget = parse_budget(text);
    require(budget.kind == Budget::Kind::kBytes, flag, " '", text,
            "' is no number of bytes; say 4GiB");
    return budget.count;
}

/// One a line.
std::vector<std::string> keys_in(const std::string& path) {
    std::vector<std::string> keys;
    const std::string text = read_file(path);
    for (const std::string_view line : split_at(text, '\n')) {
        const std::string_view key = strip(line);
        if (!key.empty() && !key.starts_with('#')) keys.emplace_back(key);
    }
    require(!keys.empty(), "'", path, "' has no key in it, and nobody could ask");
    return keys;
}

/// The first signal ends it when what runs is done; the second at once.
void watch_signals(Service& service, double drain_seconds, bool is_draining) {
    service.http().post_after(kLook, [&service, drain_seconds, is_draining] {
        const int n = signals;
        if (n >= 2) return service.stop();
        if (n == 1 && !is_draining) {
            write_note("ending when what runs is answered; once more ends at once");
            service.drain(drain_seconds);
        }
        watch_signals(service, drain_seconds, n >= 1);
    });
}

std::string welcome(const Service& service) {
    const ServiceOptions& o = service.options();
    const bool is_everywhere = o.host == "0.0.0.0" || o.host == "::";
    const std::string host = is_everywhere ? "127.0.0.1" : o.host;
    const std::string shown = host.find(':') == std::string::npos ? host : cat("[", host, "]");
    std::string text = cat(printable(service.model_name()), " at http://", shown, ":", o.port,
                           "/ (the page; OpenAI's API is under /v1)\n");
    text +=
        cat("  conversations: ", o.memory.budget.empty() ? "everything is kept" : o.memory.budget,
            ", up to ", human_bytes(static_cast<size_t>(service.memory_bytes())), " together",
            o.sessions.empty() ? "; forgotten when the server ends (--sessions keeps them)\n"
                               : cat("; kept in ", printable(o.sessions), "\n"));
    if (is_everywhere && o.keys.empty()) {
        text += "  anybody who reaches this machine may ask; --api-key restricts it\n";
    }
    return text;
}

void serve(ServeFlags& f) {
    if (!f.key_file.empty()) f.service.keys = keys_in(f.key_file);
    if (!f.memory_limit.empty())
        f.service.memory_bytes = bytes_of("--memory-limit", f.memory_limit);
    if (!f.session_limit.empty()) {
        f.service.session_bytes = bytes_of("--session-bytes", f.session_limit);
    }
    if (f.service.model_name.empty()) {
        f.service.model_name = std::filesystem::path(model_path_of(f.model)).stem().string();
    }
    umask(0077);  // conversations are nobody else's
    const Engine engine = open_engine(f.model);
    f.service.memory = f.model.memory;
    f.service.version = kVersion;
    write_notes(engine.runtime().plan(f.service.memory).notes);
    Service service(engine.runtime(), f.service);
    signals = 0;
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    watch_signals(service, f.drain_seconds, false);
    write_message(cat("palimpsest: ", welcome(service)));
    if (f.checks) return;
    service.run();
}

}  // namespace

void add_serve(CLI::App& command) {
    auto f = std::make_shared<ServeFlags>();
    ServiceOptions& s = f->service;
    s.answer.sampling.temperature = 0.7F;
    s.answer.max_tokens = 4096;
    add_model_flags(command, f->model);
    add_prefix_flags(command, f->model);
    command
        .add_option("--prefixes", s.prefixes,
                    "a folder of prefix memories, NAME.prefix.gguf, of which requests may name "
                    "some: \"memory\": {\"prefix\": [\"NAME\"]}")
        ->group("Prefix");
    add_memory_flags(command, f->model.memory);
    const char* const server = "Server";
    command
        .add_option("--host", s.host, "address to listen on; 0.0.0.0: every one of this machine")
        ->capture_default_str()
        ->group(server);
    command.add_option("--port", s.port, "port to listen on; 0: any that is free")
        ->check(CLI::Range(0, 65535))
        ->capture_default_str()
        ->group(server);
    reads_file(command.add_option("--api-key", f->key_file,
                                  "a file of keys, one a line, of which a request must have one"))
        ->group(server);
    command
        .add_option("--allow-origin", s.allowed_origin,
                    "a site whose pages may ask here, such as https://example.org")
        ->group(server);
    command.add_option("--alias", s.model_name, "what clients call the model (default: its name)")
        ->group(server);
    command
        .add_option(
            "--sessions", s.sessions,
            "where conversations are kept, across restarts: a folder, or s3://BUCKET/PREFIX, "
            "which several servers may share (AWS_... in the environment)")
        ->group(server);
    command
        .add_option("--session-bytes", f->session_limit,
                    "bytes that they may take there; the oldest go (default: 16GiB)")
        ->group(server);
    command
        .add_option("--memory-limit", f->memory_limit,
                    "bytes that all conversations may take in memory (default: half of what is "
                    "free)")
        ->group(server);
    command.add_option("--step-rows", s.step_rows, "tokens that a step is filled to")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str()
        ->group(server);
    command.add_option("--running", s.most_running, "requests that are answered at once")
        ->check(CLI::Range(int64_t{1}, int64_t{4096}))
        ->capture_default_str()
        ->group(server);
    command
        .add_option("--drain-seconds", f->drain_seconds,
                    "how long running answers may go on once the server is told to end")
        ->check(CLI::Range(0.0, 86400.0))
        ->capture_default_str()
        ->group(server);
    command
        .add_flag("--check", f->checks,
                  "start, say what would be served and in how much memory, and end")
        ->group(server);
    const char* const answers = "Answers, where a request does not say";
    command
        .add_option("--temperature", s.answer.sampling.temperature,
                    "0: always the likeliest token; higher: freer")
        ->check(CLI::Range(0.0F, 100.0F))
        ->capture_default_str()
        ->group(answers);
    command.add_option("-n,--max-tokens", s.answer.max_tokens, "tokens an answer may have")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 28))
        ->capture_default_str()
        ->group(answers);
    reads_file(command.add_option("--chat-template", s.chat_template,
                                  "instead of the model's own: a name, a file with a Jinja "
                                  "template, or its text"))
        ->group(answers);
    for (const LimitKind& kind : limit_kinds()) {
        command
            .add_option(cat("--limit-", kind.name), s.limits.*kind.value,
                        cat("at most so many ", kind.summary))
            ->check(CLI::Range(kind.least, kind.most))
            ->capture_default_str()
            ->group("Limits");
    }
    command.callback([f] { serve(*f); });
}

}  // namespace palimpsest
