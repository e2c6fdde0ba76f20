#include "bench/prefix/prefix_task.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>

#include "core/error.h"

namespace palimpsest {

namespace {

struct Kind {
    std::string_view name;
    PrefixTask (*make)(const Tokenizer& tokenizer, const PrefixTaskOptions& options);
};

constexpr std::array<Kind, 2> kKinds = {
    {{"intents", make_intents_task}, {"rules", make_rules_task}}};

std::set<std::string> words_of(const std::string& text) {
    std::istringstream in(text);
    std::set<std::string> words;
    for (std::string word; in >> word;) words.insert(word);
    return words;
}

}  // namespace

std::string PrefixTask::prefix() const {
    std::string all;
    for (const std::string& d : demonstrations) all += d;
    return all;
}

std::vector<std::string> prefix_task_names() {
    std::vector<std::string> names;
    names.reserve(kKinds.size());
    for (const Kind& kind : kKinds) names.emplace_back(kind.name);
    return names;
}

PrefixTask make_prefix_task(const Tokenizer& tokenizer, const PrefixTaskOptions& options) {
    const auto* const kind = std::ranges::find(kKinds, options.name, &Kind::name);
    require(kind != kKinds.end(), "no prefix task '", options.name, "'");
    PrefixTask task = kind->make(tokenizer, options);
    require(!task.demonstrations.empty(), options.n_prefix_tokens,
            " tokens are too few for a prefix of this task");
    return task;
}

double word_overlap(const std::string& text, const std::string& other) {
    const std::set<std::string> a = words_of(text);
    const std::set<std::string> b = words_of(other);
    const auto shared = std::ranges::count_if(a, [&](const auto& w) { return b.contains(w); });
    return a.empty() ? 0 : static_cast<double>(shared) / static_cast<double>(a.size());
}

}  // namespace palimpsest
