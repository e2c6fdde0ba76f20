#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <system_error>

#include "core/error.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr double kShortWork = 1.0;  // seconds; a bar for less would only flicker

std::atomic<bool>& interrupt_flag() {
    static std::atomic<bool> flag = false;
    return flag;
}

extern "C" void remember_interrupt(int /*signal*/) { interrupt_flag().store(true); }

extern "C" void end_at_once(int /*signal*/) {
    constexpr std::string_view kMessage = "palimpsest: stopped by Ctrl-C\n";
    // Of all that could go wrong here, nothing can be helped.
    [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, kMessage.data(), kMessage.size());
    _exit(kInterrupted);
}

/// Unless Ctrl-C is to be ignored, as for a job in the background of a script.
void on_interrupt(void (*handler)(int)) {
    struct sigaction action {};
    sigaction(SIGINT, nullptr, &action);
    if (action.sa_handler == SIG_IGN) return;
    action.sa_handler = handler;
    action.sa_flags = 0;  // without SA_RESTART: a prompt that waits for a line must notice
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);
}

void write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = write(fd, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw OutputError(std::generic_category().message(errno));
        text.remove_prefix(static_cast<size_t>(n));
    }
}

std::string styled(std::string_view code, std::string_view text) {
    const char* plain = std::getenv("NO_COLOR");  // NOLINT(concurrency-mt-unsafe): read only
    if (!messages_are_terminal() || (plain != nullptr && *plain != '\0')) return std::string(text);
    return cat("\x1b[", code, "m", text, "\x1b[0m");
}

}  // namespace

void write_output(std::string_view text) { write_all(STDOUT_FILENO, text); }

void write_listing(std::string_view text) { write_output(printable_lines(text)); }

void write_answer(std::string_view text) {
    output_is_terminal() ? write_listing(text) : write_output(text);
}

void write_message(std::string_view text) {
    try {
        write_all(STDERR_FILENO, text);
    } catch (const OutputError&) {
        return;  // there is nowhere left to say so
    }
}

bool output_is_terminal() { return isatty(STDOUT_FILENO) == 1; }

bool messages_are_terminal() { return isatty(STDERR_FILENO) == 1; }

int terminal_width() {
    winsize size{};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

std::string dim(std::string_view text) { return styled("2", text); }

std::string bold(std::string_view text) { return styled("1", text); }

void end_on_interrupts() { on_interrupt(end_at_once); }

void catch_interrupts() { on_interrupt(remember_interrupt); }

bool take_interrupt() noexcept { return interrupt_flag().exchange(false); }

bool interrupted() noexcept { return interrupt_flag().load(); }

ProgressBar::ProgressBar(std::string label, std::string unit)
    : label_(std::move(label)), unit_(std::move(unit)) {}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::show(int64_t done, int64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (last_ < 0 || done < last_ || total != total_) {
        start_ = now;
        first_ = done;
    }
    last_ = done;
    total_ = total;
    if (!messages_are_terminal() || done <= first_ || done >= total) return;
    const double passed = std::chrono::duration<double>(now - start_).count();
    const double left =
        passed / static_cast<double>(done - first_) * static_cast<double>(total - done);
    if (!shown_ && passed + left < kShortWork) return;
    const std::string text = cat(" ", human_count(done), " of ", human_count(total), " ", unit_,
                                 ", ", human_seconds(left), " left");
    const int64_t width = terminal_width() - std::ssize(label_) - std::ssize(text) - 4;
    std::string bar;
    if (width >= 8) {
        const int64_t cells = std::min<int64_t>(width, 40);
        for (int64_t i = 0; i < cells; ++i) bar += i * total < done * cells ? "█" : "░";
    }
    write_message(cat("\r\x1b[K", label_, " ", bar, dim(text)));
    shown_ = true;
}

void ProgressBar::clear() {
    if (shown_) write_message("\r\x1b[K");
    shown_ = false;
}

}  // namespace palimpsest
