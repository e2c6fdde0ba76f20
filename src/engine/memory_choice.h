#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "memory/eviction/eviction.h"
#include "palimpsest/memory_choice.h"

namespace palimpsest {

/// Names a way to evict in one word: POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE[;NAME=VALUE]...],
/// such as "snap-kv/adaptive+merge:window=32". The budget stays open; an allocator that is not
/// named is the policy's own, or the one that `learned` was trained for. Throws kNotFound,
/// suggesting the nearest, for an unknown name, and kInvalidArgument for a setting without '='.
EvictionOptions parse_memory_spec(std::string_view text, const EvictionWeights* learned = nullptr);

/// The same for a list, in which "all" means every policy that evicts, those that need trained
/// weights only if `learned`, which may be nullptr, has them.
std::vector<EvictionOptions> parse_memory_specs(const std::vector<std::string>& texts,
                                                const EvictionWeights* learned);

/// The settings as text, "a=1,b=2", in order of their names.
std::string settings_text(const OptionMap& settings);

/// Does the choice let anything be forgotten, as far as it says?
[[nodiscard]] bool is_bounded(const MemoryChoice& choice);

/// What a choice comes to, and what a user is to be told of it; empty: nothing.
struct ChosenEviction {
    EvictionOptions eviction = {};
    std::string note = {};
};

/// A choice with a budget and no policy gets kUsualPolicy; `learned` may be nullptr. No residue
/// unless it is named: none helps while a text is read in chunks
/// (docs/results/learned-eviction.md). Throws kInvalidArgument for a choice that contradicts
/// itself, kNotFound for unknown names.
ChosenEviction choose_eviction(const MemoryChoice& choice, const EvictionWeights* learned);

/// "bank=dla", "states=12", ... of a choice; empty: it names none, or the file of a trained one
/// (is_read_out()). Throws kInvalidArgument for
/// settings of a bank that is not named, and as read_bank_options() does.
[[nodiscard]] OptionMap bank_settings(const MemoryChoice& choice);

/// What a question attends to, where one comes with a document, and what best_unasked() keeps
/// (docs/results/answers.md). Without a question it is the latter alone.
inline constexpr std::string_view kUsualPolicy = "question";

}  // namespace palimpsest
