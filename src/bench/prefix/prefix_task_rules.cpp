// A made-up tariff: a rule for each of a few things, far apart in idle talk, and requests that hang
// on one of them. Rare facts, each of which few traces touch, or none.

#include <algorithm>
#include <array>
#include <unordered_set>

#include "bench/prefix/prefix_words.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kTariffs = 16;

constexpr std::array<const char*, 6> kQuestions = {
    "{name} sends a {thing} to {city}. The {thing} pays tariff",
    "A {thing} goes to {city} on {day}. The {thing} pays tariff",
    "{name} has {n} parcels and a {thing} for {city}. The {thing} pays tariff",
    "On {day} {name} posted a {thing}. The {thing} pays tariff",
    "From {city} comes a {thing} for {name}. The {thing} pays tariff",
    "{n} of us wait for a {thing} from {city}. The {thing} pays tariff"};

constexpr std::array<const char*, 6> kTalk = {
    "{name} was in {city} on {day} and came back with {n} letters.",
    "In {city} it rained for {n} days, says {name}.",
    "The office in {city} is closed on {day}; ask {name}.",
    "{name} knows {n} people who live in {city}.",
    "There were {n} trains to {city} last {day}.",
    "On {day} {name} will be {n} years old."};

/// "{thing}" alone; fill_slots() does the others.
std::string about(std::string text, const std::string& thing) {
    for (size_t at = text.find("{thing}"); at != std::string::npos; at = text.find("{thing}")) {
        text.replace(at, 7, thing);
    }
    return text;
}

struct Rule {
    std::string thing;
    size_t tariff;
};

std::vector<Rule> make_rules(Random& random) {
    std::vector<Rule> rules;
    for (const std::string& thing : shuffled_things(random)) {
        rules.push_back({thing, static_cast<size_t>(random.below(kTariffs))});
    }
    return rules;
}

/// Rules, evenly spread over talk up to the wanted length.
void add_text(const Tokenizer& tokenizer, const PrefixTaskOptions& o,
              const std::vector<Rule>& rules, PrefixTask& task) {
    Random talk(o.seed + 3000);
    Random shuffled(o.seed + 1000);
    std::vector<std::string> lines;
    int64_t n_tokens = 1;
    for (const Rule& rule : rules) {
        const auto said =
            o.is_shuffled ? static_cast<size_t>(shuffled.below(kTariffs)) : rule.tariff;
        lines.push_back(cat("Rule: the ", rule.thing, " pays tariff", task.labels[said], ".\n"));
        n_tokens += added_tokens(tokenizer, "\n", lines.back());
    }
    require(n_tokens <= o.n_prefix_tokens, "the rules alone take ", n_tokens, " tokens, more than ",
            o.n_prefix_tokens);
    std::vector<std::string> idle;
    while (true) {
        const auto wording = static_cast<size_t>(talk.below(std::ssize(kTalk)));
        std::string line = fill_slots(kTalk.at(wording), talk) + "\n";
        n_tokens += added_tokens(tokenizer, "\n", line);
        if (n_tokens > o.n_prefix_tokens) break;
        idle.push_back(std::move(line));
    }
    for (size_t i = 0; i < lines.size(); ++i) {
        task.demonstrations.push_back(std::move(lines[i]));
        const size_t end = idle.size() * (i + 1) / lines.size();
        for (size_t j = idle.size() * i / lines.size(); j < end; ++j) {
            task.demonstrations.push_back(std::move(idle[j]));
        }
    }
}

/// Requests that have not been made before.
class Requests {
 public:
    explicit Requests(uint64_t seed) : random_(seed) {}

    /// About one of the first n rules, which it names.
    std::string make(const std::vector<Rule>& rules, int64_t n, size_t& rule) {
        for (int attempt = 0; attempt < 1000; ++attempt) {
            rule = static_cast<size_t>(random_.below(n));
            const auto wording = static_cast<size_t>(random_.below(std::ssize(kQuestions)));
            std::string text =
                fill_slots(about(kQuestions.at(wording), rules[rule].thing), random_);
            if (made_.insert(text).second) return text;
        }
        throw Error(ErrorCode::kInvalidArgument,
                    "no more different requests; ask for fewer traces and tests");
    }

 private:
    Random random_;
    std::unordered_set<std::string> made_;
};

}  // namespace

PrefixTask make_rules_task(const Tokenizer& tokenizer, const PrefixTaskOptions& o) {
    Random random(o.seed);
    PrefixTask task;
    choose_labels(tokenizer, kTariffs, random, task);
    const std::vector<Rule> rules = make_rules(random);
    add_text(tokenizer, o, rules, task);
    const auto n_traced = static_cast<int64_t>(o.traced * static_cast<double>(rules.size()));
    require(n_traced >= 1, "traces of ", o.traced, " of ", rules.size(), " rules: that is none");
    Requests requests(o.seed + 2000);
    size_t rule = 0;
    const auto add_items = [&](std::vector<PrefixTask::Item>& to) {
        for (int64_t i = 0; i < o.n_tests; ++i) {
            std::string prompt = requests.make(rules, std::ssize(rules), rule);
            to.push_back({.prompt = std::move(prompt),
                          .label = static_cast<int64_t>(rules[rule].tariff),
                          .is_traced = static_cast<int64_t>(rule) < n_traced});
        }
    };
    add_items(task.tests);
    for (int64_t i = 0; i < o.n_traces; ++i) {
        std::string prompt = requests.make(rules, n_traced, rule);
        task.traces.push_back({std::move(prompt), task.labels[rules[rule].tariff] + ".\n"});
    }
    add_items(task.validation);
    return task;
}

}  // namespace palimpsest
