#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "palimpsest/message.h"

namespace palimpsest {

// What is said between the skimming agent and the model: requests to expand chunks, and answers
// (arXiv:2606.09659, section 6, and its code). The wording is ours.

/// A request that names chunks, from 1 on, or an answer.
struct SkimAction {
    bool is_answer = false;
    std::string answer = {};           // of an answer
    std::vector<int64_t> chunks = {};  // of a request: ascending, each once, all there
    bool is_directive = false;  // false: neither was written, and all of it counts as the answer
};

/// The directive that begins last wins; chunks that are not there are left out.
[[nodiscard]] SkimAction parse_action(std::string_view text, int64_t n_chunks);

/// Of an answer that came before anything was expanded: the first five numbers in it that are
/// chunks, ascending; the first chunk if there are none.
[[nodiscard]] std::vector<int64_t> chunks_named_in(std::string_view text, int64_t n_chunks);

/// GBNF for what may be written: a request for chunks up to n_chunks (0: for none), an answer, or
/// either.
[[nodiscard]] std::string action_grammar(int64_t n_chunks, bool may_answer);

struct SkimTexts {
    int64_t ratio = 0;  // tokens in a latent
    int64_t n_chunks = 0;
    int64_t rounds_left = 0;
};

/// What the document is introduced with.
[[nodiscard]] std::string document_heading(const SkimTexts& t);
/// All chunks, each behind its number, and what ends them. `before` stands before everything.
[[nodiscard]] std::vector<TextPart> document_parts(const std::vector<std::string>& chunks,
                                                   const SkimTexts& t,
                                                   const std::string& before = {});
/// What is asked of it, behind it.
[[nodiscard]] std::string question_text(const std::string& question);
/// Expanded chunks, one after another.
[[nodiscard]] std::string original_text(const std::vector<std::string>& chunks);
/// What the model may do, at the end of a prompt; after something was expanded, or before.
[[nodiscard]] std::string instructions(const SkimTexts& t, bool has_expanded);
/// The same as what the system says in a chat.
[[nodiscard]] std::string system_text(const SkimTexts& t);
/// What precedes expanded chunks in the prompt of a round, and in a turn of a chat.
[[nodiscard]] std::string expanded_heading();
[[nodiscard]] std::string result_heading(const std::vector<int64_t>& chunks);
/// What a chat is told after expanded chunks; after an answer that came too early.
[[nodiscard]] std::string next_step(const SkimTexts& t);
[[nodiscard]] std::string refusal();
/// The last request: no rounds are left.
[[nodiscard]] std::string last_call();

}  // namespace palimpsest
