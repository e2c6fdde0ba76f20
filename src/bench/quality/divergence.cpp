#include "bench/quality/divergence.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace palimpsest {

namespace {

/// Bins grow with the distance from the context, where memories differ less and less slowly.
constexpr int64_t kFirstBin = 16;

double log_sum(std::span<const float> logits) {
    const float peak = std::ranges::max(logits);
    double sum = 0;
    for (const float x : logits) sum += static_cast<double>(std::exp(x - peak));
    return static_cast<double>(peak) + std::log(sum);
}

double mean(std::span<const double> values) {
    double sum = 0;
    for (const double x : values) sum += x;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

void Predictions::add(std::span<const float> logits) {
    check(std::ssize(logits) == n_vocab_, "logits of another vocabulary");
    const auto sum = static_cast<float>(log_sum(logits));
    for (const float x : logits) values_.push_back(x - sum);
}

int64_t Predictions::count() const { return std::ssize(values_) / n_vocab_; }

std::span<const float> Predictions::row(int64_t i) const {
    return std::span(values_).subspan(static_cast<size_t>(i * n_vocab_),
                                      static_cast<size_t>(n_vocab_));
}

void Divergence::add(std::span<const float> logits) {
    const auto i = std::ssize(kl_);
    check(i < full_.count(), "more predictions than the full cache made");
    const std::span<const float> full = full_.row(i);
    const double sum = log_sum(logits);
    double kl = 0;
    for (size_t t = 0; t < full.size(); ++t) {
        const auto p = static_cast<double>(std::exp(full[t]));
        kl += p * (static_cast<double>(full[t]) - (static_cast<double>(logits[t]) - sum));
    }
    kl_.push_back(std::max(kl, 0.0));  // below zero by rounding only
    if (i + 1 >= std::ssize(tokens_)) return;
    const auto next = static_cast<size_t>(tokens_[static_cast<size_t>(i + 1)]);
    nll_ -= static_cast<double>(logits[next]) - sum;
    nll_full_ -= static_cast<double>(full[next]);
}

void Divergence::write_to(QualityResult& result) const {
    const auto n = std::ssize(kl_);
    result.score = mean(kl_);
    const auto n_next = static_cast<double>(std::max<int64_t>(1, n - 1));
    result.nll = nll_ / n_next;
    result.nll_full = nll_full_ / n_next;
    for (int64_t begin = 0, size = kFirstBin; begin < n; begin += size, size *= 2) {
        const int64_t end = std::min(n, begin + size);
        const auto part =
            std::span(kl_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
        result.kl_by_position.push_back({.begin = begin, .end = end, .kl = mean(part)});
        if (end == n) break;
    }
}

}  // namespace palimpsest
