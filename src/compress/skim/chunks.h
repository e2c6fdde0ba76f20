#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// A document that is skimmed.
struct SkimDocument {
    std::string name;  // as citations say it
    std::string text;
};

/// A piece of a document that can be expanded.
struct SkimChunk {
    size_t document = 0;        // which
    size_t begin = 0, end = 0;  // bytes of it
    int64_t first_line = 1, last_line = 1;
    std::string text;
};

/// How documents are cut.
enum class ChunkRule {
    /// At line ends, within longer lines behind sentences, within longer sentences between words;
    /// nothing of the text is lost.
    kLines,
    /// As the published agent does it: sentences joined by one space, those that are too long uncut
    /// (arXiv:2606.09659, its code; section 5.2 of the notes).
    kSentences,
};

/// Tokens of a text.
using CountTokens = std::function<int64_t(std::string_view)>;

/// Pieces of at most `most` tokens each, in order; blank ones are dropped.
[[nodiscard]] std::vector<SkimChunk> cut_into_chunks(const std::vector<SkimDocument>& documents,
                                                     ChunkRule rule, int64_t most,
                                                     const CountTokens& count);

/// "report.txt:12-20"
[[nodiscard]] std::string citation(const std::vector<SkimDocument>& documents,
                                   const SkimChunk& chunk);

}  // namespace palimpsest
