#include "support/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "support/golden.h"

namespace palimpsest::testing {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

int opened(const std::string& path, int flags) { return open(path.c_str(), flags, 0600); }

/// The far end of a new terminal.
int quiet_terminal() {
    const int fd = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(fd);
    unlockpt(fd);
    return fd;
}

/// In the child: puts the descriptors in place and becomes the program.
[[noreturn]] void become_program(const std::vector<std::string>& arguments, int in, int out,
                                 int err, const ProgramOptions& options) {
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    if (options.address_space > 0) {
        const rlimit limit = {options.address_space, options.address_space};
        setrlimit(RLIMIT_AS, &limit);
    }
    if (!options.folder.empty() && chdir(options.folder.c_str()) != 0) _exit(126);
    signal(SIGINT, SIG_DFL);  // which is ignored if the tests run in the background of a script
    for (const std::string& e : options.environment) {
        putenv(strdup(e.c_str()));  // NOLINT(concurrency-mt-unsafe): a child has one thread
    }
    std::vector<char*> argv;
    std::string program = PALIMPSEST_PROGRAM;
    argv.push_back(program.data());
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
}

int wait_for(pid_t child, const ProgramOptions& options, const std::string& messages,
             Clock::time_point start) {
    bool interrupted = options.interrupt_after_s <= 0 && options.interrupt_at.empty();
    const auto is_time = [&] {
        if (options.interrupt_at.empty()) return seconds_since(start) > options.interrupt_after_s;
        return read_text(messages).find(options.interrupt_at) != std::string::npos;
    };
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        if (!interrupted && is_time()) {
            interrupted = true;
            kill(child, SIGINT);
        }
        if (seconds_since(start) > options.timeout_s) kill(child, SIGKILL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

ProgramResult run_palimpsest(const std::vector<std::string>& arguments,
                             const ProgramOptions& options) {
    // Files, not pipes: nothing can fill up and block.
    const TemporaryFile input(options.input);
    const TemporaryFile output("");
    const TemporaryFile messages("");
    const std::string out_path = options.out_path.empty() ? output.path() : options.out_path;
    int closed[2] = {-1, -1};
    if (options.out_closed && pipe(closed) != 0) return {};
    if (options.out_closed) close(closed[0]);
    const int terminal = options.in_is_terminal ? quiet_terminal() : -1;
    const int in = options.in_is_terminal ? opened(ptsname(terminal), O_RDWR | O_NOCTTY)
                                          : opened(input.path(), O_RDONLY);
    const int out = options.out_closed ? closed[1] : opened(out_path, O_WRONLY);
    const int err = opened(messages.path(), O_WRONLY);
    const auto start = Clock::now();
    const pid_t child = fork();
    if (child == 0) become_program(arguments, in, out, err, options);
    for (const int fd : {in, out, err}) close(fd);
    ProgramResult result;
    result.status = wait_for(child, options, messages.path(), start);
    if (terminal >= 0) close(terminal);
    result.wall_s = seconds_since(start);
    result.out = read_text(output.path());
    result.err = read_text(messages.path());
    return result;
}

int run_at_terminal(const std::vector<std::string>& arguments, const std::string& locale,
                    const std::vector<std::string>& typed) {
    int terminal = -1;
    const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
    if (child == 0) {
        const ProgramOptions options = {.environment = {"LC_ALL=" + locale, "LC_CTYPE=" + locale,
                                                        "LANG=" + locale, "TERM=dumb"}};
        become_program(arguments, STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, options);
    }
    std::string shown;
    const auto start = Clock::now();
    size_t next = 0;
    size_t seen = 0;
    constexpr double kLongest = 60;
    while (seconds_since(start) < kLongest) {
        pollfd wait = {.fd = terminal, .events = POLLIN, .revents = 0};
        if (poll(&wait, 1, 100) > 0) {
            std::array<char, 4096> part{};
            const ssize_t n = read(terminal, part.data(), part.size());
            if (n <= 0) break;  // it has gone
            shown.append(part.data(), static_cast<size_t>(n));
        } else if (shown.size() > seen && shown.ends_with("> ") && next < typed.size()) {
            seen = shown.size();
            const std::string line = typed[next++] + "\r";
            if (write(terminal, line.data(), line.size()) < 0) break;
        }
    }
    if (seconds_since(start) >= kLongest) kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    close(terminal);
    EXPECT_EQ(next, typed.size()) << shown;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace palimpsest::testing
