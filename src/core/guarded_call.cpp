#include "core/guarded_call.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill() and SIGKILL are POSIX's
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>  // NOLINT(modernize-deprecated-headers): and clock_getcpuclockid()
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>
#include <utility>

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
constexpr int kLookMs = 100;
constexpr int kMostCopies = 5;

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

enum class Ending { kClosed, kLate, kStuck };

/// Seconds of the processor that a process has used; negative if the system does not say.
double processor_seconds(pid_t process) {
    clockid_t clock{};
    timespec used{};
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &used) != 0) return -1.0;
    return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

/// Says when a process has not run for a while: it waits for what nobody will give it.
class Watch {
 public:
    explicit Watch(pid_t process) : process_(process) {}

    [[nodiscard]] bool is_stuck() {
        const double used = processor_seconds(process_);
        const auto now = Clock::now();
        if (used < 0.0 || used != used_) {
            used_ = used;
            since_ = now;
        }
        return now - since_ >= kIdle;
    }

 private:
    static constexpr auto kIdle = std::chrono::seconds(1);

    pid_t process_;
    double used_ = 0.0;
    Clock::time_point since_ = Clock::now();
};

/// Reads what the process writes until it closes its end, has taken too long or is stuck.
Ending read_all(int fd, pid_t from, int seconds, std::string& text) {
    const auto end = Clock::now() + std::chrono::seconds(seconds);
    Watch watch(from);
    std::array<char, 4096> buffer{};
    while (text.size() <= kMostText && Clock::now() < end) {
        pollfd p = {.fd = fd, .events = POLLIN, .revents = 0};
        if (poll(&p, 1, kLookMs) <= 0) {
            if (watch.is_stuck()) return Ending::kStuck;
            continue;
        }
        const ssize_t n = read(fd, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return Ending::kClosed;
        text.append(buffer.data(), static_cast<size_t>(n));
    }
    return Ending::kLate;
}

/// The processor's limit may come before the clock's.
Ending ending_of(Ending ending, int status) {
    const bool ran_out =
        WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL);
    return ending == Ending::kClosed && ran_out ? Ending::kLate : ending;
}

std::string how_it_ended(int status, Ending ending, const GuardLimits& limits) {
    if (ending == Ending::kStuck) return "waited for what never came";
    if (ending == Ending::kLate) return cat("took more than ", limits.seconds, " s");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
    if (!WIFSIGNALED(status)) return cat("ended with status ", WEXITSTATUS(status));
    return cat("crashed (", strsignal(WTERMSIG(status)), ")");  // NOLINT(concurrency-mt-unsafe)
}

/// A lock that another thread holds at the moment of the copy is never released in the copy. C
/// libraries see to their own; a sanitizer's allocator spins on its.
bool may_be_a_lock(Ending ending) {
    return ending == Ending::kStuck || (kIsSanitized && ending == Ending::kLate);
}

struct Attempt {
    GuardedResult result;
    bool is_worth_another = false;
};

Attempt attempt(const GuardLimits& limits, const std::function<std::string()>& function) {
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
    Attempt made;
    Ending ending = read_all(ends[0], child, limits.seconds, made.result.text);
    close(ends[0]);
    if (ending != Ending::kClosed) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ending = ending_of(ending, status);
    made.result.ended = how_it_ended(status, ending, limits);
    made.is_worth_another = may_be_a_lock(ending);
    return made;
}

}  // namespace

GuardedResult guarded_call(const GuardLimits& limits,
                           const std::function<std::string()>& function) {
    Attempt made = attempt(limits, function);
    for (int copies = 1; made.is_worth_another && copies < kMostCopies; ++copies) {
        made = attempt(limits, function);
    }
    return std::move(made.result);
}

}  // namespace palimpsest
