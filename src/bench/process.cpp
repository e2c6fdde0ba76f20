#include "bench/process.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <fstream>
#include <string_view>

#include "core/error.h"

namespace palimpsest {

namespace {

/// Value in kB of a line "Name:   123 kB" in a file of /proc, in bytes; 0 if there is none.
size_t proc_bytes(const char* file, std::string_view name) {
    std::ifstream in(file);
    std::string key;
    size_t value = 0;
    std::string rest;
    while (in >> key) {
        if (key == name && in >> value) return value * 1024;
        std::getline(in, rest);
    }
    return 0;
}

}  // namespace

size_t peak_resident_bytes() { return proc_bytes("/proc/self/status", "VmHWM:"); }

size_t resident_bytes() { return proc_bytes("/proc/self/status", "VmRSS:"); }

size_t memory_bytes() { return proc_bytes("/proc/meminfo", "MemTotal:"); }

size_t available_memory_bytes() { return proc_bytes("/proc/meminfo", "MemAvailable:"); }

std::string processor_name() {
    std::ifstream in("/proc/cpuinfo");
    std::string line;
    while (std::getline(in, line)) {
        const size_t colon = line.find(": ");
        if (line.starts_with("model name") && colon != std::string::npos) {
            return line.substr(colon + 2);
        }
    }
    return "unknown processor";
}

std::string in_own_process(const std::function<std::string()>& work) {
    std::array<int, 2> ends{};
    check(pipe(ends.data()) == 0, "no pipe");
    const pid_t child = fork();
    check(child >= 0, "no new process");
    if (child == 0) {
        close(ends[0]);
        std::string answer;
        int status = 0;
        try {
            answer = work();
        } catch (const std::exception& e) {
            answer = e.what();
            status = 1;
        }
        const ssize_t written = write(ends[1], answer.data(), answer.size());
        // Not exit(): what the parent registered to run at its end is not the child's business.
        _exit(written == static_cast<ssize_t>(answer.size()) ? status : 1);
    }
    close(ends[1]);
    std::string answer;
    std::array<char, 4096> part{};
    for (ssize_t n = 0; (n = read(ends[0], part.data(), part.size())) > 0;) {
        answer.append(part.data(), static_cast<size_t>(n));
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        throw Error(ErrorCode::kInternal, "a measuring process failed: " + answer);
    }
    return answer;
}

}  // namespace palimpsest
