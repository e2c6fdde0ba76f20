// What goes is folded into a few mean entries a head, which stay in the softmax.
//
// The memory of IndexMem's successor ("The Gating Mechanism of KV Cache Eviction"): each centroid
// has the mean key, the mean value and the number n of the entries it stands for, and is attended
// to as an ordinary key whose logit is raised by ln n. The first cut divides what goes by k-means
// over keys after RoPE; later ones add to free places, then to the nearest mean.
//
// Ours: a later cut that lets go of more than there are centroids moves them by a few steps of the
// same k-means, with their numbers as weights: chunked reading would otherwise keep the division
// that its first chunk made. Fewer centroids than the successor's 64 unless told: at a budget of
// 1,024 entries those would cost an eighth of it again. Where survivors are renumbered, centroids
// stay where they were.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "memory/attention/query_op.h"
#include "memory/attention/row_tiles.h"
#include "memory/binary_stream.h"
#include "memory/kernels/attention_state.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

constexpr int kFirstSteps = 15;  // of k-means at the first cut
constexpr int kLaterSteps = 3;

/// Of one KV head: `count` of them in use.
struct Centroids {
    std::vector<float> keys, values;  // [n_slots][d_head]
    std::vector<float> weights;       // [n_slots]: entries each stands for
    int64_t count = 0;
};

/// Entries, or centroids, to be divided anew.
struct Points {
    std::vector<float> keys, values;  // [n][d]
    std::vector<float> weights;       // [n]
    size_t d = 0;

    [[nodiscard]] size_t size() const { return weights.size(); }
    [[nodiscard]] std::span<const float> key(size_t i) const {
        return std::span(keys).subspan(i * d, d);
    }
};

float squared_distance(std::span<const float> a, const float* b) {
    float sum = 0;
    for (size_t c = 0; c < a.size(); ++c) sum += (a[c] - b[c]) * (a[c] - b[c]);
    return sum;
}

constexpr int64_t kSlots = 15;  // 3 % of what 1,024 f16 entries take

class CentroidMemory final : public Residue {
 public:
    explicit CentroidMemory(const PartInputs& in)
        : shape_(in.shape),
          n_slots_(in.options.integer("centroids", kSlots, 1, 4096)),
          heads_(static_cast<size_t>(shape_.n_layer * shape_.n_head_kv)) {
        for (size_t i = 0; i < heads_.size(); ++i) {
            if (shape_.window(static_cast<int64_t>(i) / shape_.n_head_kv) > 0) continue;
            heads_[i].keys.resize(static_cast<size_t>(n_slots_ * shape_.d_head));
            heads_[i].values.resize(static_cast<size_t>(n_slots_ * shape_.d_head));
            heads_[i].weights.resize(static_cast<size_t>(n_slots_));
        }
    }

    void absorb(const Eviction& e) override {
        Centroids& of = heads_[static_cast<size_t>(e.layer * shape_.n_head_kv + e.head)];
        const Points gone = read(e);
        if (gone.size() == 0) return;
        if (of.count == 0 || static_cast<int64_t>(gone.size()) > n_slots_) {
            divide(joined(of, gone), of.count == 0 ? kFirstSteps : kLaterSteps, of);
            return;
        }
        for (size_t i = 0; i < gone.size(); ++i) add(gone, i, of);
    }

    Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                AttentionScratch& scratch) override {
        const int64_t first = in.layer * shape_.n_head_kv;
        const auto change = [this, first, scale = in.scale, &scratch](int64_t head, int64_t token,
                                                                      const float* q, float* out,
                                                                      std::span<float> logits) {
            const Centroids& of = heads_[static_cast<size_t>(first + head / shape_.group())];
            if (of.count == 0) return;
            const auto d = static_cast<size_t>(shape_.d_head);
            join_means(of, {q, d}, scale, *scratch.lse(head, token), {out, d},
                       logits.first(static_cast<size_t>(of.count)));
        };
        return change_answers(g, shape_, in, attended, {.n_scratch = n_slots_, .change = change});
    }

    [[nodiscard]] bool is_readable() const override { return true; }
    void reset() override {
        for (Centroids& of : heads_) of.count = 0;
    }
    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const Centroids& of : heads_) {
            n += (of.keys.size() + of.values.size() + of.weights.size()) * sizeof(float);
        }
        return n;
    }
    [[nodiscard]] std::vector<NamedState> state(int64_t layer, int64_t head) const override {
        const Centroids& of = heads_[static_cast<size_t>(layer * shape_.n_head_kv + head)];
        const auto floats = of.count * shape_.d_head;
        return {
            {"centroid_keys",
             {of.count, shape_.d_head},
             {of.keys.begin(), of.keys.begin() + floats}},
            {"centroid_values",
             {of.count, shape_.d_head},
             {of.values.begin(), of.values.begin() + floats}},
            {"centroid_counts", {of.count}, {of.weights.begin(), of.weights.begin() + of.count}}};
    }
    void save(std::ostream& out) const override {
        for (const Centroids& of : heads_) {
            put(out, of.count);
            put_all(out, of.keys);
            put_all(out, of.values);
            put_all(out, of.weights);
        }
    }
    void load(std::istream& in) override {
        std::vector<Centroids> heads(heads_.size());
        for (size_t i = 0; i < heads.size(); ++i) {
            Centroids& of = heads[i];
            of.count = take<int64_t>(in);
            of.keys = take_all<float>(in, std::ssize(heads_[i].keys));
            of.values = take_all<float>(in, std::ssize(heads_[i].values));
            of.weights = take_all<float>(in, std::ssize(heads_[i].weights));
            const bool counts = all_finite(of.keys) && all_finite(of.values) &&
                                all_finite(of.weights) &&
                                std::ranges::all_of(of.weights, [](float w) { return w >= 0; });
            const bool fits = counts && of.count >= 0 && of.count <= std::ssize(of.weights) &&
                              of.keys.size() == heads_[i].keys.size() &&
                              of.values.size() == heads_[i].values.size() &&
                              of.weights.size() == heads_[i].weights.size();
            if (!fits) throw Error(ErrorCode::kCorrupt, "the saved memory's centroids do not fit");
        }
        heads_ = std::move(heads);
    }

 private:
    [[nodiscard]] Points read(const Eviction& e) const {
        Points p = {
            .keys = {}, .values = {}, .weights = {}, .d = static_cast<size_t>(shape_.d_head)};
        p.keys.resize(e.gone.size() * p.d);
        p.values.resize(e.gone.size() * p.d);
        EntryRows values = e.held.rows;
        values.k = values.v;
        size_t n = 0;  // one that is not finite is left out: it would spoil its centroid for good
        for (const int32_t slot : e.gone) {
            const auto key = std::span(p.keys).subspan(n * p.d, p.d);
            const auto value = std::span(p.values).subspan(n * p.d, p.d);
            read_keys(e.held.rows, slot, 1, key.data());
            read_keys(values, slot, 1, value.data());
            if (all_finite(key) && all_finite(value)) ++n;
        }
        p.keys.resize(n * p.d);
        p.values.resize(n * p.d);
        p.weights.assign(n, 1.0F);
        return p;
    }

    /// The centroids there are, then the entries.
    [[nodiscard]] static Points joined(const Centroids& of, const Points& gone) {
        const auto n = static_cast<size_t>(of.count);
        const auto put_first = [](const std::vector<float>& first, size_t count,
                                  const std::vector<float>& then) {
            std::vector<float> all(first.begin(),
                                   first.begin() + static_cast<std::ptrdiff_t>(count));
            all.insert(all.end(), then.begin(), then.end());
            return all;
        };
        return {.keys = put_first(of.keys, n * gone.d, gone.keys),
                .values = put_first(of.values, n * gone.d, gone.values),
                .weights = put_first(of.weights, n, gone.weights),
                .d = gone.d};
    }

    /// k-means (Lloyd, 1982) over keys. It starts from the first points where those are centroids,
    /// and from points at even distances for the rest.
    void divide(const Points& points, int steps, Centroids& of) const {
        const size_t d = points.d;
        const auto before = static_cast<size_t>(of.count);
        const size_t count = std::min(static_cast<size_t>(n_slots_), points.size());
        for (size_t s = before; s < count; ++s) {
            const size_t from = before + (s - before) * (points.size() - before) / (count - before);
            std::ranges::copy(points.key(from),
                              of.keys.begin() + static_cast<std::ptrdiff_t>(s * d));
        }
        of.count = static_cast<int64_t>(count);
        std::vector<size_t> nearest(points.size());
        for (int step = 0; step < steps; ++step) {
            for (size_t i = 0; i < points.size(); ++i) nearest[i] = nearest_to(points.key(i), of);
            if (!move(points, nearest, of)) break;
        }
    }

    /// Every centroid to the mean of its points. One that has none keeps its key and weighs
    /// nothing. Returns whether any key changed.
    static bool move(const Points& points, const std::vector<size_t>& nearest, Centroids& of) {
        const size_t d = points.d;
        const auto n = static_cast<size_t>(of.count);
        std::vector<float> keys(n * d);
        std::vector<float> values(n * d);
        std::vector<float> weights(n);
        for (size_t i = 0; i < points.size(); ++i) {
            const size_t s = nearest[i];
            weights[s] += points.weights[i];
            for (size_t c = 0; c < d; ++c) {
                keys[s * d + c] += points.weights[i] * points.keys[i * d + c];
                values[s * d + c] += points.weights[i] * points.values[i * d + c];
            }
        }
        bool moved = false;
        for (size_t s = 0; s < n; ++s) {
            of.weights[s] = weights[s];
            if (weights[s] == 0) continue;
            for (size_t c = 0; c < d; ++c) {
                const float key = keys[s * d + c] / weights[s];
                moved = moved || key != of.keys[s * d + c];
                of.keys[s * d + c] = key;
                of.values[s * d + c] = values[s * d + c] / weights[s];
            }
        }
        return moved;
    }

    [[nodiscard]] static size_t nearest_to(std::span<const float> key, const Centroids& of) {
        size_t best = 0;
        float least = std::numeric_limits<float>::infinity();
        for (size_t s = 0; s < static_cast<size_t>(of.count); ++s) {
            const float distance = squared_distance(key, of.keys.data() + s * key.size());
            if (distance < least) {
                least = distance;
                best = s;
            }
        }
        return best;
    }

    /// One entry to a free place, else into the running mean of the nearest.
    void add(const Points& points, size_t i, Centroids& of) const {
        const size_t d = points.d;
        size_t s = static_cast<size_t>(of.count);
        if (of.count < n_slots_) {
            ++of.count;
            of.weights[s] = 0;
        } else {
            s = nearest_to(points.key(i), of);
        }
        of.weights[s] += 1;
        const float share = 1.0F / of.weights[s];
        for (size_t c = 0; c < d; ++c) {
            float& key = of.keys[s * d + c];
            float& value = of.values[s * d + c];
            key += share * (points.keys[i * d + c] - key);
            value += share * (points.values[i * d + c] - value);
        }
    }

    /// Joins attention over the entries, of which the log of the sum is known, with the centroids;
    /// that log is of everything together afterwards.
    static void join_means(const Centroids& of, std::span<const float> q, float scale, float& lse,
                           std::span<float> out, std::span<float> logits) {
        for (size_t s = 0; s < logits.size(); ++s) {
            const std::span<const float> key(of.keys.data() + s * q.size(), q.size());
            logits[s] =
                of.weights[s] > 0 ? scale * dot(key, q) + std::log(of.weights[s]) : kEmptyState;
        }
        lse = join_logits(out, lse, logits);
        for (size_t s = 0; s < logits.size(); ++s) {
            const float* value = of.values.data() + s * q.size();
            for (size_t c = 0; c < out.size(); ++c) out[c] += logits[s] * value[c];
        }
    }

    MemoryShape shape_;
    int64_t n_slots_;
    std::vector<Centroids> heads_;  // [layer][KV head]
};

}  // namespace

std::unique_ptr<Residue> make_centroids(const PartInputs& in) {
    return std::make_unique<CentroidMemory>(in);
}

}  // namespace palimpsest
