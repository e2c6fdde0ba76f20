#include "core/processor.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PALIMPSEST_X86 1
#include <cpuid.h>
#endif

namespace palimpsest {

namespace {

struct Generation {
    std::string_view name;
    int number;
};
constexpr std::array<Generation, 4> kGenerations = {
    {{"none", 0}, {"avx2", 1}, {"avx-vnni", 2}, {"avx512", 3}}};

int generation_of(Instructions set) {
    switch (set) {
        case Instructions::kAvx2:
            return 1;
        case Instructions::kAvxVnni:
            return 2;
        case Instructions::kAvx512Vnni:
        case Instructions::kAvx512Bf16:
            break;
    }
    return 3;
}

int newest_allowed() {
    const char* value = std::getenv("PALIMPSEST_PROCESSOR");  // NOLINT(concurrency-mt-unsafe)
    const std::string name = value == nullptr ? "" : value;
    const auto* found = std::ranges::find(kGenerations, name, &Generation::name);
    return found == kGenerations.end() ? kGenerations.back().number : found->number;
}

#ifdef PALIMPSEST_X86

/// Bit of a register that CPUID leaves.
bool cpuid_bit(unsigned leaf, unsigned part, size_t register_number, unsigned bit) {
    std::array<unsigned, 4> registers{};
    const bool known = __get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2],
                                         &registers[3]) != 0;
    return known && (registers.at(register_number) >> bit & 1U) != 0;
}

// __builtin_cpu_supports() also asks whether the system saves the registers.
bool has_avx2() {
    const bool has_f16c = cpuid_bit(1, 0, 2, 29);
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && has_f16c;
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}

bool is_there(Instructions set) {
    switch (set) {
        case Instructions::kAvx2:
            return has_avx2();
        case Instructions::kAvxVnni:
            return has_avx2() && cpuid_bit(7, 1, 0, 4);
        case Instructions::kAvx512Vnni:
            return has_avx2() && has_avx512() && __builtin_cpu_supports("avx512vnni") != 0;
        case Instructions::kAvx512Bf16:
            return has_avx2() && has_avx512() && __builtin_cpu_supports("avx512bf16") != 0;
    }
    return false;
}

#else

bool is_there(Instructions /*set*/) { return false; }

#endif

}  // namespace

std::string_view name_of(Instructions set) {
    switch (set) {
        case Instructions::kAvx2:
            return "AVX2";
        case Instructions::kAvxVnni:
            return "AVX-VNNI";
        case Instructions::kAvx512Vnni:
            return "AVX-512 VNNI";
        case Instructions::kAvx512Bf16:
            break;
    }
    return "AVX-512 bf16";
}

bool may_use(Instructions set) {
    static const int newest = newest_allowed();
    return generation_of(set) <= newest;
}

bool processor_has(Instructions set) { return may_use(set) && is_there(set); }

}  // namespace palimpsest
