#include "train/indexer/indexer_net.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

float activated(Activation activation, float x) {
    switch (activation) {
        case Activation::kRelu:
            return std::max(x, 0.0F);
        case Activation::kLeakyRelu:
            return std::max(x, kLeak * x);
        case Activation::kSoftplus:
            return std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x)));
        case Activation::kIdentity:
            return x;
    }
    return x;
}

float activation_slope(Activation activation, float x) {
    switch (activation) {
        case Activation::kRelu:
            return x > 0 ? 1.0F : 0.0F;
        case Activation::kLeakyRelu:
            return x > 0 ? 1.0F : kLeak;
        case Activation::kSoftplus:
            return 1.0F / (1.0F + std::exp(-x));
        case Activation::kIdentity:
            return 1.0F;
    }
    return 1.0F;
}

/// Rows of `weight`'s length over their root mean square, times `weight`; leaves one over each
/// row's root mean square in `inverse`.
std::vector<float> normed(std::span<const float> x, std::span<const float> weight, float epsilon,
                          std::vector<float>& inverse) {
    const int64_t d = std::ssize(weight);
    std::vector<float> y(x.size());
    inverse.resize(x.size() / weight.size());
    for (int64_t i = 0; i < std::ssize(inverse); ++i) {
        const float* row = x.data() + i * d;
        const float mean = dot_rows(row, row, d) / static_cast<float>(d);
        inverse[at(i)] = 1.0F / std::sqrt(mean + epsilon);
        for (int64_t c = 0; c < d; ++c) y[at(i * d + c)] = row[c] * inverse[at(i)] * weight[at(c)];
    }
    return y;
}

/// One row of normed() back: turns `dy` into the gradient of the row `x`, adds the weight's.
void norm_backward(const float* x, float inverse, std::span<const float> weight,
                   std::span<float> dy, std::span<float> d_weight) {
    const int64_t d = std::ssize(dy);
    float along = 0;
    for (int64_t c = 0; c < d; ++c) {
        d_weight[at(c)] += dy[at(c)] * x[c] * inverse;
        along += dy[at(c)] * weight[at(c)] * x[c];
    }
    const float pull = along * inverse * inverse * inverse / static_cast<float>(d);
    for (int64_t c = 0; c < d; ++c) dy[at(c)] = dy[at(c)] * weight[at(c)] * inverse - pull * x[c];
}

}  // namespace

IndexerNet::IndexerNet(const IndexerShape& shape, const IndexerParts<const float>& weights,
                       const LayerRecord& record)
    : shape_(shape), weights_(weights), record_(record) {
    record.check();
    const AttentionShape& a = record.shape;
    const bool fits = shape.n_head >= 1 && shape.d_head >= 1 && shape.n_group >= 1 &&
                      shape.n_head % shape.n_group == 0 &&
                      std::ssize(weights.q) == shape.width() * a.n_query_channels() &&
                      std::ssize(weights.k) == shape.d_head * a.n_embd &&
                      std::ssize(weights.head) == shape.n_head * a.n_embd &&
                      std::ssize(weights.q_norm) == shape.d_head &&
                      std::ssize(weights.k_norm) == shape.d_head &&
                      (weights.bias.empty() || std::ssize(weights.bias) == shape.n_group);
    require(fits, "an indexer of ", shape.n_head, " heads of width ", shape.d_head, " in ",
            shape.n_group, " groups has weights of another shape");
    q_in_ = through(record.q_raw, weights.q, a.n_query_channels());
    k_in_ = through(record.hidden, weights.k, a.n_embd);
    q_ = normed(q_in_, weights.q_norm, shape.epsilon, q_inverse_);
    k_ = normed(k_in_, weights.k_norm, shape.epsilon, k_inverse_);
    alpha_ = through(record.hidden, weights.head, a.n_embd);
    const float factor = 1.0F / std::sqrt(static_cast<float>(shape.width()));
    for (float& x : alpha_) x *= factor;
}

float IndexerNet::score(int64_t group, int64_t query, int64_t key) const {
    const int64_t first = query * shape_.n_head + group * shape_.n_group_head();
    float sum = 0;
    for (int64_t i = first; i < first + shape_.n_group_head(); ++i) {
        const float product =
            dot_rows(q_.data() + i * shape_.d_head, k_.data() + key * shape_.d_head, shape_.d_head);
        sum += alpha_[at(i)] * activated(shape_.activation, product);
    }
    return sum;
}

Importance IndexerNet::importance(const Looking& where) const {
    Importance found;
    const size_t n = at(shape_.n_group * where.n_keys());
    found.largest.assign(n, -std::numeric_limits<float>::infinity());
    found.asker.assign(n, -1);
    for (int64_t s = where.first_query; s < where.end_query; ++s) {
        for (int64_t g = 0; g < shape_.n_group; ++g) {
            for (int64_t t = where.first_key; t < std::min(where.end_key, s + 1); ++t) {
                const float x = score(g, s, t);
                const size_t i = at(g * where.n_keys() + t - where.first_key);
                if (found.asker[i] >= 0 && !(x > found.largest[i])) continue;
                found.largest[i] = x;
                found.asker[i] = s;
            }
        }
    }
    for (size_t i = 0; i < n && !weights_.bias.empty(); ++i) {
        found.largest[i] += weights_.bias[i / at(where.n_keys())];
    }
    return found;
}

void IndexerNet::backward(const Looking& where, const Importance& found,
                          std::span<const float> upstream, const IndexerParts<float>& to) const {
    std::vector<float> dq(q_.size());
    std::vector<float> dk(k_.size());
    std::vector<float> d_alpha(alpha_.size());
    const int64_t d = shape_.d_head;
    for (int64_t j = 0; j < std::ssize(found.asker); ++j) {
        if (found.asker[at(j)] < 0) continue;
        if (!to.bias.empty()) to.bias[at(j / where.n_keys())] += upstream[at(j)];
        const int64_t t = where.first_key + j % where.n_keys();
        const float* key = k_.data() + t * d;
        const int64_t first =
            found.asker[at(j)] * shape_.n_head + j / where.n_keys() * shape_.n_group_head();
        for (int64_t i = first; i < first + shape_.n_group_head(); ++i) {
            const float* query = q_.data() + i * d;
            const float product = dot_rows(query, key, d);
            d_alpha[at(i)] += upstream[at(j)] * activated(shape_.activation, product);
            const float pull =
                upstream[at(j)] * alpha_[at(i)] * activation_slope(shape_.activation, product);
            if (pull == 0) continue;
            add_scaled(dq.data() + i * d, pull, key, d);
            add_scaled(dk.data() + t * d, pull, query, d);
        }
    }
    for (int64_t i = 0; i < std::ssize(q_inverse_); ++i) {
        norm_backward(q_in_.data() + i * d, q_inverse_[at(i)], weights_.q_norm,
                      std::span(dq).subspan(at(i * d), at(d)), to.q_norm);
    }
    for (int64_t i = 0; i < std::ssize(k_inverse_); ++i) {
        norm_backward(k_in_.data() + i * d, k_inverse_[at(i)], weights_.k_norm,
                      std::span(dk).subspan(at(i * d), at(d)), to.k_norm);
    }
    const AttentionShape& a = record_.shape;
    add_outer(to.q, 1.0F, dq, record_.q_raw, a.n_query_channels());
    add_outer(to.k, 1.0F, dk, record_.hidden, a.n_embd);
    const float factor = 1.0F / std::sqrt(static_cast<float>(shape_.width()));
    add_outer(to.head, factor, d_alpha, record_.hidden, a.n_embd);
}

}  // namespace palimpsest
