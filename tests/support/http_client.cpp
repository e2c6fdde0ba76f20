#include "support/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <stdexcept>

#include "core/error.h"

namespace palimpsest::testing {

RawClient::RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
        throw std::runtime_error("cannot connect");
    }
}

RawClient::~RawClient() { close(fd_); }

bool RawClient::send(std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n <= 0) return false;
        bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
}

std::string RawClient::read_until(std::string_view mark, double seconds) {
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
    while (mark.empty() || rest_.find(mark) == std::string::npos) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            end - std::chrono::steady_clock::now());
        if (left.count() <= 0) break;
        pollfd look = {.fd = fd_, .events = POLLIN, .revents = 0};
        if (poll(&look, 1, static_cast<int>(left.count())) <= 0) break;
        std::array<char, 65536> part{};
        const ssize_t n = recv(fd_, part.data(), part.size(), 0);
        if (n <= 0) {
            is_closed_ = true;
            break;
        }
        rest_.append(part.data(), static_cast<size_t>(n));
    }
    const size_t at = mark.empty() ? std::string::npos : rest_.find(mark);
    const size_t n = at == std::string::npos ? rest_.size() : at + mark.size();
    std::string out = rest_.substr(0, n);
    rest_.erase(0, n);
    return out;
}

void RawClient::half_close() { shutdown(fd_, SHUT_WR); }

HttpReply http_request(int port, std::string_view method, std::string_view path,
                       std::string_view body, std::string_view headers) {
    RawClient client(port);
    client.send(cat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
                    "Content-Length: ", body.size(), "\r\n", headers, "\r\n"));
    client.send(body);
    const std::string all = client.read_all(60);
    HttpReply reply;
    const size_t end = all.find("\r\n\r\n");
    if (all.size() < 12 || end == std::string::npos) return reply;
    reply.status = std::stoi(all.substr(9, 3));
    reply.head = all.substr(0, end + 2);
    reply.body = all.substr(end + 4);
    return reply;
}

}  // namespace palimpsest::testing
