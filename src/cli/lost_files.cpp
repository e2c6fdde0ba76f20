#include "cli/lost_files.h"

#include <unistd.h>

#include <csignal>

#include "cli/last_words.h"
#include "core/error.h"
#include "core/mapped_file.h"

namespace palimpsest {

namespace {

extern "C" void end_for_lost_file(int signal, siginfo_t* info, void* /*context*/) {
    const bool is_fault = info->si_code > 0;  // else somebody sent it
    const char* name = is_fault ? mapped_file_at(info->si_addr) : nullptr;
    if (name == nullptr) {
        // Not ours: what is done by default, when the fault comes again.
        std::signal(signal, SIG_DFL);
        if (!is_fault) std::raise(signal);
        return;
    }
    say_last("palimpsest: '");
    say_last(name);
    say_last("' was cut short, or its disk failed, while it was read\n");
    _exit(exit_code(ErrorCode::kCorrupt));
}

}  // namespace

void end_on_lost_files() {
    struct sigaction action {};
    action.sa_sigaction = end_for_lost_file;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, nullptr);
}

}  // namespace palimpsest
