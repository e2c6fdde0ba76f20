#include "compress/skim/chunks.h"

#include <algorithm>

#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

/// A stretch of a document that stays together if it can.
struct Stretch {
    size_t begin, end;
};

bool ends_sentence(char c) { return c == '.' || c == '!' || c == '?'; }

/// Behind every sentence, the white space after it included.
std::vector<Stretch> sentences_of(std::string_view text, size_t from, size_t to) {
    std::vector<Stretch> all;
    size_t begin = from;
    for (size_t i = from; i < to; ++i) {
        if (!ends_sentence(text[i]) || i + 1 >= to || !is_space(text[i + 1])) continue;
        size_t end = i + 1;
        while (end < to && is_space(text[end])) ++end;
        all.push_back({begin, end});
        begin = end;
        i = end - 1;
    }
    if (begin < to) all.push_back({begin, to});
    return all;
}

std::vector<Stretch> lines_of(std::string_view text) {
    std::vector<Stretch> all;
    for (size_t begin = 0; begin < text.size();) {
        const size_t found = text.find('\n', begin);
        const size_t end = found == std::string_view::npos ? text.size() : found + 1;
        all.push_back({begin, end});
        begin = end;
    }
    return all;
}

/// Where a text may be cut that has no sentences: behind words.
std::vector<Stretch> words_of(std::string_view text, size_t from, size_t to) {
    std::vector<Stretch> all;
    const std::vector<size_t> cuts = cut_points(text.substr(from, to - from));
    for (size_t i = 1; i < cuts.size(); ++i) all.push_back({from + cuts[i - 1], from + cuts[i]});
    return all;
}

/// Packs the stretches of one document.
class Packer {
 public:
    Packer(const SkimDocument& document, size_t number, int64_t most, const CountTokens& count,
           std::vector<SkimChunk>& to)
        : text_(document.text), number_(number), most_(most), count_(count), to_(to) {}

    /// The document whole, if it is short enough.
    bool take_whole() {
        if (size_of({0, text_.size()}) > most_) return false;
        add({0, text_.size()}, std::string(text_));
        return true;
    }

    void pack_lines() {
        for (const Stretch& line : lines_of(text_)) put(line, 0);
        close();
    }

    void pack_sentences() {
        std::string joined;
        int64_t size = 0;
        Stretch all = {0, 0};
        const auto finish = [&] {
            if (!joined.empty()) add(all, joined);
            joined.clear();
            size = 0;
        };
        for (const Stretch& s : sentences_of(text_, 0, text_.size())) {
            const std::string sentence(strip(text_.substr(s.begin, s.end - s.begin)));
            const int64_t n = count_(sentence);
            if (!joined.empty() && size + n > most_) finish();
            if (joined.empty()) all.begin = s.begin;
            all.end = s.end;
            joined += (joined.empty() ? "" : " ") + sentence;
            size += n;
        }
        finish();
    }

 private:
    [[nodiscard]] int64_t size_of(const Stretch& s) const {
        return count_(text_.substr(s.begin, s.end - s.begin));
    }

    /// Into the running chunk if it fits, else into the next; in smaller stretches if it is too
    /// long for any. `depth`: how often it was divided.
    void put(const Stretch& s, int depth) {
        const int64_t n = size_of(s);
        if (n > most_ && depth < 2) {
            const auto parts =
                depth == 0 ? sentences_of(text_, s.begin, s.end) : words_of(text_, s.begin, s.end);
            for (const Stretch& part : parts) put(part, depth + 1);
            return;
        }
        if (open_.begin < open_.end && size_ + n > most_) close();
        if (open_.begin == open_.end) open_.begin = s.begin;
        open_.end = s.end;
        size_ += n;
    }

    void close() {
        if (open_.begin < open_.end) {
            add(open_, std::string(text_.substr(open_.begin, open_.end - open_.begin)));
        }
        open_ = {open_.end, open_.end};
        size_ = 0;
    }

    void add(const Stretch& s, std::string text) {
        // Lines are counted as they go by.
        line_ += std::ranges::count(text_.substr(counted_, s.begin - counted_), '\n');
        const auto within = text_.substr(s.begin, s.end - s.begin);
        const size_t last = within.find_last_not_of(" \t\r\n");
        const int64_t lines =
            last == std::string_view::npos ? 0 : std::ranges::count(within.substr(0, last), '\n');
        const size_t first = std::min(within.find_first_not_of(" \t\r\n"), within.size());
        const int64_t blank = std::ranges::count(within.substr(0, first), '\n');
        counted_ = s.begin;
        if (strip(text).empty()) return;
        to_.push_back({.document = number_,
                       .begin = s.begin,
                       .end = s.end,
                       .first_line = line_ + blank,
                       .last_line = line_ + lines,
                       .text = std::move(text)});
    }

    std::string_view text_;
    size_t number_;
    int64_t most_;
    const CountTokens& count_;
    std::vector<SkimChunk>& to_;
    Stretch open_ = {0, 0};
    int64_t size_ = 0;
    size_t counted_ = 0;
    int64_t line_ = 1;  // of text_[counted_]
};

}  // namespace

std::vector<SkimChunk> cut_into_chunks(const std::vector<SkimDocument>& documents, ChunkRule rule,
                                       int64_t most, const CountTokens& count) {
    require(most >= 1, "chunks of ", most, " tokens");
    std::vector<SkimChunk> chunks;
    for (size_t i = 0; i < documents.size(); ++i) {
        Packer packer(documents[i], i, most, count, chunks);
        if (packer.take_whole()) continue;
        rule == ChunkRule::kLines ? packer.pack_lines() : packer.pack_sentences();
    }
    return chunks;
}

std::string citation(const std::vector<SkimDocument>& documents, const SkimChunk& chunk) {
    const std::string& name = documents[chunk.document].name;
    return chunk.first_line == chunk.last_line
               ? cat(name, ":", chunk.first_line)
               : cat(name, ":", chunk.first_line, "-", chunk.last_line);
}

}  // namespace palimpsest
