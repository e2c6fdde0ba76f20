#include "cli/last_words.h"

#include <ggml.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <system_error>

#include "core/error.h"

namespace palimpsest {

namespace {

[[noreturn]] void end_without_memory() {
    say_last("palimpsest: ");
    say_last(kNoMemory);
    say_last("\n");
    _exit(exit_code(ErrorCode::kExhausted));
}

[[noreturn]] void end_unexpectedly(std::string_view what) {
    say_last("palimpsest: unexpected: ");
    say_last(what);
    say_last("\n");
    _exit(exit_code(ErrorCode::kInternal));
}

[[noreturn]] void end_of_thread() {
    try {
        const std::exception_ptr thrown = std::current_exception();
        if (thrown != nullptr) std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
        end_without_memory();
    } catch (const std::system_error& e) {
        if (is_shortage(e)) end_without_memory();
        end_unexpectedly(e.what());
    } catch (const std::exception& e) {
        end_unexpectedly(e.what());
    } catch (...) {
        end_unexpectedly("something was thrown");
    }
    end_unexpectedly("the program was told to end");
}

/// ggml gives up. It checks what it allocates in the same way as everything else, so the system's
/// last word decides what it was.
void end_of_library(const char* message) {
    if (errno == ENOMEM || errno == EAGAIN) end_without_memory();
    end_unexpectedly(message);
}

/// Libraries use what they allocate without a look at it (ggml's constructors, nlohmann::json's
/// destructor), and the C library aborts where it cannot register a destructor: the system's last
/// word tells this from every other fault, which comes again and ends as it always did.
extern "C" void end_for_fault(int signal) {
    if (errno == ENOMEM) end_without_memory();
    std::signal(signal, SIG_DFL);
    if (signal == SIGABRT) std::raise(signal);
}

/// Not where somebody else, a sanitizer say, is there already.
void handle_fault(int signal) {
    struct sigaction there {};
    sigaction(signal, nullptr, &there);
    if (there.sa_handler != SIG_DFL) return;
    struct sigaction ours {};
    ours.sa_handler = end_for_fault;
    sigemptyset(&ours.sa_mask);
    sigaction(signal, &ours, nullptr);
}

/// Nothing here ends with status 1; OpenMP does, when it finds no memory, for its threads mostly.
void end_of_openmp(int status, void* /*argument*/) {
    if (status == EXIT_FAILURE) end_without_memory();
}

}  // namespace

void say_last(std::string_view text) noexcept {
    // Of all that could go wrong here, nothing can be helped.
    [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
}

void have_last_words() {
    std::set_terminate(end_of_thread);
    ggml_set_abort_callback(end_of_library);
    handle_fault(SIGSEGV);
    handle_fault(SIGABRT);
    on_exit(end_of_openmp, nullptr);
}

}  // namespace palimpsest
