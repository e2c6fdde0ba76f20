// Keeps, of every partition of entries, those that stand out when measured by the next partition.
//
// LagKV (Liang et al., 2025, arXiv:2504.04704), with the scores of kvpress: keys and values are
// normalised channel by channel with the least and the largest value of the partition after; the
// spread over channels, softmaxed over the partition, gives ranks. Sinks, the last whole partition
// and the rest count as best.

#include <algorithm>
#include <numeric>

#include "memory/attention/row_tiles.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class LagKv final : public EvictionPolicy {
 public:
    explicit LagKv(OptionReader& options)
        : n_sink_(options.integer("sinks", 4, 0, 1 << 20)),
          lag_(options.integer("lag", 128, 2, 1 << 20)) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (const HeadView& head : held.heads) scores.push_back(score_head(head));
        return scores;
    }

 private:
    [[nodiscard]] std::vector<float> score_head(const HeadView& head) const {
        const int64_t n = std::ssize(head.positions);
        std::vector<float> scores(static_cast<size_t>(n), 1.0F);
        if (n < n_sink_ + 2 * lag_) {  // nothing to measure by: the later, the better
            for (int64_t i = n_sink_; i < n; ++i) {
                scores[static_cast<size_t>(i)] =
                    static_cast<float>(i - n_sink_) / static_cast<float>(n - n_sink_);
            }
            return scores;
        }
        EntryRows values = head.rows;
        values.k = values.v;
        const int64_t n_partition = (n - n_sink_) / lag_;
        for (int64_t p = 0; p + 1 < n_partition; ++p) {
            const int64_t first = n_sink_ + p * lag_;
            std::vector<float> both = spreads(head.rows, first);
            const std::vector<float> of_values = spreads(values, first);
            for (size_t i = 0; i < both.size(); ++i) both[i] = (both[i] + of_values[i]) / 2;
            rank(both, std::span(scores).subspan(static_cast<size_t>(first), both.size()));
        }
        return scores;
    }

    /// Softmax over partition [first, first + lag) of the spread over channels of its rows, each
    /// channel scaled by the least and the largest value in the partition after it.
    [[nodiscard]] std::vector<float> spreads(const EntryRows& rows, int64_t first) const {
        const int64_t d = rows.d;
        std::vector<float> tile(static_cast<size_t>(lag_ * d));
        read_keys(rows, first + lag_, lag_, tile.data());
        std::vector<float> least(tile.begin(), tile.begin() + d);
        std::vector<float> most = least;
        for (int64_t t = 1; t < lag_; ++t) {
            for (int64_t c = 0; c < d; ++c) {
                const float x = tile[static_cast<size_t>(t * d + c)];
                least[static_cast<size_t>(c)] = std::min(least[static_cast<size_t>(c)], x);
                most[static_cast<size_t>(c)] = std::max(most[static_cast<size_t>(c)], x);
            }
        }
        for (size_t c = 0; c < most.size(); ++c) {
            const float range = most[c] - least[c];
            most[c] = range > 0 ? 1.0F / range : 0.0F;  // a constant channel says nothing
        }
        read_keys(rows, first, lag_, tile.data());
        std::vector<float> spread;
        for (int64_t t = 0; t < lag_; ++t) {
            spread.push_back(deviation(
                std::span(tile).subspan(static_cast<size_t>(t * d), least.size()), least, most));
        }
        const float peak = *std::ranges::max_element(spread);
        float sum = 0;
        for (float& x : spread) sum += x = std::exp(x - peak);
        for (float& x : spread) x /= sum;
        return spread;
    }

    /// Unbiased standard deviation over channels; scales the row in place.
    static float deviation(std::span<float> row, std::span<const float> least,
                           std::span<const float> factor) {
        float sum = 0;
        for (size_t c = 0; c < row.size(); ++c) {
            row[c] = (row[c] - least[c]) * factor[c];
            sum += row[c];
        }
        const float mean = sum / static_cast<float>(row.size());
        float squares = 0;
        for (const float x : row) squares += (x - mean) * (x - mean);
        return std::sqrt(squares / static_cast<float>(row.size() - 1));
    }

    /// Places in ascending order, from 0, divided by their number.
    static void rank(std::span<const float> values, std::span<float> ranks) {
        std::vector<size_t> order(values.size());
        std::iota(order.begin(), order.end(), size_t{0});
        std::ranges::stable_sort(order, std::less{}, [&](size_t i) { return values[i]; });
        for (size_t place = 0; place < order.size(); ++place) {
            ranks[order[place]] = static_cast<float>(place) / static_cast<float>(order.size());
        }
    }

    int64_t n_sink_, lag_;
};

}  // namespace

MadePolicy make_lag_kv(const PartInputs& in) { return std::make_unique<LagKv>(in.options); }

}  // namespace palimpsest
