#include "server/pdf_text.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "server/api_error.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr int kSeconds = 60;
constexpr rlim_t kMostMemory = rlim_t{2} << 30U;
constexpr size_t kMostText = size_t{64} << 20U;

/// Where it is; empty: nowhere.
std::string program() {
    const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): nobody changes it
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string file = folder + "/pdftotext";
        if (!folder.empty() && access(file.c_str(), X_OK) == 0) return file;
    }
    return "";
}

/// A descriptor, closed at the end.
class Descriptor {
 public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() { reset(); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    [[nodiscard]] int get() const { return fd_; }
    void reset() {
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
    }

 private:
    int fd_;
};

[[noreturn]] void refuse(const std::string& why) {
    throw ApiError(400, cat("the PDF cannot be read: ", why));
}

}  // namespace

bool has_pdf_text() { return !program().empty(); }

std::string pdf_text(const std::string& pdf) {
    if (!pdf.starts_with("%PDF-")) refuse("it is none");
    const std::string tool = program();
    // A file without a name: nothing of it stays.
    Descriptor file(memfd_create("document", MFD_CLOEXEC));
    for (size_t at = 0; at < pdf.size();) {
        const ssize_t n = write(file.get(), pdf.data() + at, pdf.size() - at);
        if (n <= 0) throw ApiError(503, "there is no memory for this document now");
        at += static_cast<size_t>(n);
    }
    lseek(file.get(), 0, SEEK_SET);
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw ApiError(503, "too many files are open");
    Descriptor from(ends[0]);
    Descriptor to(ends[1]);
    const pid_t child = fork();
    if (child < 0) throw ApiError(503, "there is no room for another process");
    if (child == 0) {
        // Only calls that are safe after a fork.
        dup2(file.get(), STDIN_FILENO);
        dup2(to.get(), STDOUT_FILENO);
        const rlimit memory = {kMostMemory, kMostMemory};
        setrlimit(RLIMIT_AS, &memory);
        const rlimit seconds = {kSeconds, kSeconds};
        setrlimit(RLIMIT_CPU, &seconds);
        std::signal(SIGPIPE, SIG_DFL);
        execl(tool.c_str(), "pdftotext", "-q", "-layout", "-enc", "UTF-8", "-", "-",
              static_cast<char*>(nullptr));
        _exit(127);
    }
    to.reset();
    std::string text;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(kSeconds);
    bool is_whole = false;
    std::array<char, 1 << 16> part{};
    while (text.size() < kMostText && std::chrono::steady_clock::now() < end) {
        pollfd look = {.fd = from.get(), .events = POLLIN, .revents = 0};
        if (poll(&look, 1, 1000) <= 0) continue;
        const ssize_t n = read(from.get(), part.data(), part.size());
        if (n == 0) is_whole = true;
        if (n <= 0) break;
        text.append(part.data(), static_cast<size_t>(n));
    }
    if (!is_whole) kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (!is_whole)
        refuse(cat("it takes more than ", kSeconds, " s, or has more than ", kMostText >> 20U,
                   " MiB of text"));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) refuse("pdftotext makes nothing of it");
    return replace_invalid_utf8(text);
}

}  // namespace palimpsest
