#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/runtime.h"
#include "palimpsest/generation.h"
#include "server/http/http_server.h"
#include "server/limits.h"
#include "server/metrics.h"
#include "server/prefix_shelf.h"
#include "server/scheduler/scheduler.h"
#include "server/worker_pool.h"
#include "text/tool_calls.h"

namespace palimpsest {

struct ServiceOptions {
    std::string host = "127.0.0.1";
    int port = 8080;
    MemoryChoice memory = {};            // where a request says nothing of it
    AnswerOptions answer = {};           // the same
    std::string chat_template = {};      // instead of the model's own
    std::string model_name = {};         // what clients call it; empty: the file's name
    std::vector<std::string> keys = {};  // empty: everybody may ask
    std::string allowed_origin = {};     // of pages elsewhere; empty: none
    std::string prefixes = {};           // a folder of prefix memories that requests may name
    std::string sessions = {};           // a folder; empty: conversations end with the program
    int64_t session_bytes = int64_t{16} << 30;
    int64_t memory_bytes = 0;  // of all conversations together; 0: half of what is free
    int64_t step_rows = 512;
    int64_t most_running = 64;
    std::string version = {};
    ServerLimits limits = {};
};

/// What every route works with. Thread-safe, but for run().
class Service {
 public:
    /// Throws as the parts do, and kExhausted where the memory that it may take is not there.
    Service(const Runtime& engine, ServiceOptions options);
    ~Service();
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    [[nodiscard]] const ServiceOptions& options() const { return options_; }
    [[nodiscard]] const ServerLimits& limits() const { return options_.limits; }
    [[nodiscard]] const Runtime& engine() const { return engine_; }
    [[nodiscard]] const Tokenizer& tokenizer() const { return tokenizer_; }
    [[nodiscard]] const std::string& model_name() const { return options_.model_name; }
    [[nodiscard]] int64_t started() const { return started_; }
    [[nodiscard]] Metrics& metrics() { return metrics_; }
    [[nodiscard]] const PrefixShelf& prefixes() const { return prefixes_; }
    [[nodiscard]] Scheduler& scheduler() { return *scheduler_; }
    [[nodiscard]] HttpServer& http() { return *http_; }
    [[nodiscard]] int64_t memory_bytes() const { return options_.memory_bytes; }
    [[nodiscard]] bool is_draining() const { return is_draining_; }

    /// Has a conversation a template to be written by? Throws ApiError 400 if there is none.
    [[nodiscard]] const ChatTemplate& chat_template() const;
    /// How answers to such a request are read. Made once for every kind of request.
    [[nodiscard]] std::shared_ptr<const ToolProtocol> protocol(const ToolRequest& request);

    /// Has something done between two steps of the model, and waits for it. Not from the thread of
    /// input and output.
    template <typename Do>
    auto ask(Do what) {
        using Result = decltype(what(std::declval<SequenceTable&>()));
        std::promise<Result> promise;
        std::future<Result> result = promise.get_future();
        scheduler_->ask([&](SequenceTable& table) {
            try {
                if constexpr (std::is_void_v<Result>) {
                    what(table);
                    promise.set_value();
                } else {
                    promise.set_value(what(table));
                }
            } catch (...) {
                promise.set_exception(std::current_exception());
            }
        });
        return result.get();
    }

    /// Has the chat template a place for tools?
    [[nodiscard]] bool knows_tools();

    /// Serves until stop().
    void run();
    /// From a signal's thread: no new requests; those that run end, or are cut after a while.
    void drain(double seconds);
    void stop() { http_->stop(); }

 private:
    void handle(const ExchangePtr& exchange);
    [[nodiscard]] bool refuses(const HttpRequest& request, HttpAnswer& answer) const;
    void end_when_idle(double seconds);
    [[nodiscard]] std::vector<std::pair<std::string, std::string>> headers() const;

    const Runtime& engine_;
    ServiceOptions options_;
    const Tokenizer& tokenizer_;
    int64_t started_;
    std::unique_ptr<const ChatTemplate> chosen_template_;
    PrefixShelf prefixes_;
    Metrics metrics_;
    std::unique_ptr<SessionStore> store_;
    std::unique_ptr<HttpServer> http_;
    std::unique_ptr<Scheduler> scheduler_;
    std::unique_ptr<WorkerPool> workers_;
    std::atomic<bool> is_draining_ = false;
    std::mutex protocol_mutex_;
    std::list<std::pair<std::string, std::shared_ptr<const ToolProtocol>>> protocols_;
};

}  // namespace palimpsest
