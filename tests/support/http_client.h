#pragma once

#include <string>
#include <string_view>

namespace palimpsest::testing {

/// A connection to a server on this machine, byte by byte: for what well-behaved clients never do.
class RawClient {
 public:
    explicit RawClient(int port);
    ~RawClient();
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    /// False once the other side has closed.
    bool send(std::string_view bytes);
    /// What comes until `mark` has come, the other side closes, or some seconds have passed.
    std::string read_until(std::string_view mark, double seconds = 10);
    /// Everything until the other side closes.
    std::string read_all(double seconds = 10) { return read_until("", seconds); }
    /// Says that nothing more will be sent.
    void half_close();
    [[nodiscard]] bool is_closed() const { return is_closed_; }

 private:
    int fd_ = -1;
    bool is_closed_ = false;
    std::string rest_;
};

struct HttpReply {
    int status = 0;
    std::string head, body;
};

/// One request on a connection of its own. `headers`: whole lines, each with its line break.
HttpReply http_request(int port, std::string_view method, std::string_view path,
                       std::string_view body = {}, std::string_view headers = {});

}  // namespace palimpsest::testing
