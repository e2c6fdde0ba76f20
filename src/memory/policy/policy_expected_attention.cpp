// Keeps what the queries to come would attend to, if they are distributed as those so far.
//
// Expected Attention (Devoto et al., 2025, arXiv:2510.00636): with queries of mean mu and
// covariance S, turned to the average of the next positions, a key's expected weight is exp(mu.k +
// k'Sk / 2), softmaxed over the keys, times the length of its value.

#include <algorithm>
#include <cmath>
#include <limits>

#include "memory/attention/row_tiles.h"
#include "memory/policy/observation.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr int64_t kTile = 64;

/// Mean and covariance of a head's queries, turned to positions to come: row 0..d-1 the covariance,
/// row d the mean.
struct FutureQueries {
    std::vector<float> rows;
    int64_t d;

    FutureQueries(std::span<const float> mean, std::span<const float> deviations, int64_t count,
                  const Rotation& rotation, const MeanRotation& turn)
        : d(std::ssize(mean)) {
        rows.resize(static_cast<size_t>(d * (d + 1)));
        for (int64_t i = 0; i < d * d; ++i) {
            rows[static_cast<size_t>(i)] =
                deviations[static_cast<size_t>(i)] / static_cast<float>(count);
        }
        std::copy(mean.begin(), mean.end(), rows.begin() + d * d);
        // R S R' and R mu: turn every row, then every column of S.
        for (int64_t r = 0; r <= d; ++r) turn_row(rows.data() + r * d, 1, rotation, turn);
        for (int64_t c = 0; c < d; ++c) turn_row(rows.data() + c, d, rotation, turn);
    }

 private:
    static void turn_row(float* row, int64_t stride, const Rotation& rotation,
                         const MeanRotation& turn) {
        for (size_t i = 0; i < turn.re.size(); ++i) {
            float& a = row[rotation.first(static_cast<int64_t>(i)) * stride];
            float& b = row[rotation.second(static_cast<int64_t>(i)) * stride];
            const auto x = static_cast<double>(a);
            const auto y = static_cast<double>(b);
            a = static_cast<float>(x * turn.re[i] - y * turn.im[i]);
            b = static_cast<float>(x * turn.im[i] + y * turn.re[i]);
        }
    }
};

class ExpectedAttention final : public EvictionPolicy {
 public:
    explicit ExpectedAttention(const PartInputs& in)
        : n_future_(in.options.integer("future", 512, 1, 1 << 20)),
          n_sink_(in.options.integer("sinks", 4, 0, 1 << 20)),
          use_covariance_(in.options.integer("covariance", 1, 0, 1) == 1),
          use_value_norm_(in.options.integer("value-norm", 1, 0, 1) == 1),
          epsilon_(static_cast<float>(in.options.number("epsilon", 0.0, 0.0, 1e6))),
          moments_(in.observers.add<QueryMoments>(in.shape, n_sink_)) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        const MeanRotation turn =
            mean_rotation(held.shape->rotation, held.next_position, n_future_);
        Scores scores;
        float best = 0;
        for (int64_t h = 0; h < std::ssize(held.heads); ++h) {
            scores.push_back(score_head(held, h, turn, noted[moments_]));
            for (const float x : scores.back()) best = std::max(best, x);
        }
        for (size_t h = 0; h < scores.size(); ++h) {
            const auto positions = held.heads[h].positions;
            for (size_t i = 0; i < positions.size() && positions[i] < n_sink_; ++i) {
                scores[h][i] = best + 1;
            }
        }
        return scores;
    }

 private:
    /// Sinks score 0.
    [[nodiscard]] std::vector<float> score_head(const LayerView& held, int64_t h,
                                                const MeanRotation& turn,
                                                const QueryMoments& moments) const {
        const HeadView& head = held.heads[static_cast<size_t>(h)];
        const int64_t n = std::ssize(head.positions);
        const int64_t first =
            std::ranges::lower_bound(head.positions, n_sink_) - head.positions.begin();
        const int64_t group = held.shape->group();
        std::vector<float> scores(static_cast<size_t>(n));
        std::vector<float> weights(static_cast<size_t>(n));
        for (int64_t q = h * group; q < (h + 1) * group; ++q) {
            const FutureQueries queries(
                moments.mean(held.layer, q), moments.deviations(held.layer, q),
                std::max<int64_t>(1, moments.count()), held.shape->rotation, turn);
            expected_logits(held, head, queries, first, weights);
            add_softmax(std::span(weights).subspan(static_cast<size_t>(first)),
                        std::span(scores).subspan(static_cast<size_t>(first)),
                        1.0F / static_cast<float>(group));
        }
        if (!use_value_norm_) return scores;
        size_t i = 0;
        for_values(head, [&](std::span<const float> value) {
            if (std::ssize(scores) > static_cast<int64_t>(i) && static_cast<int64_t>(i) >= first) {
                scores[i] = (scores[i] + epsilon_) * norm(value);
            }
            ++i;
        });
        return scores;
    }

    void expected_logits(const LayerView& held, const HeadView& head, const FutureQueries& queries,
                         int64_t first, std::vector<float>& logits) const {
        const int64_t d = queries.d;
        std::vector<float> keys(static_cast<size_t>(kTile * d));
        std::vector<float> products(static_cast<size_t>(kTile * (d + 1)));
        const int64_t n = std::ssize(logits);
        for (int64_t at = first; at < n; at += kTile) {
            const int64_t count = std::min(kTile, n - at);
            read_keys(head.rows, at, count, keys.data());
            multiply_keys(head.rows, {at, at + count}, queries.rows, products.data(), held.scratch);
            for (int64_t t = 0; t < count; ++t) {
                const auto of =
                    std::span<const float>(products).subspan(static_cast<size_t>(t * (d + 1)));
                const auto key = std::span<const float>(keys).subspan(static_cast<size_t>(t * d),
                                                                      static_cast<size_t>(d));
                float logit = of[static_cast<size_t>(d)] * held.scale;
                if (use_covariance_) {
                    logit +=
                        dot(key, of.first(static_cast<size_t>(d))) * held.scale * held.scale / 2;
                }
                logits[static_cast<size_t>(at + t)] = logit;
            }
        }
    }

    static void add_softmax(std::span<float> logits, std::span<float> to, float factor) {
        if (logits.empty()) return;
        const float peak = *std::ranges::max_element(logits);
        double sum = 0;
        for (float& x : logits) sum += static_cast<double>(x = std::exp(x - peak));
        const float scale = factor / static_cast<float>(sum);
        for (size_t i = 0; i < logits.size(); ++i) to[i] += logits[i] * scale;
    }

    int64_t n_future_, n_sink_;
    bool use_covariance_, use_value_norm_;
    float epsilon_;
    Noted<QueryMoments> moments_;
};

}  // namespace

MadePolicy make_expected_attention(const PartInputs& in) {
    return std::make_unique<ExpectedAttention>(in);
}

}  // namespace palimpsest
