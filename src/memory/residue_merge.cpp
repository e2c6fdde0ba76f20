// Values that go are averaged into the kept entry whose key is most like theirs.
//
// In the manner of the cache-merging literature (CaM: Zhang et al., ICML 2024; D2O: Wan et al.,
// 2024, arXiv:2406.13035): the nearest kept key by cosine. A kept value is the mean over all the
// entries it has come to stand for, so it counts how many those are. Keys stay as they are: keys
// turned to different positions have no meaningful mean. Entries less alike than `least` leave
// nothing, and sinks take nothing in, for their values are small on purpose.

#include <algorithm>

#include "memory/binary_stream.h"
#include "memory/residues.h"
#include "memory/row_tiles.h"

namespace palimpsest {

namespace {

constexpr int64_t kTile = 64;

class Merge final : public Residue {
 public:
    Merge(const MemoryShape& shape, OptionReader& options)
        : shape_(shape),
          least_(static_cast<float>(options.number("least-cosine", 0.5, -1, 1))),
          n_sink_(options.integer("merge-sinks", 4, 0, 1 << 20)),
          counts_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)) {}

    void absorb(const Eviction& e) override {
        std::vector<float>& counts =
            counts_[static_cast<size_t>(e.layer * shape_.n_head_kv + e.head)];
        counts.reserve(e.held.positions.size());  // to the entry: it is counted
        counts.resize(e.held.positions.size(), 1.0F);
        const std::vector<int32_t> targets = nearest_kept(e);
        add_values(e, targets, counts);
        for (size_t i = 0; i < e.kept.size(); ++i) {
            counts[i] = counts[static_cast<size_t>(e.kept[i])];
        }
        counts.resize(e.kept.size());
    }

    [[nodiscard]] bool is_readable() const override { return true; }
    void reset() override {
        for (auto& of : counts_) of.clear();
    }
    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const auto& of : counts_) n += of.capacity() * sizeof(float);
        return n;
    }
    [[nodiscard]] size_t bytes_per_entry() const override { return sizeof(float); }
    void save(std::ostream& out) const override {
        for (const auto& of : counts_) put_all(out, of);
    }
    void load(std::istream& in) override {
        for (auto& of : counts_) of = take_all<float>(in, int64_t{1} << 24);
    }

 private:
    /// For every slot that goes the kept slot whose key is nearest, or -1.
    [[nodiscard]] std::vector<int32_t> nearest_kept(const Eviction& e) const {
        const auto d = static_cast<size_t>(e.held.rows.d);
        std::vector<float> norms;
        for_keys(e.held,
                 [&](std::span<const float> k) { norms.push_back(std::max(norm(k), 1e-12F)); });
        std::vector<int32_t> targets(e.gone.size(), -1);
        std::vector<float> best(e.gone.size(), least_);
        std::vector<float> queries(static_cast<size_t>(kTile) * d);
        std::vector<float> products(static_cast<size_t>(kTile * kTile));
        for (size_t at = 0; at < e.gone.size(); at += kTile) {
            const size_t n = std::min(static_cast<size_t>(kTile), e.gone.size() - at);
            for (size_t i = 0; i < n; ++i) {
                read_keys(e.held.rows, e.gone[at + i], 1, queries.data() + i * d);
            }
            const int64_t held = std::ssize(norms);
            for (int64_t first = 0; first < held; first += kTile) {
                const int64_t count = std::min(kTile, held - first);
                multiply_keys(e.held.rows, first, count, queries.data(), static_cast<int64_t>(n),
                              products.data(), e.scratch);
                take_best(e, first, count,
                          std::span(products).first(static_cast<size_t>(count) * n), norms,
                          std::span(best).subspan(at, n), std::span(targets).subspan(at, n), at);
            }
        }
        return targets;
    }

    void take_best(const Eviction& e, int64_t first, int64_t count, std::span<const float> products,
                   const std::vector<float>& norms, std::span<float> best,
                   std::span<int32_t> targets, size_t at) const {
        const size_t n = best.size();
        for (int64_t t = 0; t < count; ++t) {
            const int64_t slot = first + t;
            if (e.held.positions[static_cast<size_t>(slot)] < n_sink_) continue;
            if (!std::ranges::binary_search(e.kept, static_cast<int32_t>(slot))) continue;
            for (size_t i = 0; i < n; ++i) {
                const float cosine =
                    products[static_cast<size_t>(t) * n + i] /
                    (norms[static_cast<size_t>(slot)] * norms[static_cast<size_t>(e.gone[at + i])]);
                if (!(cosine > best[i])) continue;
                best[i] = cosine;
                targets[i] = static_cast<int32_t>(slot);
            }
        }
    }

    static void add_values(const Eviction& e, const std::vector<int32_t>& targets,
                           std::vector<float>& counts) {
        EntryRows values = e.held.rows;
        values.k = values.v;
        const auto d = static_cast<size_t>(values.d);
        std::vector<float> mean(d);
        std::vector<float> value(d);
        std::vector<size_t> order;
        for (size_t i = 0; i < targets.size(); ++i) {
            if (targets[i] >= 0) order.push_back(i);
        }
        // Target after target, so that a stored value is rounded once.
        std::ranges::stable_sort(order, std::less{}, [&](size_t i) { return targets[i]; });
        for (size_t at = 0; at < order.size();) {
            const int32_t target = targets[order[at]];
            float& count = counts[static_cast<size_t>(target)];
            read_keys(values, target, 1, mean.data());
            for (float& x : mean) x *= count;
            for (; at < order.size() && targets[order[at]] == target; ++at) {
                const int32_t slot = e.gone[order[at]];
                const float weight = counts[static_cast<size_t>(slot)];
                read_keys(values, slot, 1, value.data());
                for (size_t c = 0; c < d; ++c) mean[c] += weight * value[c];
                count += weight;
            }
            for (float& x : mean) x /= count;
            e.store->write_value(e.layer, e.head, target, mean.data());
        }
    }

    MemoryShape shape_;
    float least_;
    int64_t n_sink_;
    std::vector<std::vector<float>> counts_;  // [layer * KV heads + head][entry]
};

}  // namespace

std::unique_ptr<Residue> make_merge(const MemoryShape& shape, OptionReader& options) {
    return std::make_unique<Merge>(shape, options);
}

}  // namespace palimpsest
