// Questions about a document, made by rule from any text, so that not all is needles: a number, a
// date or a name that stands once in a window of the text, asked for by the words before it; and
// how the section under a heading begins. In the spirit of LongBench's single-document questions
// (arXiv:2308.14508), without a writer of questions: what is asked is what the text says. The
// answer is begun as the text has it, a few words further than the question goes, so that small
// models, which go on as they have read, do not go on as the question does.
//
// The window is cut behind words and starts at a place drawn by lot. Neither what is asked for nor
// the words by which it is stand twice in it.
#include <algorithm>
#include <array>
#include <optional>

#include "bench/quality/fitting.h"
#include "bench/tasks/haystack.h"
#include "bench/tasks/task_samples.h"
#include "bench/tasks/text_pieces.h"
#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr size_t kFewestBefore = 6, kMostBefore = 16;  // words before what is asked for
constexpr size_t kLead = 2;  // of these, words that the question leaves out
// Words of a heading, of the paragraph below it, and of those that are asked for.
constexpr size_t kLongestHeading = 8, kFewestBelow = 20, kAskedBelow = 4;
constexpr std::string_view kEnds = ".!?:;";  // of what is quoted as one sentence
constexpr int64_t kQuestionTokens = 96;      // left for the question while a window is cut
constexpr int kMostWindows = 100;            // tried before a text is given up

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_letter(char c) { return is_upper(c) || (c >= 'a' && c <= 'z'); }

/// A word without the punctuation around it.
std::string_view bare(std::string_view word) {
    while (!word.empty() && is_punctuation(word.front())) word.remove_prefix(1);
    while (!word.empty() && is_punctuation(word.back())) word.remove_suffix(1);
    return word;
}

/// A window's words, and where sentences and paragraphs begin.
struct Words {
    std::vector<std::string_view> all;
    std::vector<bool> starts_sentence, starts_paragraph;

    explicit Words(std::string_view text) : all(split_words(text)) {
        for (size_t i = 0; i < all.size(); ++i) {
            const char* const end = i == 0 ? text.data() : all[i - 1].data() + all[i - 1].size();
            const std::string_view gap(end, static_cast<size_t>(all[i].data() - end));
            starts_paragraph.push_back(i == 0 || std::ranges::count(gap, '\n') > 1);
            starts_sentence.push_back(starts_paragraph.back() || ends_sentence(all[i - 1], kEnds));
        }
    }

    /// Words, with one space between any two.
    [[nodiscard]] std::string joined(size_t begin, size_t end) const {
        std::string text;
        for (size_t i = begin; i < end; ++i) text += cat(i > begin ? " " : "", all[i]);
        return text;
    }
    [[nodiscard]] size_t end_of_paragraph(size_t at) const {
        do ++at;
        while (at < all.size() && !starts_paragraph[at]);
        return at;
    }
};

bool is_number(std::string_view word) {
    const std::string_view number = bare(word);
    return number.size() >= 2 && is_digit(number.front()) && is_digit(number.back()) &&
           std::ranges::all_of(number, [](char c) { return is_digit(c) || c == ',' || c == '.'; });
}

bool is_month(std::string_view word) {
    constexpr std::array<std::string_view, 12> kMonths = {
        "January", "February", "March",     "April",   "May",      "June",
        "July",    "August",   "September", "October", "November", "December"};
    return std::ranges::find(kMonths, bare(word)) != kMonths.end();
}

/// A day of a month or a year.
bool is_day_or_year(std::string_view word) {
    const std::string_view number = bare(word);
    return !number.empty() && (number.size() <= 2 || number.size() == 4) &&
           std::ranges::all_of(number, is_digit);
}

// How many words of what is asked for start at one; 0: none.

size_t number_at(const Words& words, size_t at) {
    const bool is_of_date = (at > 0 && is_month(words.all[at - 1])) ||
                            (at + 1 < words.all.size() && is_month(words.all[at + 1]));
    return is_number(words.all[at]) && !is_of_date ? 1 : 0;
}

size_t date_at(const Words& words, size_t at) {
    size_t n = 0, n_month = 0;
    while (n < 3 && at + n < words.all.size() && (n == 0 || !words.starts_sentence[at + n])) {
        const std::string_view word = words.all[at + n];
        if (!is_month(word) && !is_day_or_year(word)) break;
        n_month += is_month(word) ? 1U : 0U;
        ++n;
    }
    return n_month == 1 && n > 1 ? n : 0;
}

size_t name_at(const Words& words, size_t at) {
    const auto is_name = [&](size_t i) {
        const std::string_view word = bare(words.all[i]);
        return word.size() > 2 && is_upper(word.front()) && std::ranges::all_of(word, is_letter) &&
               !is_month(word) && !words.starts_sentence[i];
    };
    if (at > 0 && is_name(at - 1)) return 0;  // inside of one
    size_t n = 0, n_letter = 0;
    while (at + n < words.all.size() && is_name(at + n)) {
        const std::string_view word = words.all[at + n];
        n_letter += bare(word).size();
        ++n;
        if (is_punctuation(word.back())) break;
    }
    return n <= 4 && n_letter >= 5 ? n : 0;
}

/// A line of few words by itself, above a paragraph.
size_t heading_at(const Words& words, size_t at) {
    if (!words.starts_paragraph[at]) return 0;
    const size_t end = words.end_of_paragraph(at);
    const std::string_view first = words.all[at], last = words.all[end - 1];
    if (end - at > kLongestHeading || end == words.all.size()) return 0;
    if (!is_upper(first.front()) && !is_digit(first.front())) return 0;
    if (ends_sentence(last, kEnds) && !is_digit(first.front())) return 0;
    return words.end_of_paragraph(end) - end >= kFewestBelow ? end - at : 0;
}

/// What is asked for, the words by which it is, and those with which the answer begins.
struct Fact {
    std::string answer, asked, begun;
};

/// What stands in the gap behind the words of its own sentence.
std::optional<Fact> in_sentence(const Words& words, size_t at, size_t n) {
    size_t begin = at;
    while (begin > 0 && at - begin < kMostBefore && !words.starts_sentence[begin]) --begin;
    if (at - begin < kFewestBefore) return std::nullopt;
    return Fact{std::string(bare(words.joined(at, at + n))), words.joined(begin, at - kLead),
                words.joined(begin, at)};
}

/// How the paragraph below begins.
std::optional<Fact> below(const Words& words, size_t at, size_t n) {
    const size_t begin = at + n, end = begin + kLead;
    Fact fact{std::string(bare(words.joined(end, end + kAskedBelow))), words.joined(at, begin),
              words.joined(at, begin) + "\n\n" + words.joined(begin, end)};
    if (std::ranges::count_if(fact.asked, is_letter) < 5) return std::nullopt;
    return fact;
}

struct FactKind {
    std::string_view task;
    size_t (*words_at)(const Words& words, size_t at);
    std::optional<Fact> (*fact)(const Words& words, size_t at, size_t n);
    std::string_view question;  // before the words by which is asked
};

constexpr std::array<FactKind, 4> kKinds = {{
    {"doc_number", number_at, in_sentence, "Which number stands soon after these words: "},
    {"doc_date", date_at, in_sentence, "Which date stands soon after these words: "},
    {"doc_name", name_at, in_sentence, "Which name stands soon after these words: "},
    {"doc_section", heading_at, below, "How does the document go on below this heading: "},
}};

bool stands_once(std::string_view text, std::string_view part) {
    const size_t at = text.find(part);
    return at != std::string_view::npos && text.find(part, at + 1) == std::string_view::npos;
}

std::vector<Fact> facts_of(const FactKind& kind, const std::string& text) {
    const Words words(text);
    const std::string all = lower_case(words.joined(0, words.all.size()));
    std::vector<Fact> facts;
    for (size_t i = 0; i < words.all.size(); ++i) {
        const size_t n = kind.words_at(words, i);
        if (n == 0) continue;
        std::optional<Fact> fact = kind.fact(words, i, n);
        if (fact && stands_once(all, lower_case(fact->answer)) &&
            stands_once(all, lower_case(fact->asked))) {
            facts.push_back(*std::move(fact));
        }
    }
    return facts;
}

/// Windows of one text, and questions on them.
class Document {
 public:
    Document(const FactKind& kind, const SampleRequest& request)
        : kind_(kind), request_(request), pieces_(request.sources.haystack) {
        const int64_t n = length_at(0);
        n_start_ = std::max<int64_t>(pieces_.size() - n - n / 8, 0) + 1;
    }

    [[nodiscard]] Sample sample(Random random) const {
        for (int i = 0; i < kMostWindows; ++i) {
            const Sample window = window_at(random.below(n_start_));
            const std::vector<Fact> facts = facts_of(kind_, window.context);
            if (facts.empty()) continue;
            const auto n = static_cast<int64_t>(facts.size());
            Sample asked = with(window, facts[static_cast<size_t>(random.below(n))]);
            if (request_.count_tokens(asked) <= request_.length) return asked;
        }
        throw Error(
            ErrorCode::kInvalidArgument,
            cat("task '", kind_.task, "': nothing to ask for stands once in any of ", kMostWindows,
                " windows of '", request_.sources.haystack, "'; name another text"));
    }

 private:
    [[nodiscard]] Sample framed(int64_t start, int64_t n) const {
        Sample sample;
        sample.context = "Read this document; you will be asked about it.\n\n";
        sample.context += pieces_.text(start, n) + "\n";
        sample.source = "document: " + base_name(request_.sources.haystack);
        sample.n_new = kQuestionTokens;
        return sample;
    }
    [[nodiscard]] int64_t length_at(int64_t start) const {
        return most_units(kind_.task, request_, [&](int64_t n) { return framed(start, n); },
                          {.least = 1, .most = pieces_.size() - start});
    }
    [[nodiscard]] Sample window_at(int64_t start) const { return framed(start, length_at(start)); }
    [[nodiscard]] Sample with(Sample sample, const Fact& fact) const {
        sample.question = cat(kind_.question, '"', fact.asked, "\"?");
        sample.answer_prefix = cat(" The document says: \"", fact.begun);
        sample.references = {fact.answer};
        sample.n_new = 32;
        return sample;
    }

    const FactKind& kind_;
    const SampleRequest& request_;
    TextPieces pieces_;
    int64_t n_start_ = 1;  // later windows would be shorter than asked for
};

}  // namespace

Samples fact_samples(std::string_view task, const SampleRequest& request) {
    check_request(task, request);
    require_named(request.sources.haystack, task, "a text", "--haystack FILE (any long text)");
    const auto kind = std::ranges::find(kKinds, task, &FactKind::task);
    check(kind != kKinds.end(), "a document task without a setting");
    const Document document(*kind, request);
    return make_samples(task, request, [&](Random random) { return document.sample(random); });
}

}  // namespace palimpsest
