#include "train/latent/objective_memory.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "memory/budget.h"
#include "memory/eviction/selection.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

/// One KV head's memory of what went, and the way back through it.
class HeadMemory {
 public:
    HeadMemory(const LayerRecord& record, std::span<const int32_t> evicted, int64_t head_kv,
               std::span<const float> phi)
        : phi_(phi),
          d_(record.shape.d_head),
          n_feature_(std::ssize(phi) / d_),
          keys_(rows_of_head(evicted, record, &LayerRecord::key, head_kv)),
          values_(rows_of_head(evicted, record, &LayerRecord::value, head_kv)),
          features_(through(keys_, phi, d_)),
          m_(phi.size()),
          b_(at(n_feature_)),
          dm_(phi.size()),
          db_(at(n_feature_)) {
        add_outer(m_, 1.0F, features_, values_, d_);
        for (size_t i = 0; i < features_.size(); ++i) {
            b_[i % b_.size()] += features_[i] * features_[i];
        }
        for (size_t i = 0; i < values_.size(); i += at(d_)) {
            const float* v = values_.data() + i;
            longest_ = std::max(longest_, std::sqrt(dot_rows(v, v, d_)));
        }
    }

    /// An answer, and what is needed on the way back.
    struct Answer {
        std::vector<float> features;  // of the query
        std::vector<float> m;         // [d_head]
        float inverse = 0;            // one over the denominator
        bool is_floored = false;      // the denominator is the floor
        float shortened = 1;          // what clipping made of its length
    };

    [[nodiscard]] Answer answer(const float* q, const MemoryRule& rule) const {
        Answer a;
        a.features = through({q, at(d_)}, phi_, d_);
        a.m.resize(at(d_));
        float denominator = 0;
        for (int64_t j = 0; j < n_feature_; ++j) {
            const float f = a.features[at(j)];
            denominator += f * f * b_[at(j)];
            add_scaled(a.m.data(), f, m_.data() + j * d_, d_);
        }
        a.is_floored = denominator < rule.floor;
        a.inverse = 1.0F / std::max(denominator, rule.floor);
        const float length = std::sqrt(dot_rows(a.m.data(), a.m.data(), d_)) * a.inverse;
        if (!std::isfinite(length)) {  // counts as no answer, as when running
            std::ranges::fill(a.m, 0.0F);
            a.inverse = 0;
            a.is_floored = true;
            return a;
        }
        if (rule.clips && length > longest_) a.shortened = longest_ / length;
        for (float& x : a.m) x *= a.inverse * a.shortened;
        return a;
    }

    /// Takes in the gradient of an answer to `q`: `dm` [d_head], which is used up. Adds the
    /// query's share to `d_phi`.
    void take_back(const float* q, const Answer& a, std::span<float> dm, std::span<float> d_phi) {
        if (a.shortened < 1) {
            // Its length is fixed: only what turns it counts, and the denominator does not.
            const float squared = dot_rows(a.m.data(), a.m.data(), d_);
            const float along = squared > 0 ? dot_rows(dm.data(), a.m.data(), d_) / squared : 0;
            add_scaled(dm.data(), -along, a.m.data(), d_);
            for (float& x : dm) x *= a.shortened;
        }
        const float d_denominator =
            a.is_floored || a.shortened < 1 ? 0 : -dot_rows(dm.data(), a.m.data(), d_) * a.inverse;
        for (int64_t j = 0; j < n_feature_; ++j) {
            const float f = a.features[at(j)];
            const float df = a.inverse * dot_rows(m_.data() + j * d_, dm.data(), d_) +
                             2 * f * b_[at(j)] * d_denominator;
            add_scaled(d_phi.data() + j * d_, df, q, d_);
            add_scaled(dm_.data() + j * d_, f * a.inverse, dm.data(), d_);
            db_[at(j)] += f * f * d_denominator;
        }
    }

    /// Adds the share of the keys, after all answers were taken back.
    void finish(std::span<float> d_phi) const {
        std::vector<float> df = through(values_, dm_, d_);
        for (size_t i = 0; i < df.size(); ++i) {
            df[i] += 2 * features_[i] * db_[i % db_.size()];
        }
        add_outer(d_phi, 1.0F, df, keys_, d_);
    }

 private:
    std::span<const float> phi_;
    int64_t d_, n_feature_;
    std::vector<float> keys_, values_;  // [evicted][d_head]
    std::vector<float> features_;       // [evicted][n_feature]
    std::vector<float> m_, b_;          // [n_feature][d_head], [n_feature]
    std::vector<float> dm_, db_;
    float longest_ = 0;
};

/// Of one query, where its numbers go.
struct TargetRow {
    float* missing = nullptr;  // [d_head]
    float* stays = nullptr;    // [d_head]
    float* lse = nullptr;
};

/// What attention over all keys says of `token`, less what it says without those marked; and the
/// latter.
void look_at(const LayerRecord& record, const std::vector<char>& is_evicted, int64_t token,
             int64_t head, std::span<float> weights, const TargetRow& to) {
    const float largest = attention_logits(record, token, head, weights);
    double sum = 0;
    for (float& w : weights.first(at(token) + 1)) {
        w = std::exp(w - largest);
        sum += static_cast<double>(w);
    }
    const int64_t d = record.shape.d_head;
    const int64_t head_kv = head / record.shape.group();
    const auto factor = static_cast<float>(1.0 / sum);
    double kept = 0;
    std::vector<float> gone(at(d));
    std::fill_n(to.stays, d, 0.0F);
    for (int64_t t = 0; t <= token; ++t) {
        const float w = weights[at(t)] * factor;
        const bool goes = t < record.n_prompt && is_evicted[at(t)] != 0;
        if (!goes) kept += static_cast<double>(w);
        add_scaled(goes ? gone.data() : to.stays, w, record.value(t, head_kv), d);
    }
    const auto surplus = static_cast<float>(1.0 / kept - 1.0);
    for (int64_t c = 0; c < d; ++c) {
        to.missing[c] = gone[at(c)] - surplus * to.stays[c];
        to.stays[c] *= static_cast<float>(1.0 / kept);
    }
    *to.lse = largest + static_cast<float>(std::log(sum * kept));
}

std::vector<char> marks_of(std::span<const int32_t> rows, const LayerRecord& record) {
    std::vector<char> marks(at(record.n_prompt));
    for (const int32_t t : rows) {
        require(t >= 0 && t < record.n_prompt, "row ", t, " is not one of a prompt of ",
                record.n_prompt);
        marks[at(t)] = 1;
    }
    return marks;
}

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

}  // namespace

std::vector<int32_t> rows_to_evict(std::span<const float> importance, double evicted_share,
                                   int64_t n_sink) {
    const int64_t n = std::ssize(importance);
    std::vector<int32_t> positions(importance.size());
    std::iota(positions.begin(), positions.end(), 0);
    const Protection protection = {.n_sink = n_sink};
    const std::vector<uint8_t> is_protected = protection.mark(positions, n);
    const std::vector<int32_t> kept = select_entries({.scores = importance,
                                                      .positions = positions,
                                                      .is_protected = is_protected,
                                                      .n_sink = n_sink},
                                                     kept_of(n, evicted_share));
    return complement(kept, n);
}

MemoryTarget memory_target(const LayerRecord& record, HeadRows evicted, int64_t read_every) {
    record.check();
    require(read_every >= 1, "every ", read_every, ". token cannot read");
    require(record.n > record.n_prompt, "a document without a response asks nothing of a memory");
    const AttentionShape& s = record.shape;
    require(std::ssize(evicted) == s.n_head_kv, "rows of ", evicted.size(), " heads, not of ",
            s.n_head_kv);
    std::vector<std::vector<char>> is_evicted;  // [KV head][row]
    for (const std::vector<int32_t>& rows : evicted) is_evicted.push_back(marks_of(rows, record));
    MemoryTarget target;
    target.evicted = std::move(evicted);
    std::vector<float> weights(at(record.n));
    for (int64_t token = record.n_prompt; token < record.n; token += read_every) {
        target.readers.push_back(static_cast<int32_t>(token));
    }
    target.missing.resize(target.readers.size() * at(s.n_query_channels()));
    target.stays.resize(target.missing.size());
    target.lse.resize(target.readers.size() * at(s.n_head));
    TargetRow to = {target.missing.data(), target.stays.data(), target.lse.data()};
    for (const int32_t token : target.readers) {
        for (int64_t h = 0; h < s.n_head; ++h) {
            look_at(record, is_evicted[at(h / s.group())], token, h, weights, to);
            to = {to.missing + s.d_head, to.stays + s.d_head, to.lse + 1};
        }
    }
    return target;
}

double memory_loss(const LayerRecord& record, const MemoryTarget& target,
                   const MemoryParts<const float>& weights, const MemoryRule& rule, float weight,
                   const MemoryParts<float>& gradient) {
    const AttentionShape& s = record.shape;
    require(
        !weights.phi.empty() && std::ssize(weights.phi) % s.d_head == 0 && weights.gate.size() == 1,
        "a latent memory's features are not of ", s.d_head, " channels");
    const bool learns = !gradient.phi.empty();
    const float gate = sigmoid(weights.gate[0]);
    const auto divisor = static_cast<double>(target.missing.size());
    double loss = 0;
    double d_gate = 0;
    std::vector<float> dm(at(s.d_head));
    for (int64_t head_kv = 0; head_kv < s.n_head_kv; ++head_kv) {
        HeadMemory memory(record, target.evicted[at(head_kv)], head_kv, weights.phi);
        for (int64_t i = 0; i < std::ssize(target.readers) * s.group(); ++i) {
            const int64_t row = i / s.group();
            const int64_t head = head_kv * s.group() + i % s.group();
            const float* q = record.query(target.readers[at(row)], head);
            const float* missing = target.missing.data() + (row * s.n_head + head) * s.d_head;
            const HeadMemory::Answer answer = memory.answer(q, rule);
            for (size_t c = 0; c < dm.size(); ++c) {
                const float error = gate * answer.m[c] - missing[c];
                loss += static_cast<double>(error) * static_cast<double>(error);
                const double slope =
                    2 * static_cast<double>(error) / divisor * static_cast<double>(weight);
                d_gate += slope * static_cast<double>(answer.m[c]);
                dm[c] = static_cast<float>(slope) * gate;
            }
            if (learns) memory.take_back(q, answer, dm, gradient.phi);
        }
        if (learns) memory.finish(gradient.phi);
    }
    if (learns) gradient.gate[0] += static_cast<float>(d_gate) * gate * (1 - gate);
    return loss / divisor;
}

}  // namespace palimpsest
