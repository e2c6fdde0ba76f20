#include "bench/tasks/needles.h"

#include "bench/tasks/word_list.h"
#include "core/error.h"

namespace palimpsest {

namespace {

/// "a", "a and b", "a, b, and c"
std::string enumerate(const std::vector<std::string>& items) {
    std::string text;
    for (size_t i = 0; i < items.size(); ++i) {
        const bool is_last = i + 1 == items.size();
        if (i > 0) text += cat(items.size() > 2 ? ", " : " ", is_last ? "and " : "");
        text += items[i];
    }
    return text;
}

}  // namespace

std::string random_number(Random& random) {
    return std::to_string(1'000'000 + random.below(9'000'000));
}

std::string random_uuid(Random& random) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    constexpr std::string_view kShape = "xxxxxxxx-xxxx-4xxx-Nxxx-xxxxxxxxxxxx";
    std::string uuid;
    for (const char c : kShape) {
        const auto digit = static_cast<size_t>(random.below(16));
        if (c == 'x') {
            uuid += kDigits[digit];
        } else {
            uuid += c == 'N' ? kDigits[8 + digit % 4] : c;
        }
    }
    return uuid;
}

std::string NeedleTexts::next(NeedleText kind) {
    if (kind == NeedleText::kWords) {
        // Drawing goes on until a new one comes, so some must be left.
        require(++n_pairs_ <= n_word_pairs() / 2, "no more than ", n_word_pairs() / 2,
                " needles can have word keys; ask for a shorter length");
    }
    while (true) {
        std::string text = kind == NeedleText::kWords    ? word_pair(random_)
                           : kind == NeedleText::kNumber ? random_number(random_)
                                                         : random_uuid(random_);
        if (!haystack_contains_(text) && given_.insert(text).second) return text;
    }
}

std::string needle_sentence(NeedleText kind, std::string_view key, std::string_view value) {
    return cat("One of the special magic ", kind == NeedleText::kUuid ? "uuids" : "numbers",
               " for ", key, " is: ", value, ".");
}

Sample needle_question(NeedleText kind, const std::vector<std::string>& keys, bool is_one) {
    const std::string thing =
        cat("special magic ", kind == NeedleText::kUuid ? "uuid" : "number", is_one ? "" : "s");
    Sample sample;
    sample.context =
        is_one ? cat("Somewhere in this text a ", thing, " is given. Remember it, for you will be ",
                     "asked for it afterwards.\n")
               : cat("Somewhere in this text some ", thing, " are given. Remember them, for you ",
                     "will be asked for them afterwards.\n");
    const std::string of_keys = cat(thing, " for ", enumerate(keys));
    sample.question =
        cat(is_one ? "What is the " : "What are all the ", of_keys, " that the text gives?");
    sample.answer_prefix = cat(" The ", of_keys, " that the text gives ", is_one ? "is" : "are");
    sample.n_new = 128;
    return sample;
}

}  // namespace palimpsest
