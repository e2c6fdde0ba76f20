#include "engine/memory_choice.h"

#include "core/error.h"
#include "memory/policy/policies.h"
#include "memory/recurrent/bank_read_out.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

constexpr const char* kBudgetForms = "entries a head (1024), bytes (64MiB) or a share (25%)";

/// Cuts off what follows the first `mark`, without it; empty if there is none.
std::string_view cut_after(std::string_view& text, char mark) {
    const size_t at = text.find(mark);
    if (at == std::string_view::npos) return {};
    const std::string_view rest = text.substr(at + 1);
    text = text.substr(0, at);
    return rest;
}

/// "NAME=VALUE;NAME=VALUE"
void read_settings(std::string_view text, OptionMap& settings) {
    while (!text.empty()) {
        std::string_view first = text;
        text = cut_after(first, ';');
        add_option(settings, first);
    }
}

/// The one-word form; an allocator that it does not name stays open.
EvictionOptions read_spec(std::string_view text) {
    EvictionOptions o;
    read_settings(cut_after(text, ':'), o.settings);
    const std::string_view residue = cut_after(text, '+');
    const std::string_view allocator = cut_after(text, '/');
    o.policy = find_policy(text).name;
    if (!allocator.empty()) o.allocator = find_allocator(allocator).name;
    if (!residue.empty()) o.residue = find_residue(residue).name;
    return o;
}

/// Nothing is evicted: what says how would go unheard.
void check_unbounded(const MemoryChoice& c, const EvictionOptions& o) {
    const bool more = !o.allocator.empty() || !c.allocator.empty() || o.residue != "none" ||
                      !(c.residue.empty() || c.residue == "none") || !o.settings.empty() ||
                      !c.settings.empty() || c.one_shot || c.n_sink >= 0 || c.n_recent >= 0 ||
                      c.positions != "auto" || c.interval != MemoryChoice().interval;
    require(c.budget.empty() && c.evicted < 0,
            "policy 'full' forgets nothing and cannot keep to the budget '", c.budget,
            "'; name another policy, or none");
    require(!more,
            "these choices say how to evict, but nothing is evicted without a memory budget "
            "(--memory-budget)");
}

void set_budget(const MemoryChoice& c, EvictionOptions& o) {
    if (c.evicted < 0) {
        require(!c.budget.empty(), "policy '", o.policy,
                "' needs a memory budget (--memory-budget): ", kBudgetForms);
        o.budget = parse_budget(c.budget);
        return;
    }
    o.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = c.evicted};
    require(c.budget.empty(), "a share to evict and a memory budget both say how much to keep");
}

}  // namespace

EvictionOptions parse_memory_spec(std::string_view text, const EvictionWeights* learned) {
    EvictionOptions o = read_spec(text);
    if (o.allocator.empty()) o.allocator = find_policy(o.policy).usual_allocator(learned);
    return o;
}

std::vector<EvictionOptions> parse_memory_specs(const std::vector<std::string>& texts,
                                                const EvictionWeights* learned) {
    std::vector<EvictionOptions> all;
    for (const std::string& text : texts) {
        if (text != "all") {
            all.push_back(parse_memory_spec(text, learned));
            continue;
        }
        for (const PolicyKind& kind : policy_kinds()) {
            const bool lacks_weights =
                kind.is_learned() && (learned == nullptr || !kind.has_weights(*learned));
            if (kind.make == nullptr || lacks_weights) continue;
            all.push_back(parse_memory_spec(kind.name, learned));
        }
    }
    return all;
}

std::string settings_text(const OptionMap& settings) {
    std::string text;
    for (const auto& [name, value] : settings) {
        text += cat(text.empty() ? "" : ",", name, "=", value);
    }
    return text;
}

OptionMap bank_settings(const MemoryChoice& c) {
    OptionMap settings;
    if (c.bank.empty()) {
        require(c.bank_settings.empty(), "'",
                c.bank_settings.empty() ? "" : c.bank_settings.front(),
                "' is for a bank of states; name one (--bank dla)");
        return settings;
    }
    if (is_read_out(c.bank)) {
        require(c.bank_settings.empty(), "'",
                c.bank_settings.empty() ? "" : c.bank_settings.front(), "' is what the file '",
                c.bank, "' says; leave it out");
        return settings;
    }
    std::string_view name = c.bank;
    read_settings(cut_after(name, ':'), settings);
    settings["bank"] = name;
    for (const std::string& s : c.bank_settings) add_option(settings, s);
    static_cast<void>(read_bank_options(settings));
    return settings;
}

bool is_bounded(const MemoryChoice& c) {
    return !c.budget.empty() || c.evicted >= 0 || (!c.policy.empty() && c.policy != "full");
}

ChosenEviction choose_eviction(const MemoryChoice& c, const EvictionWeights* learned) {
    ChosenEviction chosen;
    EvictionOptions& o = chosen.eviction;
    if (!c.policy.empty()) o = read_spec(c.policy);
    if (o.policy == "full" && (!c.policy.empty() || !is_bounded(c))) {
        check_unbounded(c, o);
        return chosen;
    }
    if (c.policy.empty()) {
        o.policy = kUsualPolicy;
        const std::string_view base = best_unasked(learned);
        if (find_policy(base).is_learned()) {
            chosen.note = cat(
                "keeping what the trained policy '", base,
                "' ranks highest, and what a question attends to (weights: ", learned->path(), ")");
        }
    }
    set_budget(c, o);
    if (!c.allocator.empty()) o.allocator = find_allocator(c.allocator).name;
    if (!c.residue.empty()) o.residue = find_residue(c.residue).name;
    for (const std::string& s : c.settings) add_option(o.settings, s);
    o.n_sink = c.n_sink;
    o.n_recent = c.n_recent;
    o.interval = c.interval;
    o.one_shot = c.one_shot;
    o.n_writing = c.n_writing;
    o.n_recent_writing = c.n_recent_writing;
    o.positions = parse_positions(c.positions);
    return chosen;
}

}  // namespace palimpsest
