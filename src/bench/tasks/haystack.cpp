#include "bench/tasks/haystack.h"

#include <array>

#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr std::array<std::string_view, 5> kNoise = {"The grass is green.", "The sky is blue.",
                                                    "The sun is yellow.", "Here we go.",
                                                    "There and back again."};

// Bytes of a word that counts as one, and of the pieces of a longer one, up to a character's end.
constexpr size_t kLongestWord = 12, kPiece = 8;

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

bool ends_sentence(std::string_view word, std::string_view ends) {
    while (!word.empty() && std::string_view("\"')]*_").find(word.back()) != word.npos) {
        word.remove_suffix(1);
    }
    return !word.empty() && ends.find(word.back()) != ends.npos;
}

Haystack::Haystack(const std::string& text, std::string name) : name_(std::move(name)) {
    for (const std::string_view word : split_words(text)) {
        if (!text_.empty()) text_ += ' ';
        text_ += word;
        const size_t longest = word.size() > kLongestWord ? kPiece : word.size();
        size_t at = 0;
        for (size_t end = 1; end <= word.size(); ++end) {
            const bool is_inside =
                end < word.size() && (end - at < longest || continues_character(word[end]));
            if (is_inside) continue;
            pieces_.push_back({std::string(word.substr(at, end - at)), at == 0});
            at = end;
        }
    }
}

Haystack Haystack::from_file(const std::string& path) {
    return {read_text_file(path), base_name(path)};
}

Haystack Haystack::noise() { return {noise_lines(5).front(), ""}; }

std::vector<std::string> Haystack::sentences(int64_t n_word) const {
    std::vector<std::string> found;
    bool is_open = false;
    for (int64_t i = 0; i < n_word; ++i) {
        const Piece& piece = pieces_[static_cast<size_t>(i) % pieces_.size()];
        if (!piece.starts_word) {
            found.back() += piece.text;
        } else if (is_open) {
            found.back() += ' ' + piece.text;
        } else {
            found.push_back(piece.text);
        }
        is_open = !ends_sentence(piece.text);
    }
    return found;
}

bool Haystack::contains(std::string_view text) const {
    return text_.find(text) != std::string::npos;
}

std::string Haystack::source(int64_t n_word) const {
    if (name_.empty()) return "noise sentences";
    const bool is_repeated = n_word > static_cast<int64_t>(pieces_.size());
    return cat("long text: ", name_, is_repeated ? ", repeated" : "");
}

std::vector<std::string> noise_lines(int64_t n_sentence) {
    std::vector<std::string> lines;
    for (int64_t i = 0; i < n_sentence; ++i) {
        const size_t at = static_cast<size_t>(i) % kNoise.size();
        if (at == 0) {
            lines.emplace_back(kNoise[at]);
        } else {
            lines.back() += ' ';
            lines.back() += kNoise[at];
        }
    }
    return lines;
}

std::vector<std::string> insert_lines(const std::vector<std::string>& into,
                                      const Insertion& insertion) {
    std::vector<std::string> all;
    size_t next = 0;
    for (size_t i = 0; i <= into.size(); ++i) {
        while (next < insertion.lines.size() && insertion.places[next] <= static_cast<int64_t>(i)) {
            all.push_back(insertion.lines[next++]);
        }
        if (i < into.size()) all.push_back(into[i]);
    }
    return all;
}

}  // namespace palimpsest
