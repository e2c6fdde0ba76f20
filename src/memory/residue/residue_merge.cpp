// Values that go are averaged into the kept entry whose key is most like theirs.
//
// In the manner of the cache-merging literature (CaM: Zhang et al., ICML 2024; D2O: Wan et al.,
// 2024, arXiv:2406.13035): the nearest kept key by cosine. A kept value is the mean over all the
// entries it has come to stand for, so it counts how many those are. Keys stay as they are: keys
// turned to different positions have no meaningful mean. Entries less alike than `least` leave
// nothing, and sinks take nothing in, for their values are small on purpose.

#include <algorithm>

#include "memory/attention/row_tiles.h"
#include "memory/binary_stream.h"
#include "memory/residue/residues.h"

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
    /// For every slot that goes the kept slot whose key is nearest so far, or -1, and its cosine.
    struct Nearest {
        std::vector<float> norms;  // of all keys held
        std::vector<int32_t> targets;
        std::vector<float> cosines;
    };

    [[nodiscard]] std::vector<int32_t> nearest_kept(const Eviction& e) const {
        const auto d = static_cast<size_t>(e.held.rows.d);
        Nearest nearest = {.norms = {},
                           .targets = std::vector<int32_t>(e.gone.size(), -1),
                           .cosines = std::vector<float>(e.gone.size(), least_)};
        for_keys(e.held, [&](std::span<const float> k) {
            nearest.norms.push_back(std::max(norm(k), 1e-12F));
        });
        std::vector<float> queries(static_cast<size_t>(kTile) * d);
        std::vector<float> products(static_cast<size_t>(kTile * kTile));
        for (size_t at = 0; at < e.gone.size(); at += kTile) {
            const size_t n = std::min(static_cast<size_t>(kTile), e.gone.size() - at);
            for (size_t i = 0; i < n; ++i) {
                read_keys(e.held.rows, e.gone[at + i], 1, queries.data() + i * d);
            }
            const int64_t held = std::ssize(nearest.norms);
            for (int64_t first = 0; first < held; first += kTile) {
                const SlotRange slots = {first, std::min(first + kTile, held)};
                multiply_keys(e.held.rows, slots, std::span<const float>(queries).first(n * d),
                              products.data(), e.scratch);
                take_nearer(e, slots, {at, n}, products, nearest);
            }
        }
        return std::move(nearest.targets);
    }

    /// n of the slots that go, from the at-th on.
    struct Gone {
        size_t at, n;
    };

    /// products[slot - slots.begin][i]: of a held key and the i-th of those that go.
    void take_nearer(const Eviction& e, SlotRange slots, Gone gone, std::span<const float> products,
                     Nearest& nearest) const {
        for (int64_t slot = slots.begin; slot < slots.end; ++slot) {
            if (e.held.positions[static_cast<size_t>(slot)] < n_sink_) continue;
            if (!std::ranges::binary_search(e.kept, static_cast<int32_t>(slot))) continue;
            const size_t row = static_cast<size_t>(slot - slots.begin) * gone.n;
            for (size_t i = 0; i < gone.n; ++i) {
                const size_t which = gone.at + i;
                const float cosine =
                    products[row + i] / (nearest.norms[static_cast<size_t>(slot)] *
                                         nearest.norms[static_cast<size_t>(e.gone[which])]);
                if (!(cosine > nearest.cosines[which])) continue;
                nearest.cosines[which] = cosine;
                nearest.targets[which] = static_cast<int32_t>(slot);
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

std::unique_ptr<Residue> make_merge(const PartInputs& in) {
    return std::make_unique<Merge>(in.shape, in.options);
}

}  // namespace palimpsest
