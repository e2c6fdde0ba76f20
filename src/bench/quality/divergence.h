#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/quality/quality_result.h"
#include "core/types.h"

namespace palimpsest {

/// Predictions over the same tokens, row after row: log-probabilities of the whole vocabulary.
class Predictions {
 public:
    explicit Predictions(int64_t n_vocab) : n_vocab_(n_vocab) {}
    /// Adds the prediction that raw logits make.
    void add(std::span<const float> logits);
    [[nodiscard]] int64_t count() const;
    [[nodiscard]] std::span<const float> row(int64_t i) const;

 private:
    int64_t n_vocab_;
    std::vector<float> values_;
};

/// How far predictions of one memory are from the full cache's, position by position.
class Divergence {
 public:
    /// `full` predicts the token after every token of `tokens`; both must outlive this.
    Divergence(const Predictions& full, std::span<const TokenId> tokens)
        : full_(full), tokens_(tokens) {}

    /// The memory's logits after token i, in order.
    void add(std::span<const float> logits);

    /// Sets score, nll, nll_full and kl_by_position.
    void write_to(QualityResult& result) const;

 private:
    const Predictions& full_;
    std::span<const TokenId> tokens_;
    std::vector<double> kl_;
    double nll_ = 0, nll_full_ = 0;
};

}  // namespace palimpsest
