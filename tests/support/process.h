#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace palimpsest::testing {

struct ProgramResult {
    int status = -1;  // exit status; 128 + signal if a signal ended it
    std::string out, err;
    double wall_s = 0;
};

struct ProgramOptions {
    std::string input = {};         // standard input
    std::string out_path = {};      // standard output goes there instead of into the result
    bool out_closed = false;        // standard output is a pipe that nobody reads
    double interrupt_after_s = 0;   // > 0: Ctrl-C after so many seconds
    std::string interrupt_at = {};  // Ctrl-C when this stands in its messages
    double timeout_s = 120;         // SIGKILL after so many seconds
    uint64_t address_space = 0;     // > 0: bytes of it that it may have, as `ulimit -v` sets it
    bool in_is_terminal = false;    // standard input is a terminal at which nobody types
    std::string folder = {};        // it runs there
    std::vector<std::string> environment = {};  // NAME=value, beside the test's own
};

/// Runs the command line program and waits for its end.
ProgramResult run_palimpsest(const std::vector<std::string>& arguments,
                             const ProgramOptions& options = {});

/// The program at a terminal of its own, under a locale. Lines of `typed` go in one by one, each
/// once it shows "> " and waits. Returns its exit status; -1 if a signal ended it.
int run_at_terminal(const std::vector<std::string>& arguments, const std::string& locale,
                    const std::vector<std::string>& typed);

}  // namespace palimpsest::testing
