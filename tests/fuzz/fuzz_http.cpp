// Bytes that are no HTTP, or hardly any: the server answers or closes, and lives.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>

#include "expect.h"
#include "server/http/http_server.h"

namespace {

using namespace palimpsest;

struct Fixture {
    HttpServer server{"127.0.0.1", 0, [] {
                          HttpRules rules;
                          rules.limits = {.body_bytes = 4096,
                                          .header_bytes = 2048,
                                          .header_count = 20,
                                          .connections = 100,
                                          .request_seconds = 1,
                                          .write_seconds = 1,
                                          .queued_bytes = 1 << 20};
                          rules.handle = [](const ExchangePtr& e) {
                              const HttpRequest& r = e->request();
                              if (r.path == "/s") {
                                  e->begin("text/plain");
                                  e->write(r.body);
                                  return e->finish();
                              }
                              e->answer({.body = r.query + r.body});
                          };
                          rules.failure = [](int status, const std::string& why,
                                             std::string_view /*path*/) {
                              return HttpAnswer{.status = status, .body = why};
                          };
                          return rules;
                      }()};
    std::thread io{[this] { server.run(); }};
    ~Fixture() {
        server.stop();
        io.join();
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::unique_ptr<Fixture> kServer = std::make_unique<Fixture>();
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(kServer->server.port()));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
        // Thousands of closed connections hold every port of ours for a minute.
        if (errno != EADDRNOTAVAIL && errno != EINTR) {
            fuzzing::fail(cat("no more connections: ", std::generic_category().message(errno)));
        }
        close(fd);
        usleep(10000);
        return 0;
    }
    static_cast<void>(send(fd, data, size, MSG_NOSIGNAL));
    shutdown(fd, SHUT_WR);
    const timeval most = {.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    std::array<char, 4096> part{};
    ssize_t n = 0;
    do {
        n = recv(fd, part.data(), part.size(), 0);
    } while (n > 0 || (n < 0 && errno == EINTR));  // libFuzzer's own alarm
    if (n != 0 && errno != ECONNRESET) {
        fuzzing::fail(
            cat("a connection is never closed: ", std::generic_category().message(errno)));
    }
    close(fd);
    return 0;
}
