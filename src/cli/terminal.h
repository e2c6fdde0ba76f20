#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace palimpsest {

/// Standard output could not be written: a full disk, a closed pipe.
class OutputError : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

/// Writes to standard output and flushes. Throws OutputError.
void write_output(std::string_view text);
/// Writes to standard error; nothing can be done if that fails.
void write_message(std::string_view text);

[[nodiscard]] bool output_is_terminal();
[[nodiscard]] bool messages_are_terminal();
/// Columns of the terminal that messages go to; 80 if there is none.
[[nodiscard]] int terminal_width();

/// `text` dimmed or bold if standard error is a terminal that wants colour (NO_COLOR unset).
[[nodiscard]] std::string dim(std::string_view text);
[[nodiscard]] std::string bold(std::string_view text);

/// A number with so many digits after the point.
[[nodiscard]] std::string fixed(double x, int digits);
/// "98.4 MB", "12 KB": powers of 1000, three digits.
[[nodiscard]] std::string human_bytes(size_t bytes);
/// "7,168"
[[nodiscard]] std::string human_count(int64_t n);
/// "0.42 s", "3 min 5 s"
[[nodiscard]] std::string human_seconds(double seconds);

/// From now on Ctrl-C ends the program with a message and the status for it.
void end_on_interrupts();
/// From now on Ctrl-C sets a flag instead of ending the program.
void catch_interrupts();
/// Was Ctrl-C pressed since the last call? Clears the flag.
[[nodiscard]] bool take_interrupt() noexcept;
/// Was Ctrl-C pressed? Leaves the flag.
[[nodiscard]] bool interrupted() noexcept;

/// A bar with the time left, on standard error, for work that takes a while. Silent if that is no
/// terminal or the work is short.
class ProgressBar {
 public:
    explicit ProgressBar(std::string label);
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;
    void show(int64_t done, int64_t total);
    /// Takes the bar off the screen.
    void clear();

 private:
    std::string label_;
    std::chrono::steady_clock::time_point start_;
    bool shown_ = false;
};

}  // namespace palimpsest
