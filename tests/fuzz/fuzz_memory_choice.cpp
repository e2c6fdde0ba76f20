// What people say of a memory, in one word or in parts: it is understood, or Error says what is
// not.

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/memory_choice.h"
#include "expect.h"
#include "memory/eviction/allocation.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace {

using palimpsest::EvictionOptions;
using palimpsest::fuzzing::expect;
using palimpsest::fuzzing::is_refused;

/// What was understood exists; its names throw otherwise.
void use(const EvictionOptions& o) {
    expect(palimpsest::find_policy(o.policy).name == o.policy, "another policy");
    expect(palimpsest::find_residue(o.residue).name == o.residue, "another residue");
    if (!o.allocator.empty()) static_cast<void>(palimpsest::find_allocator(o.allocator));
    static_cast<void>(palimpsest::settings_text(o.settings));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    is_refused([&] { use(palimpsest::parse_memory_spec(text)); });
    is_refused([&] {
        for (const auto& o : palimpsest::parse_memory_specs({text, "all"}, nullptr)) use(o);
    });
    is_refused([&] {
        const palimpsest::Budget budget = palimpsest::parse_budget(text);
        expect(budget.count > 0 || budget.share > 0, "a budget of nothing");
        expect(budget.count <= int64_t{1} << 50 && budget.share <= 1, "a budget of everything");
        static_cast<void>(to_string(budget));
    });
    // Policy and budget in one line.
    const size_t space = text.find(' ');
    const std::string rest = space == std::string::npos ? "64" : text.substr(space + 1);
    is_refused([&] {
        use(palimpsest::choose_eviction({.budget = rest, .policy = text.substr(0, space)}, nullptr)
                .eviction);
    });
    return 0;
}
