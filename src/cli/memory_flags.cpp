#include "cli/memory_flags.h"

#include "core/error.h"
#include "engine/memory_choice.h"
#include "memory/eviction/allocation.h"
#include "memory/policy/policies.h"
#include "memory/recurrent/state_bank.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

template <class Kinds>
std::string names_of(const Kinds& kinds) {
    std::string names;
    for (const auto& kind : kinds) names += cat(names.empty() ? "" : ", ", kind.name);
    return names;
}

void add_bank_flags(CLI::App& command, MemoryChoice& choice) {
    const char* const group = "Memory of recurrent layers";
    command
        .add_option("--bank", choice.bank,
                    cat("how heads keep what they read, as BANK[:NAME=VALUE;...] (default: in one "
                        "state), or the read-out.gguf of a trained one: ",
                        names_of(bank_kinds())))
        ->group(group);
    const auto add = [&](const char* flag, const char* setting, const char* what) {
        return command
            .add_option_function<std::string>(
                flag,
                [&choice, setting](const std::string& value) {
                    choice.bank_settings.push_back(cat(setting, "=", value));
                },
                what)
            ->group(group);
    };
    add("--states", "states", "of a bank: states a head, at most (12)")
        ->check(CLI::Range(int64_t{1}, int64_t{4096}));
    add("--threshold", "threshold",
        "of a bank: a token further than this from the open state opens one (0.6)");
    add("--closed", "closed", "of a bank: what becomes of closed states (transition)")
        ->check(CLI::IsMember({"transition", "decay", "nothing"}));
    add("--first-score", "first-score", "of a bank: the first token's score (0)");
}

}  // namespace

void add_memory_flags(CLI::App& command, MemoryChoice& choice) {
    const char* const group = "Memory";
    command
        .add_option("-b,--memory-budget", choice.budget,
                    "what may be held: entries a head (1024), bytes for all (64MiB), or a share of "
                    "the prompt (25%)")
        ->group(group);
    command
        .add_option(
            "-p,--policy", choice.policy,
            cat("what is kept, as POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE;...] (default with a "
                "budget: ",
                kUsualPolicy,
                ", beside the trained gate or indexer where the model has weights for it, else ",
                best_unasked(nullptr), "): ", names_of(policy_kinds())))
        ->group(group);
    command
        .add_option("--allocator", choice.allocator,
                    cat("how heads share the budget (default: as the policy has it): ",
                        names_of(allocator_kinds())))
        ->group(group);
    command
        .add_option(
            "--residue", choice.residue,
            cat("what evicted entries leave behind (default: none): ", names_of(residue_kinds())))
        ->group(group);
    command
        .add_option("--policy-option", choice.settings,
                    "NAME=VALUE for policy, allocator or residue (repeatable; docs/memory.md)")
        ->allow_extra_args(false)
        ->group(group);
    command.add_option("--sinks", choice.n_sink, "first tokens that are never evicted (4)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
        ->group(group);
    command
        .add_option("--recent", choice.n_recent,
                    "last tokens that are never evicted (an eighth of the budget, at most 128)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
        ->group(group);
    command
        .add_option("--eviction-interval", choice.interval,
                    "while writing, evict every so many tokens")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str()
        ->group(group);
    command
        .add_flag("--one-shot", choice.one_shot,
                  "evict once, after the whole prompt was read: the papers' protocol")
        ->group(group);
    command
        .add_option("--positions", choice.positions,
                    "of what stays: auto (made contiguous near the model's trained length), "
                    "original, or compact (at every cut)")
        ->check(CLI::IsMember({"auto", "original", "compact"}))
        ->capture_default_str()
        ->group(group);
    add_bank_flags(command, choice);
}

}  // namespace palimpsest
