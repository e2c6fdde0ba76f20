#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

#include "cli/command.h"
#include "cli/last_words.h"

namespace {

/// Threads of one step wait for each other hundreds of times, in GNU OpenMP by spinning for some
/// milliseconds. Where another program has the processor that the awaited thread needs, that is
/// what every wait then costs. Waits that are due end within microseconds: after these, sleep.
/// OpenMP reads its environment when it is loaded, so the program starts itself once more.
void sleep_in_long_waits(char** argv) {
    // NOLINTBEGIN(concurrency-mt-unsafe): there is no other thread yet.
    const bool is_set =
        std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr;
    std::array<char, PATH_MAX> program{};
    const ssize_t n = readlink("/proc/self/exe", program.data(), program.size() - 1);
    if (is_set || n < 0 || setenv("GOMP_SPINCOUNT", "2000", 1) != 0) return;
    // NOLINTEND(concurrency-mt-unsafe)
    execv(program.data(), argv);  // returns only if it cannot: then threads spin
}

}  // namespace

int main(int argc, char** argv) {
    sleep_in_long_waits(argv);
    palimpsest::have_last_words();
    return palimpsest::run_program(argc, argv);
}
