#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/exchange.h"

namespace palimpsest {

struct HttpLimits {
    int64_t body_bytes = 0, header_bytes = 0, header_count = 0;
    int64_t connections = 0;                    // at once
    int64_t all_body_bytes = int64_t{1} << 40;  // of all requests that are there
    int64_t request_seconds = 0;                // for a request to come, waiting for it included
    int64_t write_seconds = 0;                  // for a client to take any of what is written
    int64_t queued_bytes = 0;                   // written, and not yet taken by the client
};

/// What stands in front of requests.
struct HttpRules {
    HttpLimits limits = {};
    /// Looked at before a body is read: an answer instead of one. Of its request the body is empty.
    std::function<bool(const HttpRequest&, HttpAnswer&)> refuses = {};
    /// Takes a request, and returns soon. Called on the thread of input and output.
    std::function<void(ExchangePtr)> handle = {};
    /// What is answered where a request is none, or beyond a limit.
    std::function<HttpAnswer(int status, const std::string& why, std::string_view path)> failure =
        {};
    /// Bytes that a body may have at a path; none given: the limit's.
    std::function<int64_t(std::string_view path)> body_bytes = {};
    /// Of every answer, beside its own.
    std::vector<std::pair<std::string, std::string>> headers = {};
};

/// HTTP/1.1 on one thread: the caller's, in run(). Every connection has deadlines, and is read
/// while it is answered, so that a client that goes is noticed within a second.
class HttpServer {
 public:
    /// Listens. `port` 0: any that is free. Throws kInvalidArgument for an address that is none,
    /// kUnsupported, with the reason, for one that cannot be listened on.
    HttpServer(const std::string& host, int port, HttpRules rules);
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    [[nodiscard]] int port() const;

    /// Until stop().
    void run();
    /// From any thread: accepts no more connections, and no more requests on those there are.
    void drain();
    /// From any thread: ends run(), and every connection.
    void stop();
    /// From any thread: has something done on the thread of run(), now or after some time.
    void post(std::function<void()> task);
    void post_after(double seconds, std::function<void()> task);

    [[nodiscard]] int64_t n_connections() const;
    /// Requests that are there and not answered to the end.
    [[nodiscard]] int64_t n_answering() const;

 private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace palimpsest
