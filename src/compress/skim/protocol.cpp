#include "compress/skim/protocol.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr size_t kMostForced = 5;  // chunks that an early answer can ask for
constexpr size_t kMostDigits = 3;  // of a number in an answer that may be a chunk's

/// Where `word`, white space and a colon stand last; npos if nowhere. `behind` is what follows.
size_t find_last_directive(const std::string& lower, std::string_view word, size_t& behind) {
    size_t found = std::string::npos;
    for (size_t at = lower.find(word); at != std::string::npos; at = lower.find(word, at + 1)) {
        size_t next = at + word.size();
        while (next < lower.size() && (lower[next] == ' ' || lower[next] == '\t')) ++next;
        if (next >= lower.size() || lower[next] != ':') continue;
        found = at;
        behind = next + 1;
    }
    return found;
}

int64_t number_of(std::string_view digits) {
    int64_t n = 0;
    for (const char c : digits) {
        if (n > std::numeric_limits<int32_t>::max()) return n;
        n = 10 * n + (c - '0');
    }
    return n;
}

std::vector<int64_t> distinct(std::vector<int64_t> ids) {
    std::ranges::sort(ids);
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

/// Digits, commas and white space, as far as they go.
std::vector<int64_t> ids_at(std::string_view text, int64_t n_chunks) {
    size_t end = 0;
    while (end < text.size() && (is_digit(text[end]) || text[end] == ',' || is_space(text[end]))) {
        ++end;
    }
    std::vector<int64_t> ids;
    for (const std::string_view digits : numbers_in(text.substr(0, end))) {
        const int64_t id = number_of(digits);
        if (id >= 1 && id <= n_chunks) ids.push_back(id);
    }
    return distinct(std::move(ids));
}

/// GBNF for the numbers from 1 to n: those of fewer digits, then, digit by digit, those that are
/// smaller at it.
std::string numbers_to(int64_t n) {
    const std::string most = std::to_string(n);
    std::string rule;
    const auto add = [&rule](const std::string& one) { rule += (rule.empty() ? "" : " | ") + one; };
    const auto any = [](size_t count) {
        std::string digits;
        for (size_t i = 0; i < count; ++i) digits += " [0-9]";
        return digits;
    };
    for (size_t n_digits = 1; n_digits < most.size(); ++n_digits) add("[1-9]" + any(n_digits - 1));
    for (size_t i = 0; i < most.size(); ++i) {
        const char least = i == 0 ? '1' : '0';
        const bool is_last = i + 1 == most.size();
        const char up_to = static_cast<char>(is_last ? most[i] : most[i] - 1);
        if (up_to < least) continue;
        const std::string before = i == 0 ? "" : cat('"', most.substr(0, i), "\" ");
        add(cat(before, '[', least, '-', up_to, ']', any(most.size() - i - 1)));
    }
    return rule;
}

std::string rounds(int64_t n) { return n == 1 ? "1 more request" : cat(n, " more requests"); }

}  // namespace

SkimAction parse_action(std::string_view text, int64_t n_chunks) {
    const std::string lower = lower_case(text);
    size_t behind_expand = 0;
    size_t behind_answer = 0;
    const size_t expand = find_last_directive(lower, "expand", behind_expand);
    const size_t answer = find_last_directive(lower, "answer", behind_answer);
    const bool has_expand = expand != std::string::npos;
    const bool has_answer = answer != std::string::npos;
    if (has_expand && (!has_answer || expand > answer)) {
        return {.is_answer = false,
                .answer = {},
                .chunks = ids_at(text.substr(behind_expand), n_chunks),
                .is_directive = true};
    }
    const std::string_view said = has_answer ? text.substr(behind_answer) : text;
    return {.is_answer = true,
            .answer = std::string(strip(said)),
            .chunks = {},
            .is_directive = has_answer};
}

std::vector<int64_t> chunks_named_in(std::string_view text, int64_t n_chunks) {
    std::vector<int64_t> ids;
    for (const std::string_view digits : numbers_in(text)) {
        if (digits.size() > kMostDigits) continue;
        const int64_t id = number_of(digits);
        if (id >= 1 && id <= n_chunks) ids.push_back(id);
    }
    ids = distinct(std::move(ids));
    ids.resize(std::min(ids.size(), kMostForced));
    if (ids.empty()) ids.push_back(1);
    return ids;
}

std::string action_grammar(int64_t n_chunks, bool may_answer) {
    const std::string expand =
        cat("expand ::= \"EXPAND: \" id (\", \" id)*\nid ::= ", numbers_to(n_chunks), "\n");
    const std::string answer = "answer ::= \"ANSWER: \" [^\\n]+\n";
    if (n_chunks == 0) return cat("root ::= answer\n", answer);
    return may_answer ? cat("root ::= expand | answer\n", expand, answer)
                      : cat("root ::= expand\n", expand);
}

std::string document_heading(const SkimTexts& t) {
    return cat("What follows is a document in ", t.n_chunks, t.n_chunks == 1 ? " chunk" : " chunks",
               ", each with its number and a compressed rendering of its text.\n");
}

std::vector<TextPart> document_parts(const std::vector<std::string>& chunks, const SkimTexts& t,
                                     const std::string& before) {
    std::vector<TextPart> parts;
    std::string heading = before.empty() ? "" : before + "\n\n";
    heading += document_heading(t);
    for (size_t i = 0; i < chunks.size(); ++i) {
        parts.push_back({cat(heading, "Chunk ", i + 1, ": ")});
        parts.push_back({std::string(strip(chunks[i])), true});
        heading = "\n";
    }
    parts.push_back({"\n"});
    return parts;
}

std::string question_text(const std::string& question) {
    return cat("Question: ", question, "\n\n");
}

std::string original_text(const std::vector<std::string>& chunks) {
    std::string text;
    for (const std::string& chunk : chunks) text += cat(strip(chunk), "\n\n");
    return text;
}

std::string instructions(const SkimTexts& t, bool has_expanded) {
    const std::string common =
        "Where a single letter is asked for, give the letter alone; give answers without a "
        "preamble.\n";
    if (!has_expanded) {
        return cat(
            "You see the chunks compressed, about ", t.ratio,
            " tokens in one. That is good enough "
            "to find where something is said, and not to quote it: numbers, names, codes and any "
            "string of more than a few letters may come out slightly wrong.\nYou may not answer "
            "yet. First ask for the original text of the chunk that the question is about, or of "
            "several if more than one might be it. Chunk numbers only tell chunks apart; they are "
            "never an answer.\n",
            common, "You have ", rounds(t.rounds_left),
            " after this one.\n"
            "Write one line and nothing else:\nEXPAND: <chunk numbers, with commas>\n");
    }
    return cat(
        "If the question wants an exact string, and the original text above does not have it, ask "
        "for more chunks instead of guessing: a code half remembered from a compressed chunk is "
        "wrong. If it wants the gist, a yes or no, or something that the original text above says, "
        "answer. Ask for all likely chunks at once.\n",
        common, "You have ", rounds(t.rounds_left),
        " after this one.\nWrite one line and nothing else, either\n"
        "EXPAND: <chunk numbers, with commas>\nor\nANSWER: <the answer>\n");
}

std::string system_text(const SkimTexts& t) {
    return cat(
        "You answer questions about a document that you see in numbered chunks, compressed about ",
        t.ratio,
        " tokens into one: good enough to find a place, not to quote it. You have one "
        "tool: the line 'EXPAND: 3, 7' shows you the original text of chunks 3 and 7. Expand at "
        "least one chunk before you answer. Exact strings such as numbers, names and codes must "
        "stand in original text that you have seen; if they do not, expand more instead of "
        "guessing. Write one line at a time and nothing else: 'EXPAND: <chunk numbers, with "
        "commas>' or 'ANSWER: <the answer>'. You can expand ",
        t.rounds_left, " times.");
}

std::string expanded_heading() { return "The original text of chunks that were expanded:\n\n"; }

std::string result_heading(const std::vector<int64_t>& chunks) {
    std::string ids;
    for (const int64_t id : chunks) ids += cat(ids.empty() ? "" : ", ", id);
    return cat("The original text of ", chunks.size() == 1 ? "chunk " : "chunks ", ids, ":\n\n");
}

std::string next_step(const SkimTexts& t) {
    return cat("You have ", rounds(t.rounds_left),
               ". Write 'EXPAND: <chunk numbers>' for more, or "
               "'ANSWER: <the answer>'.");
}

std::string refusal() { return "Nothing was expanded yet, so that answer is not taken. "; }

std::string last_call() { return "No requests are left. Write 'ANSWER: <the answer>' now.\n"; }

}  // namespace palimpsest
