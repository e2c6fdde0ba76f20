#include "cli/memory_flags.h"

#include "core/error.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

/// What is used if only a budget is named.
constexpr const char* kUsualPolicy = "snap-kv";

template <class Kinds>
std::string names_of(const Kinds& kinds) {
    std::string names;
    for (const auto& kind : kinds) names += cat(names.empty() ? "" : ", ", kind.name);
    return names;
}

bool forgets_all(const std::string& residue) { return residue.empty() || residue == "none"; }

}  // namespace

void add_memory_flags(CLI::App& command, MemoryFlags& flags) {
    const char* const group = "Memory";
    command
        .add_option("-b,--memory-budget", flags.budget,
                    "what may be held: entries a head (1024), bytes for all (64MiB), or a share of "
                    "the prompt (25%)")
        ->group(group);
    command
        .add_option(
            "-p,--policy", flags.policy,
            cat("what is kept (with a budget: the trained one if there are weights for it, else ",
                kUsualPolicy, "): ", names_of(policy_kinds())))
        ->group(group);
    command
        .add_option("--allocator", flags.allocator,
                    cat("how heads share the budget (default: as the policy has it): ",
                        names_of(allocator_kinds())))
        ->group(group);
    command
        .add_option("--residue", flags.residue,
                    cat("what the evicted leave behind (with no policy named: the trained memory "
                        "beside the trained policy; else none): ",
                        names_of(residue_kinds())))
        ->group(group);
    command
        .add_option("--policy-option", flags.settings,
                    "NAME=VALUE for policy, allocator or residue (repeatable; docs/memory.md)")
        ->allow_extra_args(false)
        ->group(group);
    command.add_option("--sinks", flags.n_sink, "first tokens that are never evicted (4)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
        ->group(group);
    command
        .add_option("--recent", flags.n_recent,
                    "last tokens that are never evicted (an eighth of the budget, at most 128)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
        ->group(group);
    command
        .add_option("--eviction-interval", flags.interval,
                    "while writing, evict every so many tokens")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str()
        ->group(group);
    command
        .add_flag("--one-shot", flags.one_shot,
                  "evict once, after the whole prompt was read: the papers' protocol")
        ->group(group);
    command
        .add_option("--positions", flags.positions,
                    "of what stays: auto (made contiguous near the model's trained length), "
                    "original, or compact (at every cut)")
        ->check(CLI::IsMember({"auto", "original", "compact"}))
        ->capture_default_str()
        ->group(group);
}

std::string choose_memory(EvictionOptions& o) {
    const bool is_free = o.residue.empty();
    if (is_free) o.residue = "none";
    if (!o.policy.empty()) return {};
    o.policy = kUsualPolicy;
    // Weights that may be another model's, or that are half trained, are used by who names a
    // policy.
    if (!o.learned || !o.learned->warning().empty()) return {};
    if (o.learned->indexer() != nullptr) o.policy = "indexer";
    if (o.learned->gate() != nullptr) o.policy = "gate";
    if (o.policy == kUsualPolicy) return {};
    const bool has_memory = is_free && o.learned->latent() != nullptr;
    if (has_memory) o.residue = "latent";
    return cat("keeping what the trained policy '", o.policy, "' ranks highest",
               has_memory ? ", the rest in the trained memory 'latent'" : "",
               " (weights: ", o.learned->path(), ")");
}

EvictionOptions eviction_options(const MemoryFlags& f) {
    EvictionOptions o;
    const bool is_full = f.policy == "full" || (f.policy.empty() && f.budget.empty());
    o.policy = f.policy.empty() && f.budget.empty() ? "full" : f.policy;
    if (!o.policy.empty()) find_policy(o.policy);
    if (is_full) {
        const bool more = !f.allocator.empty() || !forgets_all(f.residue) || !f.settings.empty() ||
                          f.one_shot || f.n_sink >= 0 || f.n_recent >= 0 || f.positions != "auto";
        require(!more,
                "these flags say how to evict, but nothing is evicted without "
                "--memory-budget");
        require(f.budget.empty(), "policy 'full' forgets nothing and cannot keep to the budget '",
                f.budget, "'; name another policy, or none");
        return o;
    }
    require(!f.budget.empty(), "policy '", f.policy,
            "' needs --memory-budget: entries a head (1024), bytes (64MiB) or a share (25%)");
    o.budget = parse_budget(f.budget);
    o.allocator = f.allocator;
    o.residue = f.residue;
    for (const std::string& s : f.settings) add_option(o.settings, s);
    o.n_sink = f.n_sink;
    o.n_recent = f.n_recent;
    o.interval = f.interval;
    o.one_shot = f.one_shot;
    o.positions = parse_positions(f.positions);
    return o;
}

}  // namespace palimpsest
