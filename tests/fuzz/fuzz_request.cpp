// Bodies of requests to every route, over a model that speaks nonsense: each is answered or refused
// with a status that clients know, and the next one is served.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "core/digest.h"
#include "core/error.h"
#include "expect.h"
#include "input_file.h"
#include "palimpsest/engine.h"
#include "server/api/routes.h"
#include "server/service.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace {

using namespace palimpsest;

/// Takes an answer, of either form, and has it waited for.
class FakeExchange final : public Exchange {
 public:
    explicit FakeExchange(HttpRequest request) : request_(std::move(request)) {}
    [[nodiscard]] const HttpRequest& request() const override { return request_; }
    void answer(HttpAnswer answer) override { end(answer.status); }
    void begin(std::string /*type*/) override { has_begun_ = true; }
    void write(std::string /*piece*/) override {}
    void finish() override { end(200); }
    [[nodiscard]] bool has_begun() const override { return has_begun_; }
    [[nodiscard]] bool is_gone() const override { return false; }
    void on_gone(std::function<void()> /*then*/) override {}

    int wait() {
        std::unique_lock lock(mutex_);
        fuzzing::expect(
            done_.wait_for(lock, std::chrono::seconds(20), [this] { return status_ != 0; }),
            "a request is never answered");
        return status_;
    }

 private:
    void end(int status) {
        const std::scoped_lock guard(mutex_);
        status_ = status;
        has_begun_ = true;
        done_.notify_all();
    }
    HttpRequest request_;
    std::mutex mutex_;
    std::condition_variable done_;
    std::atomic<bool> has_begun_ = false;
    int status_ = 0;
};

struct Fixture {
    palimpsest::testing::TemporaryFile file{
        palimpsest::testing::speaking_model_bytes({.n_ctx = 300}), ".gguf"};
    Engine engine{{.model = file.path(), .threads = 1, .chunk = 64}};
    Service service{engine.runtime(), [] {
                        ServiceOptions o;
                        o.port = 0;
                        o.memory_bytes = int64_t{16} << 20;
                        o.answer.max_tokens = 2;
                        o.limits.max_tokens = 4;
                        o.limits.choices = 2;
                        return o;
                    }()};
    std::thread io{[this] { service.run(); }};
    ~Fixture() {
        service.stop();
        io.join();
    }
};

std::vector<const Route*> posts() {
    std::vector<const Route*> all;
    for (const Route& r : routes()) {
        if (r.method != "GET" && r.path != "/v1/documents/text") all.push_back(&r);
    }
    return all;
}

/// What a damaged export would never get past: its check sum.
std::string sealed(std::string_view content) {
    Digest sum;
    sum.add(content);
    return cat("palimpsest-session-file 1\n", sum.hex(), "\n", content);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::unique_ptr<Fixture> kServer = std::make_unique<Fixture>();
    static const std::vector<const Route*> kRoutes = posts();
    if (size == 0) return 0;
    const Route& route = *kRoutes[data[0] % kRoutes.size()];
    HttpRequest request;
    request.method = std::string(route.method);
    request.path = std::string(route.path);
    request.body.assign(reinterpret_cast<const char*>(data) + 1, size - 1);
    if (route.path == "/v1/sessions/import") request.body = sealed(request.body);
    const auto exchange = std::make_shared<FakeExchange>(std::move(request));
    Call call = {.exchange = exchange, .params = {"x"}, .style = route.style};
    try {
        route.handle(kServer->service, call);
    } catch (...) {
        call.fail(current_api_error());
    }
    const int status = exchange->wait();
    fuzzing::expect(status >= 200 && status < 504 && status != 500, "a fault of ours");
    return 0;
}
