#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/quality/quality_result.h"
#include "bench/tasks/task.h"
#include "engine/batch.h"
#include "engine/session.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// What a session answered.
struct Answer {
    std::string text;
    int64_t n_tokens = 0;
    double seconds = 0;  // from the end of the question to the end of this answer
};

/// What all sessions answer.
struct AskedSample {
    const Tokenizer& tokenizer;
    const Sample& sample;
    const Metric& metric;
    std::span<const TokenId> rest;    // of the prompt
    std::vector<TokenId> never = {};  // is never written
};

/// Writes an answer's text into a result, with its score and its class where there are some.
void note_text(const std::string& text, const Sample& sample, const Metric& metric,
               QualityResult& to);

/// All sessions read what is left of the prompt on top of what they hold and answer greedily, at
/// once. An answer ends with the model's end token, after the sample's n_new tokens, where the
/// context is full, or as soon as more text cannot change its score.
std::vector<Answer> write_answers(std::span<Session* const> sessions, Batch& batch,
                                  const AskedSample& asked);

}  // namespace palimpsest
