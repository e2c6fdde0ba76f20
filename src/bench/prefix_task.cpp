#include "bench/prefix_task.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>
#include <unordered_set>

#include "bench/random.h"
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

constexpr std::array<const char*, 24> kCities = {
    "Lisbon", "Oslo",   "Vienna", "Dublin", "Prague", "Athens",  "Berlin", "Madrid",
    "Zurich", "Warsaw", "Geneva", "Naples", "Bergen", "Porto",   "Ghent",  "Turin",
    "Leeds",  "Krakow", "Basel",  "Bruges", "Malmo",  "Seville", "Nantes", "Graz"};
constexpr std::array<const char*, 7> kDays = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                              "Friday", "Saturday", "Sunday"};
constexpr std::array<const char*, 24> kNames = {
    "Anna",  "Boris", "Clara", "David",  "Elena", "Felix",  "Greta", "Hugo",
    "Irene", "Jonas", "Karla", "Lukas",  "Marta", "Nils",   "Olga",  "Peter",
    "Rosa",  "Simon", "Tanja", "Ulrich", "Vera",  "Walter", "Yara",  "Zeno"};
constexpr std::array<const char*, 24> kThings = {
    "apple",  "bicycle", "carpet", "drum",   "engine", "fridge", "guitar", "hammer",
    "kettle", "ladder",  "mirror", "needle", "orange", "pepper", "radio",  "saddle",
    "teapot", "violin",  "wallet", "yogurt", "lemon",  "garlic", "camera", "pillow"};
constexpr std::array<const char*, 40> kLabels = {
    " river", " stone", " cloud", " horse", " green", " paper", " table", " glass",
    " metal", " storm", " bread", " chair", " field", " clock", " plant", " light",
    " house", " water", " ocean", " music", " sugar", " north", " south", " black",
    " white", " wheel", " train", " block", " point", " night", " heart", " sound",
    " world", " money", " paint", " dream", " earth", " tower", " wood",  " gold"};

template <size_t N>
const char* pick(const std::array<const char*, N>& of, Random& random) {
    return of.at(static_cast<size_t>(random.below(static_cast<int64_t>(N))));
}

std::string filled(std::string wording, Random& random) {
    const std::array<std::pair<const char*, std::string>, 5> slots = {
        {{"{city}", pick(kCities, random)},
         {"{day}", pick(kDays, random)},
         {"{name}", pick(kNames, random)},
         {"{thing}", pick(kThings, random)},
         {"{n}", std::to_string(2 + random.below(90))}}};
    for (const auto& [slot, value] : slots) {
        for (size_t at = wording.find(slot); at != std::string::npos; at = wording.find(slot)) {
            wording.replace(at, std::string_view(slot).size(), value);
        }
    }
    return wording;
}

/// Sentences that have not been made before.
class Sentences {
 public:
    explicit Sentences(Random& random) : random_(random) {}

    /// Tries for a while; a wording without slots gives one sentence only.
    std::string make(size_t intent, size_t first_wording, size_t n_wordings, size_t& wording) {
        for (int attempt = 0; attempt < 200; ++attempt) {
            wording = first_wording +
                      static_cast<size_t>(random_.below(static_cast<int64_t>(n_wordings)));
            std::string s = filled(kIntents.at(intent).at(wording), random_);
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

void choose_labels(const Tokenizer& tokenizer, Random& random, PrefixTask& task) {
    std::vector<std::string> words(kLabels.begin(), kLabels.end());
    random.shuffle(words);
    for (const std::string& word : words) {
        const std::vector<TokenId> tokens = tokenizer.encode(word);
        if (tokens.size() != 1) continue;
        task.labels.push_back(word);
        task.label_tokens.push_back(tokens.front());
        if (task.labels.size() == kIntents.size()) return;
    }
    throw Error(ErrorCode::kUnsupported, "too few label words are one token in this vocabulary");
}

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

double word_overlap(const std::string& text, const std::string& other) {
    const std::set<std::string> a = words_of(text);
    const std::set<std::string> b = words_of(other);
    const auto shared = std::ranges::count_if(a, [&](const auto& w) { return b.contains(w); });
    return a.empty() ? 0 : static_cast<double>(shared) / static_cast<double>(a.size());
}

PrefixTask make_prefix_task(const Tokenizer& tokenizer, const PrefixTaskOptions& o) {
    Random random(o.seed);
    PrefixTask task;
    choose_labels(tokenizer, random, task);
    Sentences sentences(random);
    Random shuffled(o.seed + 1000);
    const auto n_intents = static_cast<int64_t>(kIntents.size());
    size_t wording = 0;
    int64_t n_tokens = 1;
    for (int64_t i = 0;; ++i) {
        const auto intent = static_cast<size_t>(random.below(n_intents));
        const std::string prompt = prompt_of(sentences.make(intent, 0, kWordings / 2, wording));
        const auto said = o.is_shuffled ? static_cast<size_t>(shuffled.below(n_intents)) : intent;
        const std::string demonstration = prompt + task.labels[said] + "\n\n";
        n_tokens += std::ssize(tokenizer.encode(demonstration));
        if (n_tokens > o.n_prefix_tokens) break;
        task.demonstrations.push_back(demonstration);
    }
    // Others than the demonstrations', whatever their number: the same for shuffled labels.
    Random later(o.seed + 2000);
    Sentences others(later);
    const std::string prefix = task.prefix();
    const auto make = [&](int64_t n_of, size_t& intent) {
        while (true) {
            intent = static_cast<size_t>(later.below(n_of));
            std::string prompt = prompt_of(others.make(intent, 0, kWordings, wording));
            if (prefix.find(prompt) == std::string::npos) return prompt;
        }
    };
    size_t intent = 0;
    for (int64_t i = 0; i < o.n_tests; ++i) {
        const std::string prompt = make(n_intents, intent);
        task.tests.push_back({.prompt = prompt,
                              .label = static_cast<int64_t>(intent),
                              .is_seen = wording < kWordings / 2});
    }
    for (int64_t i = 0; i < o.n_traces; ++i) {
        const std::string prompt = make(std::min(o.n_traced, n_intents), intent);
        task.traces.push_back({prompt, task.labels[intent] + "\n\n"});
    }
    return task;
}

}  // namespace palimpsest
