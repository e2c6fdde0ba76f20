#include "bench/prefix/prefix_words.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

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

}  // namespace

std::string fill_slots(std::string wording, Random& random) {
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

std::vector<std::string> shuffled_things(Random& random) {
    std::vector<std::string> all(kThings.begin(), kThings.end());
    random.shuffle(all);
    return all;
}

int64_t added_tokens(const Tokenizer& tokenizer, const std::string& before,
                     const std::string& text) {
    return std::ssize(tokenizer.encode(before + text)) - std::ssize(tokenizer.encode(before));
}

void choose_labels(const Tokenizer& tokenizer, int64_t n, Random& random, PrefixTask& task) {
    std::vector<std::string> words(kLabels.begin(), kLabels.end());
    random.shuffle(words);
    for (const std::string& word : words) {
        const std::vector<TokenId> tokens = tokenizer.encode(word);
        if (tokens.size() != 1) continue;
        task.labels.push_back(word);
        task.label_tokens.push_back(tokens.front());
        if (std::ssize(task.labels) == n) return;
    }
    throw Error(ErrorCode::kUnsupported, "too few label words are one token in this vocabulary");
}

}  // namespace palimpsest
