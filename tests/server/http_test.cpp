// What clients do to a server that well-behaved ones never do.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "server/http/http_server.h"
#include "support/golden.h"
#include "support/http_client.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

using testing::http_request;
using testing::RawClient;
using namespace std::chrono_literals;

class Http : public ::testing::Test {
 protected:
    Http() {
        HttpRules rules;
        rules.limits = {.body_bytes = 4096,
                        .header_bytes = 2048,
                        .header_count = 20,
                        .connections = 50,
                        .request_seconds = 1,
                        .write_seconds = 1,
                        .queued_bytes = 1 << 20};
        rules.refuses = [](const HttpRequest& r, HttpAnswer& a) {
            if (r.path != "/no") return false;
            a = {.status = 401, .body = "no"};
            return true;
        };
        rules.handle = [this](const ExchangePtr& e) { handle(e); };
        rules.failure = [](int status, const std::string& why, std::string_view /*path*/) {
            return HttpAnswer{.status = status, .body = why};
        };
        server = std::make_unique<HttpServer>("127.0.0.1", 0, std::move(rules));
        thread = std::thread([this] { server->run(); });
    }
    ~Http() override {
        server->stop();
        thread.join();
    }

    void handle(const ExchangePtr& e) {
        if (e->request().path == "/echo") {
            return e->answer({.body = cat(e->request().method, " ", e->request().query, " ",
                                          e->request().body)});
        }
        {
            const std::scoped_lock guard(mutex);
            kept = e;
        }
        e->on_gone([this] { ++n_gone; });
        if (e->request().path == "/stream") {
            e->begin("text/plain");
            e->write("first");
        }
    }

    /// The request that waits for its answer, once it is there.
    ExchangePtr held() {
        while (true) {
            {
                const std::scoped_lock guard(mutex);
                if (kept != nullptr) return kept;
            }
            std::this_thread::sleep_for(1ms);
        }
    }
    [[nodiscard]] int port() const { return server->port(); }
    [[nodiscard]] bool is_gone_within(std::chrono::milliseconds time) const {
        const auto end = std::chrono::steady_clock::now() + time;
        while (n_gone == 0 && std::chrono::steady_clock::now() < end) {
            std::this_thread::sleep_for(5ms);
        }
        return n_gone > 0;
    }

    std::unique_ptr<HttpServer> server;
    std::thread thread;
    std::mutex mutex;
    ExchangePtr kept;
    std::atomic<int> n_gone = 0;
};

constexpr const char* kGet = "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n";

TEST_F(Http, AnswersRequestAfterRequestOnOneConnection) {
    RawClient client(port());
    for (int i = 0; i < 3; ++i) {
        client.send("POST /echo?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        EXPECT_TRUE(client.read_until("POST q=1 abc").ends_with("POST q=1 abc"));
    }
    // Several at once.
    client.send(std::string(kGet) + kGet + kGet);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(client.read_until("GET  ").ends_with("GET  "));
}

TEST_F(Http, BytesThatCameDuringAnAnswerAreKept) {
    RawClient client(port());
    client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    client.read_until("first");
    client.send(kGet);
    std::this_thread::sleep_for(400ms);
    EXPECT_EQ(n_gone, 0);
    held()->write("second");
    held()->finish();
    client.read_until("second");
    EXPECT_TRUE(client.read_until("GET  ").ends_with("GET  "));
}

TEST_F(Http, LimitsAreSaid) {
    EXPECT_EQ(http_request(port(), "POST", "/echo", std::string(5000, 'x')).status, 413);
    EXPECT_EQ(http_request(port(), "POST", "/echo", std::string(4096, 'x')).status, 200);
    EXPECT_EQ(
        http_request(port(), "GET", "/echo", "", "A: " + std::string(4000, 'x') + "\r\n").status,
        431);
    std::string many;
    for (int i = 0; i < 30; ++i) many += "A: b\r\n";
    EXPECT_EQ(http_request(port(), "GET", "/echo", "", many).status, 431);
    EXPECT_EQ(http_request(port(), "GET", "/no").status, 401);
    // A body that claims to be large is refused before it comes.
    RawClient client(port());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n");
    EXPECT_NE(client.read_until("\r\n").find("413"), std::string::npos);
}

TEST_F(Http, WhatIsNoRequestIsRefused) {
    for (const char* bytes :
         {"HELLO\r\n\r\n", "GET /echo HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\r\n\r\n",
          "GET /echo HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
          "GET /echo HTTP/1.1\r\nbad header\r\n\r\n",
          "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
        RawClient client(port());
        client.send(bytes);
        EXPECT_NE(client.read_until("\r\n").find(" 400 "), std::string::npos) << bytes;
    }
    EXPECT_EQ(http_request(port(), "GET", "/echo").status, 200);
}

TEST_F(Http, SlowRequestsEndAtTheDeadline) {
    RawClient client(port());
    const auto start = std::chrono::steady_clock::now();
    client.send("GET /echo HTTP/1.1\r\n");
    for (int i = 0; i < 30 && client.send("A: b\r\n"); ++i) std::this_thread::sleep_for(100ms);
    client.read_all(5);
    EXPECT_TRUE(client.is_closed());
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(Http, AClientThatGoesIsNoticed) {
    {
        RawClient client(port());
        client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
        client.read_until("first");
    }
    EXPECT_TRUE(is_gone_within(1s));
    held()->write("nobody reads this");
    held()->finish();
}

TEST_F(Http, AHalfClosedClientGetsWhatIsQueued) {
    RawClient client(port());
    client.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    std::this_thread::sleep_for(100ms);
    held()->begin("text/plain");
    held()->write("all of it");
    client.half_close();
    EXPECT_NE(client.read_until("all of it", 3).find("all of it"), std::string::npos);
    EXPECT_TRUE(is_gone_within(1s));
}

TEST_F(Http, AClientThatStopsReadingLosesItsAnswer) {
    RawClient client(port());
    client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    client.read_until("first");
    for (int i = 0; i < 200 && !held()->is_gone(); ++i) held()->write(std::string(1 << 16, 'x'));
    EXPECT_TRUE(is_gone_within(3s));
}

TEST_F(Http, HeadHasNoBody) {
    const auto reply = http_request(port(), "HEAD", "/echo");
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.body, "");
}

TEST_F(Http, TooManyConnectionsAreTurnedAway) {
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 60; ++i) clients.push_back(std::make_unique<RawClient>(port()));
    std::this_thread::sleep_for(100ms);
    EXPECT_LE(server->n_connections(), 50);
    clients.clear();
    std::this_thread::sleep_for(200ms);
    EXPECT_EQ(http_request(port(), "GET", "/echo").status, 200);
}

TEST(HttpAddress, WhatCannotBeListenedOnIsSaid) {
    EXPECT_EQ(testing::code_of([] { HttpServer("nowhere", 0, {}); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(testing::code_of([] { HttpServer("192.0.2.1", 0, {}); }), ErrorCode::kUnsupported);
    HttpServer first("127.0.0.1", 0, {});
    EXPECT_EQ(testing::code_of([&] { HttpServer("127.0.0.1", first.port(), {}); }),
              ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace palimpsest
