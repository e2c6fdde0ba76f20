#include "train/latent/objective_softmax_memory.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "memory/kernels/attention_state.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

/// One head's part of what all heads have.
template <typename T>
SoftmaxMemoryParts<T> of_head(const SoftmaxMemoryParts<T>& all, int64_t head, int64_t n_head) {
    const auto part = [&](std::span<T> of) {
        const size_t n = of.size() / at(n_head);
        return of.subspan(at(head) * n, n);
    };
    return {.key = part(all.key),
            .key_bias = part(all.key_bias),
            .query = part(all.query),
            .query_bias = part(all.query_bias)};
}

void add_bias(std::vector<float>& rows, std::span<const float> bias) {
    for (size_t i = 0; i < rows.size(); ++i) rows[i] += bias[i % bias.size()];
}

/// One KV head's memory of what went, and the way back through it.
class HeadMemory {
 public:
    HeadMemory(const LayerRecord& record, std::span<const int32_t> evicted, int64_t head_kv,
               const SoftmaxMemoryParts<const float>& weights)
        : weights_(weights),
          d_(record.shape.d_head),
          n_feature_(std::ssize(weights.key_bias)),
          keys_(rows_of_head(evicted, record, &LayerRecord::key, head_kv)),
          values_(rows_of_head(evicted, record, &LayerRecord::value, head_kv)),
          parts_(through(keys_, weights.key, d_)),
          mean_(weights.key.size()),
          b_(at(n_feature_)),
          d_mean_(weights.key.size()),
          d_log_b_(at(n_feature_)) {
        add_bias(parts_, weights.key_bias);
        for (size_t i = 0; i < parts_.size(); i += b_.size()) {
            softmax_logits(std::span(parts_).subspan(i, b_.size()));
        }
        add_outer(mean_, 1.0F, parts_, values_, d_);
        for (size_t i = 0; i < parts_.size(); ++i) b_[i % b_.size()] += parts_[i];
        for (size_t i = 0; i < mean_.size(); ++i) {
            const float n = b_[i / at(d_)];
            mean_[i] = n > 0 ? mean_[i] / n : 0;
        }
    }

    /// What it has to say, and what is needed on the way back.
    struct Answer {
        std::vector<float> p;  // [n_feature]: softmax over features
        std::vector<float> m;  // [d_head]
        float lse = kEmptyState;
    };

    [[nodiscard]] Answer answer(const float* q) const {
        Answer a;
        a.p = through({q, at(d_)}, weights_.query, d_);
        for (size_t j = 0; j < a.p.size(); ++j) {
            a.p[j] = b_[j] > 0 ? a.p[j] + weights_.query_bias[j] + std::log(b_[j]) : kEmptyState;
        }
        a.lse = softmax_logits(a.p);
        a.m.resize(at(d_));
        for (int64_t j = 0; j < n_feature_; ++j) {
            add_scaled(a.m.data(), a.p[at(j)], mean_.data() + j * d_, d_);
        }
        return a;
    }

    /// Takes in the gradients of an answer to `q`: of its m [d_head] and of its lse. Adds the
    /// query's share to `to`.
    void take_back(const float* q, const Answer& a, std::span<const float> dm, float d_lse,
                   const SoftmaxMemoryParts<float>& to) {
        const float along = dot_rows(dm.data(), a.m.data(), d_);
        for (int64_t j = 0; j < n_feature_; ++j) {
            const float p = a.p[at(j)];
            if (p == 0) continue;
            const float d_logit =
                p * (dot_rows(dm.data(), mean_.data() + j * d_, d_) - along + d_lse);
            add_scaled(to.query.data() + j * d_, d_logit, q, d_);
            to.query_bias[at(j)] += d_logit;
            d_log_b_[at(j)] += d_logit;
            add_scaled(d_mean_.data() + j * d_, p, dm.data(), d_);
        }
    }

    /// Adds the share of the keys, after all answers were taken back.
    void finish(const SoftmaxMemoryParts<float>& to) const {
        // mean = M / b: with u = d_mean / b, dM = u and db = d_log_b / b - u . mean.
        std::vector<float> u = d_mean_;
        std::vector<float> db(b_.size());
        for (int64_t j = 0; j < n_feature_; ++j) {
            const float inverse = b_[at(j)] > 0 ? 1.0F / b_[at(j)] : 0;
            for (int64_t c = 0; c < d_; ++c) u[at(j * d_ + c)] *= inverse;
            db[at(j)] =
                d_log_b_[at(j)] * inverse - dot_rows(u.data() + j * d_, mean_.data() + j * d_, d_);
        }
        std::vector<float> d_parts = through(values_, u, d_);
        add_bias(d_parts, db);
        const size_t n = b_.size();
        for (size_t i = 0; i < d_parts.size(); i += n) {  // back through the softmax
            const float* a = parts_.data() + i;
            float* d = d_parts.data() + i;
            const float mean = dot_rows(a, d, n_feature_);
            for (size_t j = 0; j < n; ++j) {
                d[j] = a[j] * (d[j] - mean);
                to.key_bias[j] += d[j];
            }
        }
        add_outer(to.key, 1.0F, d_parts, keys_, d_);
    }

 private:
    SoftmaxMemoryParts<const float> weights_;
    int64_t d_, n_feature_;
    std::vector<float> keys_, values_;  // [evicted][d_head]
    std::vector<float> parts_;          // [evicted][n_feature]: how each is shared out
    std::vector<float> mean_, b_;       // [n_feature][d_head], [n_feature]
    std::vector<float> d_mean_, d_log_b_;
};

void check(const SoftmaxMemoryParts<const float>& w, const AttentionShape& s) {
    const auto n_bias = std::ssize(w.key_bias);
    require(n_bias > 0 && n_bias % s.n_head_kv == 0 && w.query_bias.size() == w.key_bias.size() &&
                std::ssize(w.key) == n_bias * s.d_head && w.query.size() == w.key.size(),
            "a latent memory's maps are not of ", s.n_head_kv, " heads of ", s.d_head, " channels");
}

}  // namespace

double softmax_memory_loss(const LayerRecord& record, const MemoryTarget& target,
                           const SoftmaxMemoryParts<const float>& weights, float weight,
                           const SoftmaxMemoryParts<float>& gradient) {
    const AttentionShape& s = record.shape;
    check(weights, s);
    const bool learns = !gradient.key.empty();
    const auto divisor = static_cast<double>(target.missing.size());
    const auto slope = static_cast<float>(2 * static_cast<double>(weight) / divisor);
    const auto d = at(s.d_head);
    double loss = 0;
    std::vector<float> dm(d);
    for (int64_t head_kv = 0; head_kv < s.n_head_kv; ++head_kv) {
        HeadMemory memory(record, target.evicted[at(head_kv)], head_kv,
                          of_head(weights, head_kv, s.n_head_kv));
        const auto to = learns ? of_head(gradient, head_kv, s.n_head_kv) : gradient;
        for (int64_t i = 0; i < std::ssize(target.readers) * s.group(); ++i) {
            const int64_t row = i / s.group();
            const int64_t head = head_kv * s.group() + i % s.group();
            const float* q = record.query(target.readers[at(row)], head);
            const size_t place = at(row * s.n_head + head);
            const float* missing = target.missing.data() + place * d;
            const float* stays = target.stays.data() + place * d;
            const HeadMemory::Answer answer = memory.answer(q);
            const float w = weight_of_state(answer.lse, target.lse[place]);
            float dw = 0;
            for (size_t c = 0; c < d; ++c) {
                const float difference = answer.m[c] - stays[c];
                const float error = w * difference - missing[c];
                loss += static_cast<double>(error) * static_cast<double>(error);
                dw += slope * error * difference;
                dm[c] = slope * error * w;
            }
            if (learns && w > 0) memory.take_back(q, answer, dm, dw * w * (1 - w), to);
        }
        if (learns) memory.finish(to);
    }
    return loss / divisor;
}

}  // namespace palimpsest
