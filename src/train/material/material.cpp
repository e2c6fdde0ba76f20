#include "train/material/material.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "core/error.h"
#include "text/utf8.h"
#include "train/material/material_facts.h"
#include "train/material/material_grammar.h"

namespace palimpsest {

namespace {

constexpr int64_t kShortest = 1000, kLongest = int64_t{1} << 24;

/// How questions and answers are set out.
struct Dialogue {
    std::string_view opening, before_question, before_answer, after;
};
constexpr auto kDialogues = std::to_array<Dialogue>({
    {"", "Question: ", "\nAnswer: ", "\n"},
    {"", "Q: ", "\nA: ", "\n\n"},
    {"Please answer from what you have read.\n", "- ", "\n  ", "\n"},
    {"Test your knowledge:\n", "", " ", "\n"},
    {"", "User: ", "\nAssistant: ", "\n"},
    {"The reader will now be able to say:\n", "", " -> ", "\n"},
    {"FAQ\n\n", "", "\n\n    ", "\n\n"},
    {"", "\"", "\"\n\"", "\"\n"},
});

std::string questions_about(const std::vector<Fact>& facts, int64_t n, Random& random) {
    if (n == 0) return "";
    const Dialogue& style =
        kDialogues.at(static_cast<size_t>(random.below(std::ssize(kDialogues))));
    std::string text(style.opening);
    for (const int64_t i : random.sample(std::ssize(facts), std::min(n, std::ssize(facts)))) {
        const Fact& fact = facts[static_cast<size_t>(i)];
        text += cat(style.before_question, fact.question, style.before_answer, fact.answer,
                    style.after);
    }
    return text;
}

/// Facts of a few kinds, so that those of a kind have to be told apart; no key twice.
std::vector<Fact> draw_facts(int64_t n, Random& random) {
    const std::vector<int64_t> kinds = random.sample(n_fact_kinds(), 2 + random.below(4));
    std::vector<Fact> facts;
    std::set<std::string> keys;
    while (std::ssize(facts) < n) {
        const auto kind = static_cast<size_t>(random.below(std::ssize(kinds)));
        Fact fact = make_fact(kinds[kind], random);
        if (keys.insert(fact.key).second) facts.push_back(std::move(fact));
    }
    return facts;
}

std::string paragraph(Random& random) {
    std::string text;
    for (int64_t n = 3 + random.below(6); n > 0; --n) {
        text += cat(text.empty() ? "" : " ", capitalised(one_of("sentence", random)));
    }
    return text;
}

/// Puts a statement after a random sentence of a paragraph, or on a line of its own.
void plant(const Fact& fact, std::string& into, Random& random) {
    std::vector<size_t> places;
    for (size_t at = into.find(". "); at != std::string::npos; at = into.find(". ", at + 1)) {
        places.push_back(at + 1);
    }
    if (fact.is_line || places.empty()) {
        into += cat("\n", fact.statement);
        return;
    }
    into.insert(places[static_cast<size_t>(random.below(std::ssize(places)))],
                cat(" ", fact.statement));
}

std::string joined(const std::vector<std::string>& paragraphs) {
    std::string text;
    for (const std::string& p : paragraphs) text += cat(p, "\n\n");
    return text;
}

int64_t bytes_of(const std::vector<std::string>& paragraphs) {
    int64_t n = 0;
    for (const std::string& p : paragraphs) n += std::ssize(p) + 2;
    return n;
}

/// Bytes that are left for the prose of a document: at least a quarter.
int64_t body_of(int64_t n, int64_t n_facts, int64_t n_questions) {
    constexpr int64_t kFact = 60, kQuestion = 90;  // as long as these are
    return std::max(n / 4, n - n_facts * kFact - n_questions * kQuestion);
}

/// A document of about `n` bytes made of nothing but our grammar.
std::string invented(int64_t n, Random& random) {
    std::vector<Fact> facts = draw_facts(4 + random.below(24), random);
    std::vector<std::string> paragraphs = {capitalised(one_of("heading", random))};
    const int64_t n_questions = random.below(4) == 0 ? 0 : 1 + random.below(12);
    const int64_t n_body = body_of(n, std::ssize(facts), n_questions);
    std::vector<Fact> of_table;
    if (random.below(3) == 0) {
        FactTable table = make_table(random);
        of_table = std::move(table.facts);
        paragraphs.push_back(std::move(table.text));
    }
    while (bytes_of(paragraphs) < n_body) paragraphs.push_back(paragraph(random));
    if (!of_table.empty()) {  // anywhere but first
        const int64_t to = 1 + random.below(std::ssize(paragraphs) - 1);
        std::swap(paragraphs[1], paragraphs[static_cast<size_t>(to)]);
    }
    for (const Fact& fact : facts) {
        const int64_t at = random.below(std::ssize(paragraphs));
        plant(fact, paragraphs[static_cast<size_t>(at)], random);
    }
    facts.insert(facts.end(), of_table.begin(), of_table.end());
    return cat(joined(paragraphs), questions_about(facts, n_questions, random));
}

/// Where the line begins that holds byte `at`.
size_t line_at(std::string_view text, size_t at) {
    const size_t found = text.rfind('\n', at);
    return found == std::string_view::npos || found == 0 ? 0 : found + 1;
}

/// About `n` bytes of a text, whole lines where it has any, as paragraphs.
std::vector<std::string> window_of(std::string_view text, int64_t n, Random& random) {
    const int64_t last = std::ssize(text) - n;
    const size_t begin = line_at(text, static_cast<size_t>(last > 0 ? random.below(last) : 0));
    std::string_view window = text.substr(begin, static_cast<size_t>(n));
    if (const size_t end = window.rfind('\n');
        end != std::string_view::npos && end > window.size() / 2) {
        window = window.substr(0, end);
    }
    std::vector<std::string> paragraphs;
    while (!window.empty()) {
        const size_t end = std::min(window.find("\n\n"), window.size());
        paragraphs.emplace_back(window.substr(0, end));
        window.remove_prefix(std::min(end + 2, window.size()));
    }
    if (paragraphs.empty()) paragraphs.emplace_back();
    return paragraphs;
}

/// A window of a text; often with facts planted in it, often asked for.
std::string found(std::string_view text, int64_t n, Random& random) {
    const bool has_facts = random.below(2) == 0;
    const int64_t n_facts = has_facts ? 3 + random.below(14) : 0;
    const int64_t n_questions = has_facts && random.below(3) > 0 ? 1 + random.below(n_facts) : 0;
    std::vector<std::string> paragraphs = window_of(text, body_of(n, n_facts, n_questions), random);
    if (!has_facts) return joined(paragraphs);
    const std::vector<Fact> facts = draw_facts(n_facts, random);
    for (const Fact& fact : facts) {
        const int64_t at = random.below(std::ssize(paragraphs));
        plant(fact, paragraphs[static_cast<size_t>(at)], random);
    }
    return cat(joined(paragraphs), questions_about(facts, n_questions, random));
}

/// A text, likelier the longer it is.
const std::string& draw_text(const std::vector<const std::string*>& texts, Random& random) {
    int64_t total = 0;
    for (const std::string* text : texts) total += std::ssize(*text);
    check(total > 0, "a text to draw from");
    int64_t at = random.below(total);
    for (const std::string* text : texts) {
        at -= std::ssize(*text);
        if (at < 0) return *text;
    }
    return *texts.back();
}

std::vector<const std::string*> long_enough(std::span<const std::string> texts, int64_t n) {
    std::vector<const std::string*> chosen;
    for (const std::string& text : texts) {
        if (std::ssize(text) >= n) chosen.push_back(&text);
    }
    require(texts.empty() || !chosen.empty(), "none of the ", texts.size(),
            " texts is as long as a document, ", n,
            " bytes; name longer ones, or ask for shorter "
            "documents");
    return chosen;
}

}  // namespace

std::vector<std::string> make_material(const MaterialOptions& options,
                                       std::span<const std::string> texts) {
    require(options.n_documents >= 1, "a number of documents of ", options.n_documents,
            "; it must be at least 1");
    require(options.n_characters >= kShortest && options.n_characters <= kLongest, "a document of ",
            options.n_characters, " characters; it must be ", kShortest, " to ", kLongest);
    require(options.text_share >= 0 && options.text_share <= 1, "a share of texts of ",
            options.text_share, "; it must be 0 to 1");
    const int64_t spread = options.n_characters / 6;
    const auto chosen = long_enough(texts, options.n_characters + spread);
    const auto n_found =
        chosen.empty()
            ? 0
            : static_cast<int64_t>(options.text_share * static_cast<double>(options.n_documents));
    Random random(options.seed);
    std::vector<std::string> documents;
    for (int64_t i = 0; i < options.n_documents; ++i) {
        const int64_t n = options.n_characters - spread + random.below(2 * spread);
        const std::string document =
            i < n_found ? found(draw_text(chosen, random), n, random) : invented(n, random);
        documents.push_back(replace_invalid_utf8(document));
    }
    random.shuffle(documents);
    return documents;
}

}  // namespace palimpsest
