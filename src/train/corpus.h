#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// Texts to learn from, cut into windows of one length, in a random order that a seed fixes; the
/// first ones are held out.
struct Corpus {
    std::vector<std::vector<TokenId>> learnt, held_out;
    uint64_t fingerprint = 0;  // of all windows and their order
};

struct CorpusOptions {
    int64_t length = 1024;  // tokens in a window, the one that begins every text included
    int64_t n_held_out = 4;
    uint64_t seed = 1;
};

/// Reads text files, and files whose names end in .jsonl: a text a line, in the field "text". A
/// window never spans two texts; what is left at a text's end is not used, nor is a line shorter
/// than a window.
/// Throws kNotFound or kCorrupt for a file that cannot be read, is empty, no UTF-8 or no JSON;
/// kInvalidArgument for one without a whole window, and if none would be left to learn from.
Corpus read_corpus(std::span<const std::string> paths, const Tokenizer& tokenizer,
                   const CorpusOptions& options);

/// The same of windows that are there already. Throws kInvalidArgument as above.
Corpus make_corpus(std::vector<std::vector<TokenId>> windows, const CorpusOptions& options);

}  // namespace palimpsest
