// Many-shot classification: requests in everyday words, arbitrary words as their labels.

#include <algorithm>
#include <array>
#include <unordered_set>

#include "bench/prefix/prefix_words.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr size_t kWordings = 6;  // of an intent; the first half occurs in the prefix

using Wordings = std::array<const char*, kWordings>;

constexpr std::array<Wordings, 16> kIntents = {{
    {"book a table in {city} for {day}", "reserve dinner for {n} in {city}",
     "get us seats at the {thing} bar on {day}", "we need a place to eat in {city} {day} night",
     "find room for {n} at a restaurant, {name} pays", "is there a table left on {day} for {name}"},
    {"what will the weather be in {city}", "does it rain in {city} on {day}",
     "tell me how cold {day} gets", "will {name} need an umbrella in {city}",
     "how many degrees will {city} have", "sun or snow on {day}"},
    {"wake me at {n} on {day}", "set an alarm for {n}", "get {name} out of bed at {n}",
     "ring loudly at {n} {day} morning", "do not let me sleep past {n}",
     "I have to be up by {n} on {day}"},
    {"send {n} euros to {name}", "pay {name} what I owe", "transfer {n} to {name} by {day}",
     "move money to the account of {name}", "give {name} {n} back",
     "settle the bill for the {thing} with {name}"},
    {"play something by {name}", "put on music for {day}", "start the {thing} song",
     "I want to hear {name} sing", "let us have a tune from {city}", "turn up the album {thing}"},
    {"how do I get to {city}", "show the way to {name}", "which road leads to {city}",
     "guide me to the {thing} shop", "take me home from {city}",
     "where must I turn for the {thing} bridge"},
    {"my {thing} is broken, send help", "the {thing} no longer works", "repair my {thing} by {day}",
     "{name} dropped the {thing}", "can the {thing} be mended",
     "it makes noise since {day}, the {thing}"},
    {"translate {thing} into French", "how do they say {thing} in {city}",
     "what does {thing} mean in Spanish", "put this for {name} into German",
     "say {thing} the way people in {city} do", "which word has {name} for {thing}"},
    {"add {thing} to my list", "write {thing} down for {day}", "remember to buy {n} of {thing}",
     "put {n} more {thing} on the list", "note that {name} wants {thing}", "we are out of {thing}"},
    {"cancel my order of {thing}", "I no longer want the {thing}",
     "send the {thing} back to {city}", "undo what {name} ordered on {day}",
     "stop the delivery of {n} {thing}", "take my {thing} back, please"},
    {"where is my parcel from {city}", "has the {thing} been shipped", "track what {name} sent",
     "when does the {thing} arrive", "did the post come on {day}",
     "how far is the {thing} from {city} by now"},
    {"who is {name}", "when was {name} born", "tell me about {city}", "why is {city} famous",
     "what did {name} invent", "how old is the {thing} museum"},
    {"switch the {thing} lamp on", "dim the lights at {n}", "make the room of {name} brighter",
     "turn off all lamps on {day}", "it is too dark at the {thing}", "light the hall for {name}"},
    {"call {name}", "ring {name} on {day}", "phone the {thing} office in {city}",
     "get {name} on the line", "dial the number of {name}", "I must speak with {name} at {n}"},
    {"fly me to {city} on {day}", "book a flight for {name}", "which planes leave {city} at {n}",
     "two seats to {city}, please", "how much is a ticket to {city}",
     "{name} wants to be in {city} by {day}"},
    {"cook something with {thing}", "how long do I boil {thing}", "a recipe of {name} for {day}",
     "what goes well with {thing}", "bake {n} cakes with {thing}",
     "can {thing} be fried in butter"},
}};

/// Sentences that have not been made before.
class Sentences {
 public:
    explicit Sentences(Random& random) : random_(random) {}

    /// Tries for a while; a wording without slots gives one sentence only.
    std::string make(size_t intent, size_t n_wordings) {
        for (int attempt = 0; attempt < 200; ++attempt) {
            const auto wording =
                static_cast<size_t>(random_.below(static_cast<int64_t>(n_wordings)));
            std::string s = fill_slots(kIntents.at(intent).at(wording), random_);
            if (made_.insert(s).second) return s;
        }
        throw Error(ErrorCode::kInvalidArgument,
                    "no more different sentences; ask for fewer traces and tests");
    }

 private:
    Random& random_;
    std::unordered_set<std::string> made_;
};

std::string prompt_of(const std::string& sentence) { return cat("Text: ", sentence, "\nLabel:"); }

void add_demonstrations(const Tokenizer& tokenizer, const PrefixTaskOptions& o, Random& random,
                        PrefixTask& task) {
    Sentences sentences(random);
    Random shuffled(o.seed + 1000);
    const auto n_intents = static_cast<int64_t>(kIntents.size());
    std::string last;
    for (int64_t n_tokens = 1;;) {
        const auto intent = static_cast<size_t>(random.below(n_intents));
        const std::string prompt = prompt_of(sentences.make(intent, kWordings / 2));
        const auto said = o.is_shuffled ? static_cast<size_t>(shuffled.below(n_intents)) : intent;
        std::string demonstration = prompt + task.labels[said] + "\n\n";
        n_tokens += added_tokens(tokenizer, last, demonstration);
        if (n_tokens > o.n_prefix_tokens) return;
        last = demonstration;
        task.demonstrations.push_back(std::move(demonstration));
    }
}

}  // namespace

PrefixTask make_intents_task(const Tokenizer& tokenizer, const PrefixTaskOptions& o) {
    Random random(o.seed);
    PrefixTask task;
    const auto n_intents = static_cast<int64_t>(kIntents.size());
    choose_labels(tokenizer, n_intents, random, task);
    add_demonstrations(tokenizer, o, random, task);
    // Others than the demonstrations', whatever their number: the same for shuffled labels.
    Random later(o.seed + 2000);
    Sentences others(later);
    const std::string prefix = task.prefix();
    const auto make = [&](int64_t n_of, size_t& intent) {
        while (true) {
            intent = static_cast<size_t>(later.below(n_of));
            std::string prompt = prompt_of(others.make(intent, kWordings));
            if (prefix.find(prompt) == std::string::npos) return prompt;
        }
    };
    const auto n_traced = static_cast<int64_t>(o.traced * static_cast<double>(n_intents));
    require(n_traced >= 1, "traces of ", o.traced, " of ", n_intents, " intents: that is none");
    size_t intent = 0;
    const auto add_items = [&](std::vector<PrefixTask::Item>& to) {
        for (int64_t i = 0; i < o.n_tests; ++i) {
            std::string prompt = make(n_intents, intent);
            to.push_back({.prompt = std::move(prompt),
                          .label = static_cast<int64_t>(intent),
                          .is_traced = static_cast<int64_t>(intent) < n_traced});
        }
    };
    add_items(task.tests);
    for (int64_t i = 0; i < o.n_traces; ++i) {
        std::string prompt = make(n_traced, intent);
        task.traces.push_back({std::move(prompt), task.labels[intent] + "\n\n"});
    }
    add_items(task.validation);
    return task;
}

}  // namespace palimpsest
