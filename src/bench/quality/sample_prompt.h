#pragma once

#include <cstdint>
#include <vector>

#include "bench/tasks/task.h"
#include "memory/prefix/prefix_document.h"
#include "text/regions.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// A sample as the model reads it. A memory that is cut before the question is known has read
/// `context`; one that knows it, `context` and `question`.
struct SamplePrompt {
    std::vector<TokenId> context;  // what the template writes before it included
    std::vector<TokenId> question;
    std::vector<TokenId> ending;  // the template's assistant header, and the answer's beginning
};

/// The same with `regions` in the context's place: segments that end where the question begins.
std::vector<Segment> encode_context(const Tokenizer& tokenizer, const Sample& sample,
                                    bool with_template, const Regions& regions);

/// Goes through the chat template if the sample asks for it, `with_template` allows it and the
/// model has one. A token that begins in the context and ends in the question is the question's.
/// Behind a prefix, which may be nullptr, it is a request to that: in a chat if the prefix is.
SamplePrompt encode_sample(const Tokenizer& tokenizer, const Sample& sample, bool with_template,
                           const PrefixDocument* prefix = nullptr);

/// Tokens of all three.
int64_t count_tokens(const SamplePrompt& prompt);

}  // namespace palimpsest
