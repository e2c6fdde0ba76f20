#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <span>
#include <vector>

#include "core/types.h"

namespace palimpsest {

/// What a sequence has read, position after position, and which tokens of the input each position
/// stands for: itself, where it was a token; any number of them, where it was a ready row.
class ReadTokens {
 public:
    void add(std::span<const TokenId> tokens);
    /// One ready row, which stands for `tokens`.
    void add_row(std::span<const TokenId> tokens);
    /// n positions of which nothing is known.
    void add_unknown(int64_t n);
    /// Forgets positions from `position` on.
    void rewind(int64_t position);
    void clear();

    [[nodiscard]] int64_t n_positions() const { return std::ssize(ids_); }
    /// Tokens of the input that all positions stand for; rows of unknown origin count as one.
    [[nodiscard]] int64_t n_input() const;
    /// Of every position; -1 for a ready row.
    [[nodiscard]] std::span<const TokenId> ids() const { return ids_; }
    /// What positions [begin, end) stand for.
    [[nodiscard]] std::vector<TokenId> of(int64_t begin, int64_t end) const;

    void save(std::ostream& out) const;
    /// Throws kCorrupt.
    void load(std::istream& in, int64_t n_vocab);

 private:
    std::vector<TokenId> ids_;
    std::map<int64_t, std::vector<TokenId>> rows_;  // by position; not all that are -1
};

}  // namespace palimpsest
