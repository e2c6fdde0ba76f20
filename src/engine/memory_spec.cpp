#include "engine/memory_spec.h"

#include "core/error.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

/// Cuts off what follows the first `mark`, without it; empty if there is none.
std::string_view cut_after(std::string_view& text, char mark) {
    const size_t at = text.find(mark);
    if (at == std::string_view::npos) return {};
    const std::string_view rest = text.substr(at + 1);
    text = text.substr(0, at);
    return rest;
}

}  // namespace

EvictionOptions parse_memory_spec(std::string_view text, const EvictionWeights* learned) {
    EvictionOptions o;
    for (std::string_view settings = cut_after(text, ':'); !settings.empty();) {
        std::string_view first = settings;
        settings = cut_after(first, ';');
        add_option(o.settings, first);
    }
    const std::string_view residue = cut_after(text, '+');
    const std::string_view allocator = cut_after(text, '/');
    const PolicyKind& policy = find_policy(text);
    o.policy = policy.name;
    o.allocator = policy.usual_allocator(learned);
    if (!allocator.empty()) o.allocator = find_allocator(allocator).name;
    if (!residue.empty()) o.residue = find_residue(residue).name;
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

}  // namespace palimpsest
