#include "core/guarded_call.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill() and SIGKILL are POSIX's
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>

#include "core/error.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

// Sanitizers reserve address space by the terabyte.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PALIMPSEST_IS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    defined(PALIMPSEST_IS_SANITIZED)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

constexpr size_t kMostText = size_t{16} << 20U;

/// Bytes of address space in use; 0 if the system does not say.
size_t address_space() {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void limit(decltype(RLIMIT_CPU) what, rlim_t to) {
    const rlimit limits = {.rlim_cur = to, .rlim_max = to};
    setrlimit(what, &limits);
}

void write_all(int fd, const std::string& text) {
    for (size_t at = 0; at < text.size();) {
        const ssize_t n = write(fd, text.data() + at, text.size() - at);
        if (n <= 0) return;
        at += static_cast<size_t>(n);
    }
}

[[noreturn]] void run_child(int fd, const GuardLimits& limits,
                            const std::function<std::string()>& function) {
    // No traces of an end that is expected: neither a core nor a sanitizer's or handler's words.
    for (const int s : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) signal(s, SIG_DFL);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, static_cast<rlim_t>(limits.seconds));
    const size_t now = address_space();
    if (!kIsSanitized && now > 0) limit(RLIMIT_AS, now + limits.bytes);
    std::string text;
    try {
        text = function();
    } catch (const std::bad_alloc&) {
        text = cat("it takes more than ", limits.bytes, " bytes of memory");
    } catch (const std::exception& e) {
        text = e.what();
    }
    write_all(fd, text);
    _exit(0);
}

/// Reads until the other end is closed, `most` bytes are there or `end` has come; true: closed.
bool read_all(int fd, Clock::time_point end, std::string& text) {
    std::array<char, 4096> buffer{};
    while (text.size() <= kMostText) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
        pollfd p = {.fd = fd, .events = POLLIN, .revents = 0};
        if (left.count() <= 0) return false;
        if (poll(&p, 1, static_cast<int>(left.count())) <= 0) continue;
        const ssize_t n = read(fd, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return true;
        text.append(buffer.data(), static_cast<size_t>(n));
    }
    return false;
}

std::string how_it_ended(int status, bool in_time, const GuardLimits& limits) {
    const std::string too_long = cat("took more than ", limits.seconds, " s");
    if (!in_time) return too_long;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
    if (!WIFSIGNALED(status)) return cat("ended with status ", WEXITSTATUS(status));
    if (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL) return too_long;
    return cat("crashed (", strsignal(WTERMSIG(status)), ")");  // NOLINT(concurrency-mt-unsafe)
}

}  // namespace

GuardedResult guarded_call(const GuardLimits& limits,
                           const std::function<std::string()>& function) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        throw Error(ErrorCode::kExhausted, cat("no pipe: ", std::strerror(errno)));
    }
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        run_child(ends[1], limits, function);
    }
    close(ends[1]);
    if (child < 0) {
        const int why = errno;
        close(ends[0]);
        throw Error(ErrorCode::kExhausted, cat("no process: ", std::strerror(why)));
    }
    GuardedResult result;
    const bool in_time =
        read_all(ends[0], Clock::now() + std::chrono::seconds(limits.seconds), result.text);
    close(ends[0]);
    if (!in_time) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    result.ended = how_it_ended(status, in_time, limits);
    return result;
}

}  // namespace palimpsest
