#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace palimpsest {

/// A request, whole.
struct HttpRequest {
    std::string method, path, query;  // path: as sent, without the query
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;

    /// A header's first value, by its name in any case; empty: there is none.
    [[nodiscard]] std::string_view header(std::string_view name) const;
};

/// An answer that is whole from the start.
struct HttpAnswer {
    int status = 200;
    std::string body = {};
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers = {};
};

/// One request and its answer, on its way. Everything may be called from any thread; what is
/// written after the client has gone is dropped.
class Exchange {
 public:
    Exchange() = default;
    virtual ~Exchange() = default;
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    [[nodiscard]] virtual const HttpRequest& request() const = 0;

    /// Answers at once. Once an exchange, and not after begin().
    virtual void answer(HttpAnswer answer) = 0;
    /// Answers piece by piece: begin(), any number of write(), finish().
    virtual void begin(std::string content_type) = 0;
    virtual void write(std::string piece) = 0;
    virtual void finish() = 0;

    /// Has it begun to answer?
    [[nodiscard]] virtual bool has_begun() const = 0;
    /// Has the client gone, or stopped reading what is written?
    [[nodiscard]] virtual bool is_gone() const = 0;
    /// What happens when it does; at once if it has. Called on the thread of input and output.
    virtual void on_gone(std::function<void()> then) = 0;
};

using ExchangePtr = std::shared_ptr<Exchange>;

}  // namespace palimpsest
