#include "engine/read_tokens.h"

#include <algorithm>
#include <istream>
#include <limits>
#include <ostream>

#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostPositions = std::numeric_limits<int32_t>::max();

}  // namespace

void ReadTokens::add(std::span<const TokenId> tokens) {
    ids_.insert(ids_.end(), tokens.begin(), tokens.end());
}

void ReadTokens::add_row(std::span<const TokenId> tokens) {
    rows_[n_positions()].assign(tokens.begin(), tokens.end());
    ids_.push_back(-1);
}

void ReadTokens::add_unknown(int64_t n) { ids_.insert(ids_.end(), static_cast<size_t>(n), -1); }

void ReadTokens::rewind(int64_t position) {
    ids_.resize(static_cast<size_t>(position));
    rows_.erase(rows_.lower_bound(position), rows_.end());
}

void ReadTokens::clear() {
    ids_.clear();
    rows_.clear();
}

int64_t ReadTokens::n_input() const {
    int64_t n = n_positions();
    for (const auto& [position, tokens] : rows_) n += std::ssize(tokens) - 1;
    return n;
}

std::vector<TokenId> ReadTokens::of(int64_t begin, int64_t end) const {
    end = std::min(end, n_positions());
    std::vector<TokenId> all;
    for (int64_t i = begin; i < end; ++i) {
        const TokenId id = ids_[static_cast<size_t>(i)];
        if (id >= 0) {
            all.push_back(id);
        } else if (const auto row = rows_.find(i); row != rows_.end()) {
            all.insert(all.end(), row->second.begin(), row->second.end());
        }
    }
    return all;
}

void ReadTokens::save(std::ostream& out) const {
    put_all(out, ids_);
    put(out, static_cast<int64_t>(rows_.size()));
    for (const auto& [position, tokens] : rows_) {
        put(out, position);
        put_all(out, tokens);
    }
}

void ReadTokens::load(std::istream& in, int64_t n_vocab) {
    const auto check_ids = [&](const std::vector<TokenId>& ids, TokenId least) {
        const bool fit =
            std::ranges::all_of(ids, [&](TokenId id) { return id >= least && id < n_vocab; });
        if (!fit) throw Error(ErrorCode::kCorrupt, "the saved tokens are not this vocabulary's");
    };
    std::vector<TokenId> ids = take_all<TokenId>(in, kMostPositions);
    check_ids(ids, -1);
    std::map<int64_t, std::vector<TokenId>> rows;
    const auto n = take<int64_t>(in);
    if (n < 0) throw Error(ErrorCode::kCorrupt, "the saved rows have no number");
    for (int64_t i = 0; i < n; ++i) {
        const auto position = take<int64_t>(in);
        std::vector<TokenId> tokens = take_all<TokenId>(in, kMostPositions);
        check_ids(tokens, 0);
        const bool is_row =
            position >= 0 && position < std::ssize(ids) && ids[static_cast<size_t>(position)] == -1;
        if (!is_row || !rows.emplace(position, std::move(tokens)).second) {
            throw Error(ErrorCode::kCorrupt, "the saved rows are not where rows were read");
        }
    }
    ids_ = std::move(ids);
    rows_ = std::move(rows);
}

}  // namespace palimpsest
