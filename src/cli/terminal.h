#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/numbers.h"

namespace palimpsest {

/// Standard output could not be written: a full disk, a closed pipe.
class OutputError : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

/// Writes to standard output and flushes. Throws OutputError.
void write_output(std::string_view text);
/// The same, for what shows names and texts of files to people: control characters in it are
/// spelled out, all but line breaks and tabs.
void write_listing(std::string_view text);
/// Writes what a model says to standard output: as it is, but to a terminal, for which
/// control characters are spelled out as in a listing. Throws OutputError.
void write_answer(std::string_view text);
/// Writes to standard error; nothing can be done if that fails.
void write_message(std::string_view text);

[[nodiscard]] bool output_is_terminal();
[[nodiscard]] bool messages_are_terminal();
/// Columns of the terminal that messages go to; 80 if there is none.
[[nodiscard]] int terminal_width();

/// `text` dimmed or bold if standard error is a terminal that wants colour (NO_COLOR unset).
[[nodiscard]] std::string dim(std::string_view text);
[[nodiscard]] std::string bold(std::string_view text);

/// Exit status of what Ctrl-C stopped.
inline constexpr int kInterrupted = 130;

/// From now on Ctrl-C ends the program with a message and the status for it.
void end_on_interrupts();
/// From now on Ctrl-C sets a flag instead of ending the program.
void catch_interrupts();
/// Was Ctrl-C pressed since the last call? Clears the flag.
[[nodiscard]] bool take_interrupt() noexcept;
/// Was Ctrl-C pressed? Leaves the flag.
[[nodiscard]] bool interrupted() noexcept;

/// A bar with the time left, on standard error, for work that takes a while. Silent if that is no
/// terminal or the work is short. What was done when it is first shown counts as done before, and
/// so it does when another total, or less done, says that other work began.
class ProgressBar {
 public:
    /// `unit` is what is counted: "tokens".
    explicit ProgressBar(std::string label, std::string unit = "tokens");
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;
    void show(int64_t done, int64_t total);
    /// Takes the bar off the screen.
    void clear();
    /// What is being done from now on; the time goes on.
    void set_label(std::string label) { label_ = std::move(label); }

 private:
    std::string label_, unit_;
    std::chrono::steady_clock::time_point start_;
    int64_t first_ = 0, last_ = -1, total_ = -1;  // done when the clock started, and lately
    bool shown_ = false;
};

}  // namespace palimpsest
