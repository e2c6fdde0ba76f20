#include "server/http/http_server.h"

#include <poll.h>
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <deque>
#include <mutex>

#include "core/error.h"

namespace palimpsest {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using namespace asio::experimental::awaitable_operators;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
using ErrorCode_ = boost::system::error_code;
template <typename T = void>
using Awaitable = asio::awaitable<T>;
using Request = http::request<http::string_body>;

constexpr auto kLook = std::chrono::milliseconds(250);  // for a client that sends on meanwhile

HttpRequest plain(const Request& r) {
    HttpRequest out;
    out.method = std::string(r.method_string());
    const std::string target(r.target());
    const size_t mark = target.find('?');
    out.path = target.substr(0, mark);
    if (mark != std::string::npos) out.query = target.substr(mark + 1);
    for (const auto& field : r) {
        out.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    }
    return out;
}

/// Of a pending answer; shared by the connection and whoever answers.
class LiveExchange final : public Exchange, public std::enable_shared_from_this<LiveExchange> {
 public:
    LiveExchange(asio::any_io_executor executor, HttpRequest request, int64_t most_queued)
        : executor_(std::move(executor)),
          request_(std::move(request)),
          most_queued_(most_queued),
          wake_(executor_, asio::steady_timer::time_point::max()) {}

    [[nodiscard]] const HttpRequest& request() const override { return request_; }

    void answer(HttpAnswer answer) override {
        if (has_begun_.exchange(true)) return;  // it has one already
        post([answer = std::move(answer)](LiveExchange& self) mutable {
            self.whole_ = std::make_unique<HttpAnswer>(std::move(answer));
            self.is_finished_ = true;
        });
    }
    void begin(std::string content_type) override {
        has_begun_ = true;
        post([type = std::move(content_type)](LiveExchange& self) mutable {
            self.content_type_ = std::move(type);
        });
    }
    void write(std::string piece) override {
        if (piece.empty() || is_gone()) return;
        const auto n = static_cast<int64_t>(piece.size());
        // One piece may be larger; what lies there untaken may not.
        if (queued_.fetch_add(n) > most_queued_) return gone();
        post([piece = std::move(piece)](LiveExchange& self) mutable {
            self.pieces_.push_back(std::move(piece));
        });
    }
    void finish() override {
        post([](LiveExchange& self) { self.is_finished_ = true; });
    }
    [[nodiscard]] bool has_begun() const override { return has_begun_; }
    [[nodiscard]] bool is_gone() const override { return is_gone_; }
    void on_gone(std::function<void()> then) override {
        asio::post(executor_, [self = shared_from_this(), then = std::move(then)]() mutable {
            if (self->is_gone_) return then();
            self->then_ = std::move(then);
        });
    }

    // What follows is for the connection, on its thread.

    void gone() {
        if (is_gone_.exchange(true)) return;
        asio::post(executor_, [self = shared_from_this()] {
            self->wake_.cancel();
            if (auto then = std::exchange(self->then_, {})) then();
        });
    }
    void taken(size_t n) { queued_ -= static_cast<int64_t>(n); }
    /// Until there is something to write, or it is over.
    Awaitable<> wait() {
        while (pieces_.empty() && !is_finished_ && !is_gone_ && !(whole_ || has_type())) {
            co_await wake_.async_wait(kAwait);
        }
    }
    Awaitable<> wait_for_more() {
        while (pieces_.empty() && !is_finished_ && !is_gone_) co_await wake_.async_wait(kAwait);
    }
    [[nodiscard]] bool has_type() const { return !content_type_.empty(); }
    [[nodiscard]] bool overrun() const { return queued_ > most_queued_; }
    [[nodiscard]] bool is_finished() const { return is_finished_ && pieces_.empty(); }

    std::unique_ptr<HttpAnswer> whole_;
    std::string content_type_;
    std::deque<std::string> pieces_;

 private:
    template <typename Do>
    void post(Do what) {
        asio::post(executor_, [self = shared_from_this(), what = std::move(what)]() mutable {
            what(*self);
            self->wake_.cancel();
        });
    }

    asio::any_io_executor executor_;
    HttpRequest request_;
    int64_t most_queued_;
    asio::steady_timer wake_;
    bool is_finished_ = false;
    std::function<void()> then_;
    std::atomic<bool> is_gone_ = false, has_begun_ = false;
    std::atomic<int64_t> queued_ = 0;
};

/// Has the other side closed, whatever it sent before?
bool is_closed(tcp::socket& socket) {
    pollfd look = {.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
    return ::poll(&look, 1, 0) > 0 &&
           (look.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace

struct HttpServer::Parts {
    asio::io_context context{1};
    tcp::acceptor acceptor{context};
    HttpRules rules;
    std::atomic<int64_t> n_connections = 0, n_answering = 0;
    int64_t body_bytes = 0;  // of all requests that are there
    std::atomic<bool> is_draining = false;

    class Connection;
    Awaitable<> listen();
};

/// One client.
class HttpServer::Parts::Connection {
 public:
    Connection(Parts& parts, tcp::socket socket) : parts_(parts), stream_(std::move(socket)) {
        ++parts_.n_connections;
    }
    ~Connection() { --parts_.n_connections; }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    static Awaitable<> serve(std::shared_ptr<Connection> self) { co_await self->run(); }

 private:
    using Parser = http::request_parser<http::string_body>;

    /// Bytes that count as long as it lives.
    class Taken {
     public:
        Taken(int64_t& of, int64_t n) : of_(of), n_(n) { of_ += n_; }
        ~Taken() { of_ -= n_; }
        Taken(const Taken&) = delete;
        Taken& operator=(const Taken&) = delete;

     private:
        int64_t& of_;
        int64_t n_;
    };

    [[nodiscard]] const HttpLimits& limits() const { return parts_.rules.limits; }

    void deadline(int64_t seconds) { stream_.expires_after(std::chrono::seconds(seconds)); }

    Awaitable<> run() {
        while (!parts_.is_draining) {
            if (!co_await one_request()) break;
        }
        ErrorCode_ ignored;
        stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    }

    /// True: another one may follow.
    Awaitable<bool> one_request() {
        Parser parser;
        parser.header_limit(static_cast<uint32_t>(limits().header_bytes));
        body_bytes_ = limits().body_bytes;
        parser.body_limit(static_cast<uint64_t>(body_bytes_));
        // What a header claims is looked at once it is known whereto it goes.
        if (parts_.rules.body_bytes) parser.body_limit(boost::none);
        deadline(limits().request_seconds);
        auto [failed, n] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
        path_ = std::string(parser.get().target());
        path_.resize(std::min(path_.find('?'), path_.size()));
        if (failed) co_return co_await refuse(failed);
        if (parts_.rules.body_bytes) {
            body_bytes_ = parts_.rules.body_bytes(path_);
            const auto n_body = parser.content_length();
            if (n_body && *n_body > static_cast<uint64_t>(body_bytes_)) {
                co_return co_await refuse(http::error::body_limit);
            }
            parser.body_limit(static_cast<uint64_t>(body_bytes_));
        }
        if (std::distance(parser.get().begin(), parser.get().end()) > limits().header_count) {
            co_return co_await fail(431, cat("more than ", limits().header_count, " headers"));
        }
        HttpRequest request = plain(parser.get());
        HttpAnswer refusal;
        if (parts_.rules.refuses && parts_.rules.refuses(request, refusal)) {
            co_await write_whole(refusal, parser.get().version(), false, request.method == "HEAD");
            co_return co_await drained();
        }
        if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
            static constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
            co_await asio::async_write(stream_, asio::buffer(kGoOn), kAwait);
        }
        const auto claimed = static_cast<int64_t>(parser.content_length().value_or(0));
        if (parts_.body_bytes + claimed > limits().all_body_bytes) {
            co_return co_await fail(503, "too much is being sent here at once; try again later");
        }
        const Taken taken(parts_.body_bytes, claimed);
        std::tie(failed, n) = co_await http::async_read(stream_, buffer_, parser, kAwait);
        if (failed) co_return co_await refuse(failed);
        request.body = std::move(parser.get().body());
        const bool goes_on = parser.get().keep_alive() && !parts_.is_draining;
        const unsigned version = parser.get().version();
        const bool is_head = request.method == "HEAD";
        exchange_ = std::make_shared<LiveExchange>(stream_.get_executor(), std::move(request),
                                                   limits().queued_bytes);
        parts_.rules.handle(exchange_);
        stream_.expires_never();
        ++parts_.n_answering;
        co_await (write(version, goes_on, is_head) || watch());
        --parts_.n_answering;
        const bool is_over = exchange_->is_gone() || version < 11;
        exchange_->gone();
        exchange_.reset();
        co_return goes_on && !is_over;
    }

    /// Looks for a client that goes.
    Awaitable<> watch() {
        asio::steady_timer pause(stream_.get_executor());
        while (true) {
            auto [failed] = co_await stream_.socket().async_wait(tcp::socket::wait_read, kAwait);
            if (failed == asio::error::operation_aborted) co_return;
            if (failed || is_closed(stream_.socket())) break;
            // It has sent more, which is kept for later.
            pause.expires_after(kLook);
            co_await pause.async_wait(kAwait);
            if ((co_await asio::this_coro::cancellation_state).cancelled() !=
                asio::cancellation_type::none) {
                co_return;
            }
        }
        exchange_->gone();
        // Half closed, it may still take what is queued.
        pause.expires_after(std::chrono::seconds(limits().write_seconds));
        co_await pause.async_wait(kAwait);
    }

    Awaitable<> write(unsigned version, bool goes_on, bool is_head) {
        LiveExchange& e = *exchange_;
        co_await e.wait();
        if (e.overrun()) co_return;
        if (e.whole_) {
            co_await write_whole(*e.whole_, version, goes_on, is_head);
            co_return;
        }
        if (!e.has_type()) co_return;
        const bool is_chunked = version >= 11;
        http::response<http::empty_body> head(http::status::ok, version);
        head.set(http::field::content_type, e.content_type_);
        head.set(http::field::cache_control, "no-store");
        head.set("X-Content-Type-Options", "nosniff");
        for (const auto& [name, value] : parts_.rules.headers) head.set(name, value);
        if (is_chunked) head.chunked(true);
        head.keep_alive(goes_on && is_chunked);
        http::response_serializer<http::empty_body> serializer(head);
        deadline(limits().write_seconds);
        auto [failed, n] = co_await http::async_write_header(stream_, serializer, kAwait);
        while (!failed) {
            co_await e.wait_for_more();
            if (e.overrun() || e.pieces_.empty()) break;
            std::string piece = std::move(e.pieces_.front());
            e.pieces_.pop_front();
            failed = co_await write_piece(piece, is_chunked);
            e.taken(piece.size());
        }
        if (!failed && !e.overrun() && is_chunked) {
            deadline(limits().write_seconds);
            co_await asio::async_write(stream_, http::make_chunk_last(), kAwait);
        }
        if (failed) e.gone();
        stream_.expires_never();
    }

    /// In parts, each of which must be taken within the time.
    Awaitable<ErrorCode_> write_piece(std::string_view piece, bool is_chunked) {
        constexpr size_t kPart = 64 * 1024;
        ErrorCode_ error;
        while (!piece.empty() && !error) {
            const std::string_view part = piece.substr(0, kPart);
            piece.remove_prefix(part.size());
            deadline(limits().write_seconds);
            if (is_chunked) {
                auto [failed, n] = co_await asio::async_write(
                    stream_, http::make_chunk(asio::buffer(part)), kAwait);
                error = failed;
            } else {
                auto [failed, n] = co_await asio::async_write(stream_, asio::buffer(part), kAwait);
                error = failed;
            }
        }
        co_return error;
    }

    Awaitable<> write_whole(const HttpAnswer& answer, unsigned version, bool goes_on,
                            bool is_head) {
        http::response<http::empty_body> head(
            http::int_to_status(static_cast<unsigned>(answer.status)), version);
        head.result(static_cast<unsigned>(answer.status));
        head.set(http::field::content_type, answer.content_type);
        head.set("X-Content-Type-Options", "nosniff");
        for (const auto& [name, value] : parts_.rules.headers) head.set(name, value);
        for (const auto& [name, value] : answer.headers) head.set(name, value);
        head.content_length(answer.body.size());
        head.keep_alive(goes_on);
        http::response_serializer<http::empty_body> serializer(head);
        deadline(limits().write_seconds);
        auto [failed, n] = co_await http::async_write_header(stream_, serializer, kAwait);
        if (!failed && !is_head) co_await write_piece(answer.body, false);
        stream_.expires_never();
    }

    Awaitable<bool> fail(int status, const std::string& why) {
        co_await write_whole(parts_.rules.failure(status, why, path_), 11, false, false);
        co_return co_await drained();
    }

    Awaitable<bool> refuse(ErrorCode_ error) {
        if (error == http::error::body_limit) {
            co_return co_await fail(413, cat("the body has more than ", body_bytes_, " bytes"));
        }
        if (error == http::error::header_limit) {
            co_return co_await fail(
                431, cat("the headers have more than ", limits().header_bytes, " bytes"));
        }
        const bool is_ours =
            error.category() == http::make_error_code(http::error::bad_field).category();
        if (is_ours && error != http::error::end_of_stream &&
            error != http::error::partial_message) {
            co_return co_await fail(400, cat("this is no HTTP request: ", error.message()));
        }
        co_return false;
    }

    /// A client that is still sending would not see the answer if the connection were just cut:
    /// takes some of what comes, and throws it away.
    Awaitable<bool> drained() {
        ErrorCode_ ignored;
        stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
        std::string waste(64 * 1024, '\0');
        deadline(2);
        for (int64_t total = 0; total < body_bytes_;) {
            auto [failed, n] = co_await stream_.async_read_some(asio::buffer(waste), kAwait);
            if (failed) break;
            total += static_cast<int64_t>(n);
        }
        co_return false;
    }

    Parts& parts_;
    beast::tcp_stream stream_;
    beast::flat_buffer buffer_;
    std::shared_ptr<LiveExchange> exchange_;
    std::string path_;
    int64_t body_bytes_ = 0;
};

Awaitable<> HttpServer::Parts::listen() {
    asio::steady_timer pause(context);
    while (!is_draining) {
        auto [failed, socket] = co_await acceptor.async_accept(kAwait);
        if (failed == asio::error::operation_aborted) co_return;
        if (failed) {  // no descriptors, say
            pause.expires_after(std::chrono::milliseconds(100));
            co_await pause.async_wait(kAwait);
            continue;
        }
        if (n_connections >= rules.limits.connections) continue;  // closed again
        ErrorCode_ ignored;
        socket.set_option(tcp::no_delay(true), ignored);
        asio::co_spawn(context,
                       Connection::serve(std::make_shared<Connection>(*this, std::move(socket))),
                       asio::detached);
    }
}

HttpServer::HttpServer(const std::string& host, int port, HttpRules rules)
    : parts_(std::make_unique<Parts>()) {
    parts_->rules = std::move(rules);
    ErrorCode_ error;
    const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
    require(!error, "'", host, "' is no address to listen on; name one, such as 127.0.0.1 or ::1, ",
            "or 0.0.0.0 for every interface");
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(port));
    const auto step = [&](auto&& what) {
        if (!error) static_cast<void>(what());
    };
    tcp::acceptor& a = parts_->acceptor;
    step([&] { return a.open(endpoint.protocol(), error); });
    step([&] { return a.set_option(asio::socket_base::reuse_address(true), error); });
    step([&] { return a.bind(endpoint, error); });
    step([&] { return a.listen(asio::socket_base::max_listen_connections, error); });
    if (error) {
        throw Error(palimpsest::ErrorCode::kUnsupported,
                    cat("cannot listen on ", host, ":", port, ": ", error.message(),
                        "; choose another port (--port), or end what listens there"));
    }
    asio::co_spawn(parts_->context, parts_->listen(), asio::detached);
}

HttpServer::~HttpServer() = default;

int HttpServer::port() const { return parts_->acceptor.local_endpoint().port(); }

void HttpServer::run() {
    while (true) {
        try {
            parts_->context.run();
            return;
        } catch (const std::exception&) {
            // Of one client, for whom there was no memory: it loses its connection, the rest goes
            // on.
        }
    }
}

void HttpServer::drain() {
    parts_->is_draining = true;
    asio::post(parts_->context, [this] {
        ErrorCode_ ignored;
        parts_->acceptor.close(ignored);
    });
}

void HttpServer::stop() { parts_->context.stop(); }

void HttpServer::post(std::function<void()> task) { asio::post(parts_->context, std::move(task)); }

void HttpServer::post_after(double seconds, std::function<void()> task) {
    auto timer = std::make_shared<asio::steady_timer>(parts_->context);
    timer->expires_after(std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6)));
    timer->async_wait([timer, task = std::move(task)](ErrorCode_ failed) {
        if (!failed) task();
    });
}

int64_t HttpServer::n_connections() const { return parts_->n_connections; }
int64_t HttpServer::n_answering() const { return parts_->n_answering; }

std::string_view HttpRequest::header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
        if (key.size() == name.size() && strncasecmp(key.data(), name.data(), name.size()) == 0) {
            return value;
        }
    }
    return {};
}

}  // namespace palimpsest
