// Steps are numbered as in the paper. "Measure" is the paper's m: how often, from the beginning of
// a stem, a run of vowels is followed by a consonant.
#include "bench/tasks/stemmer.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace palimpsest {

namespace {

/// 'v' for a vowel, 'c' for a consonant, letter by letter; y is a vowel behind a consonant.
std::string kinds_of(std::string_view word) {
    std::string kinds;
    for (const char letter : word) {
        const bool is_vowel = std::string_view("aeiou").find(letter) != std::string_view::npos ||
                              (letter == 'y' && kinds.ends_with('c'));
        kinds += is_vowel ? 'v' : 'c';
    }
    return kinds;
}

int measure(std::string_view stem) {
    const std::string kinds = kinds_of(stem);
    int n = 0;
    for (size_t i = 1; i < kinds.size(); ++i) n += kinds[i - 1] == 'v' && kinds[i] == 'c' ? 1 : 0;
    return n;
}

bool has_vowel(std::string_view stem) { return kinds_of(stem).find('v') != std::string::npos; }

bool ends_in_double_consonant(std::string_view word) {
    return word.size() >= 2 && word.back() == word[word.size() - 2] &&
           kinds_of(word).ends_with('c');
}

/// The paper's *o: consonant, vowel, consonant that is not w, x or y; by NLTK, "at" too.
bool ends_short(std::string_view word) {
    const std::string kinds = kinds_of(word);
    if (kinds == "vc") return true;
    return kinds.ends_with("cvc") && std::string_view("wxy").find(word.back()) == std::string::npos;
}

struct Ending {
    std::string_view old, now;
};

/// Of the endings, the first that the word has decides: it is replaced if what stands before it has
/// this measure or more.
std::string replace_ending(const std::string& word, std::span<const Ending> endings, int least) {
    const auto ending =
        std::ranges::find_if(endings, [&](const Ending& e) { return word.ends_with(e.old); });
    if (ending == endings.end()) return word;
    const std::string stem = word.substr(0, word.size() - ending->old.size());
    return measure(stem) >= least ? stem + std::string(ending->now) : word;
}

std::string without_plural(const std::string& word) {
    if (word.ends_with("ies") && word.size() == 4) return word.substr(0, 3);
    constexpr std::array<Ending, 4> kEndings = {
        {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}}};
    return replace_ending(word, kEndings, 0);
}

/// Gives back what a stem lost before -ed or -ing.
std::string mended(const std::string& stem) {
    for (const std::string_view ending : {"at", "bl", "iz"}) {
        if (stem.ends_with(ending)) return stem + 'e';
    }
    if (ends_in_double_consonant(stem)) {
        const bool stays = std::string_view("lsz").find(stem.back()) != std::string_view::npos;
        return stays ? stem : stem.substr(0, stem.size() - 1);
    }
    return measure(stem) == 1 && ends_short(stem) ? stem + 'e' : stem;
}

std::string without_past(const std::string& word) {
    if (word.ends_with("ied")) return word.substr(0, word.size() - (word.size() == 4 ? 1 : 2));
    if (word.ends_with("eed")) {
        return measure(word.substr(0, word.size() - 3)) > 0 ? word.substr(0, word.size() - 1)
                                                            : word;
    }
    for (const std::string_view ending : {"ed", "ing"}) {
        if (!word.ends_with(ending)) continue;
        const std::string stem = word.substr(0, word.size() - ending.size());
        if (has_vowel(stem)) return mended(stem);
    }
    return word;
}

/// "happy" and "happily" share their stem; "by" and "say" stay.
std::string with_i(std::string word) {
    const bool changes = word.size() > 2 && word.back() == 'y' &&
                         kinds_of(word.substr(0, word.size() - 1)).ends_with('c');
    if (changes) word.back() = 'i';
    return word;
}

std::string step_2(const std::string& word) {
    if (word.ends_with("alli") && measure(word.substr(0, word.size() - 4)) > 0) {
        return step_2(word.substr(0, word.size() - 2));
    }
    // By NLTK, what stands before -logi ends with its l.
    if (word.ends_with("logi")) {
        return measure(word.substr(0, word.size() - 3)) > 0 ? word.substr(0, word.size() - 1)
                                                            : word;
    }
    constexpr std::array<Ending, 21> kEndings = {
        {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
         {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
         {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
         {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
         {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
         {"fulli", "ful"}}};
    return replace_ending(word, kEndings, 1);
}

std::string step_3(const std::string& word) {
    constexpr std::array<Ending, 7> kEndings = {{{"icate", "ic"},
                                                 {"ative", ""},
                                                 {"alize", "al"},
                                                 {"iciti", "ic"},
                                                 {"ical", "ic"},
                                                 {"ful", ""},
                                                 {"ness", ""}}};
    return replace_ending(word, kEndings, 1);
}

std::string step_4(const std::string& word) {
    // -ion goes behind s or t only; the endings before it here would have decided earlier.
    if (word.ends_with("ion")) {
        const bool may_go = word.ends_with("sion") || word.ends_with("tion");
        const std::string stem = word.substr(0, word.size() - 3);
        return may_go && measure(stem) > 1 ? stem : word;
    }
    constexpr std::array<Ending, 18> kEndings = {{{"al", ""},
                                                  {"ance", ""},
                                                  {"ence", ""},
                                                  {"er", ""},
                                                  {"ic", ""},
                                                  {"able", ""},
                                                  {"ible", ""},
                                                  {"ant", ""},
                                                  {"ement", ""},
                                                  {"ment", ""},
                                                  {"ent", ""},
                                                  {"ou", ""},
                                                  {"ism", ""},
                                                  {"ate", ""},
                                                  {"iti", ""},
                                                  {"ous", ""},
                                                  {"ive", ""},
                                                  {"ize", ""}}};
    return replace_ending(word, kEndings, 2);
}

std::string without_e(const std::string& word) {
    if (!word.ends_with('e')) return word;
    const std::string stem = word.substr(0, word.size() - 1);
    const int m = measure(stem);
    return m > 1 || (m == 1 && !ends_short(stem)) ? stem : word;
}

std::string step_5(const std::string& word) {
    std::string shorter = without_e(word);
    if (shorter.ends_with("ll") && measure(shorter.substr(0, shorter.size() - 1)) > 1) {
        shorter.pop_back();
    }
    return shorter;
}

}  // namespace

std::string stem_of(std::string_view word) {
    // NLTK's exceptions.
    constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kExceptions = {
        {{"skies", "sky"},
         {"sky", "sky"},
         {"dying", "die"},
         {"lying", "lie"},
         {"tying", "tie"},
         {"news", "news"},
         {"innings", "inning"},
         {"inning", "inning"},
         {"outings", "outing"},
         {"outing", "outing"},
         {"cannings", "canning"},
         {"canning", "canning"},
         {"howe", "howe"},
         {"proceed", "proceed"},
         {"exceed", "exceed"},
         {"succeed", "succeed"}}};
    for (const auto& [exception, stem] : kExceptions) {
        if (word == exception) return std::string(stem);
    }
    if (word.size() <= 2) return std::string(word);
    const std::string whole = with_i(without_past(without_plural(std::string(word))));
    return step_5(step_4(step_3(step_2(whole))));
}

}  // namespace palimpsest
