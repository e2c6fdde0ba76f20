#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace palimpsest {

using TokenId = int32_t;

/// Ready rows that come about when they are wanted. Not thread-safe.
class RowSource {
 public:
    RowSource() = default;
    virtual ~RowSource() = default;
    RowSource(const RowSource&) = delete;
    RowSource& operator=(const RowSource&) = delete;

    [[nodiscard]] virtual int64_t n_rows() const = 0;
    /// Rows [from, from + n), one after another; they last until the next call. Of a later call
    /// `from` is the same or further on: what lies before it is forgotten. Throws what making them
    /// throws.
    virtual std::span<const float> rows(int64_t from, int64_t n) = 0;
};

/// A run of consecutive positions: token ids, or ready rows of the embedding space.
struct Segment {
    std::vector<TokenId> tokens = {};  // n ids; empty when rows are used
    std::vector<float> rows = {};      // n * n_embd, row after row; empty when others are used
    std::shared_ptr<RowSource> source = nullptr;  // of rows that are still to come
    /// Of rows: the input tokens that they stand for, one row's after another's, and how many each
    /// row has. Both empty: rows stand for no text.
    std::vector<TokenId> row_tokens = {};
    std::vector<int32_t> row_lengths = {};
    bool is_context = false;  // may be compressed; false: a question, an instruction
    bool keep = false;        // must never be forgotten

    [[nodiscard]] bool has_rows() const { return !rows.empty() || source != nullptr; }
    /// Positions that it takes; `n_embd`: values in a row.
    [[nodiscard]] int64_t length(int64_t n_embd) const {
        if (source != nullptr) return source->n_rows();
        return rows.empty() ? std::ssize(tokens) : std::ssize(rows) / n_embd;
    }
};

/// Positions of a whole prompt.
[[nodiscard]] inline int64_t length_of(std::span<const Segment> prompt, int64_t n_embd) {
    int64_t n = 0;
    for (const Segment& s : prompt) n += s.length(n_embd);
    return n;
}

}  // namespace palimpsest
