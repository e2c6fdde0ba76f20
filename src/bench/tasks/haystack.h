#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench/tasks/task.h"

namespace palimpsest {

/// Does a word end with one of these, whatever quotes and brackets follow?
[[nodiscard]] bool ends_sentence(std::string_view word, std::string_view ends = ".!?");

/// A text in which needles are hidden: words with single spaces, repeated if too few. A long word
/// counts as several, so that a length can be met.
class Haystack {
 public:
    /// Throws as read_text_file() does.
    static Haystack from_file(const std::string& path);
    /// RULER's noise: five sentences, over and over.
    static Haystack noise();

    /// The first words, by sentences; the last may be cut short. A sentence ends with a word that
    /// ends with '.', '!' or '?', whatever quotes and brackets follow.
    [[nodiscard]] std::vector<std::string> sentences(int64_t n_word) const;
    [[nodiscard]] bool contains(std::string_view text) const;
    /// Where so many words come from.
    [[nodiscard]] std::string source(int64_t n_word) const;

 private:
    Haystack(const std::string& text, std::string name);

    struct Piece {
        std::string text;
        bool starts_word = true;
    };

    std::string name_;
    std::string text_;  // words, single spaces between them
    std::vector<Piece> pieces_;
};

/// RULER's noise as lines of five sentences, the last line cut behind a sentence.
std::vector<std::string> noise_lines(int64_t n_sentence);

/// Lines to be put among others, in their order.
struct Insertion {
    std::vector<std::string> lines;
    std::vector<int64_t> places;  // ascending: before the other line of this number
};
std::vector<std::string> insert_lines(const std::vector<std::string>& into,
                                      const Insertion& insertion);

}  // namespace palimpsest
