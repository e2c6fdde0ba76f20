// The heads of a layer all keep the same share of the last query's attention, as far as the
// layer's budget goes (IndexMem's successor, "The Gating Mechanism of KV Cache Eviction").
//
// A head's entries come in the order of their scores; a common target mass is found by bisection
// such that the counts of all heads sum to the layer's budget, no head falling below a floor. What
// rounding leaves goes, entry by entry, to the head whose next entry has the most mass.
//
// Ours: protected entries count towards a head's mass, so that a head that looks at its sinks only
// asks for little; and the floor is a quarter of an equal share where that is less than 512, which
// at small budgets would leave nothing to share out.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "memory/eviction/allocation.h"
#include "memory/policy/observation.h"

namespace palimpsest {

namespace {

constexpr int kHalvings = 60;
constexpr double kFloorShare = 0.25;
constexpr int64_t kMostFloor = 512;

/// What a head's mass comes to with more and more of its entries that are not protected.
struct HeadMass {
    int64_t n_protected = 0;
    int64_t least = 0, most = 0;   // entries it may take besides the protected ones
    std::vector<double> retained;  // [most + 1]: with the best 0, 1, ... of them

    [[nodiscard]] int64_t taken_for(double mass) const {
        const auto first = retained.begin() + least;
        const auto found = std::lower_bound(first, retained.end(), mass);
        return std::min<int64_t>(found - retained.begin(), most);
    }
    /// Mass of the entry after the best `taken`; below 0: it may not have another.
    [[nodiscard]] double next(int64_t taken) const {
        if (taken >= most) return -1;
        const auto i = static_cast<size_t>(taken);
        return retained[i + 1] - retained[i];
    }
};

/// Slots of a head that are not protected, best first. Ties: the earlier.
std::vector<size_t> best_first(const std::vector<float>& scores,
                               const std::vector<uint8_t>& is_protected) {
    std::vector<size_t> order;
    for (size_t i = 0; i < scores.size(); ++i) {
        if (is_protected[i] == 0) order.push_back(i);
    }
    const auto score = [&](size_t i) {
        return std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i];
    };
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return score(a) > score(b); });
    return order;
}

HeadMass head_mass(const LayerCandidates& layer, size_t h, int64_t most) {
    const std::vector<float>& attention = layer.attention[h];
    const std::vector<size_t> order = best_first(layer.scores[h], layer.is_protected[h]);
    HeadMass of;
    of.n_protected = std::ssize(attention) - std::ssize(order);
    of.most = std::clamp<int64_t>(most - of.n_protected, 0, std::ssize(order));
    double mass = 0;
    for (size_t i = 0; i < attention.size(); ++i) {
        if (layer.is_protected[h][i] != 0) mass += static_cast<double>(attention[i]);
    }
    of.retained.push_back(mass);
    for (int64_t i = 0; i < of.most; ++i) {
        mass += static_cast<double>(attention[order[static_cast<size_t>(i)]]);
        of.retained.push_back(mass);
    }
    return of;
}

std::vector<int64_t> taken_for(const std::vector<HeadMass>& heads, double mass) {
    std::vector<int64_t> taken;
    taken.reserve(heads.size());
    for (const HeadMass& of : heads) taken.push_back(of.taken_for(mass));
    return taken;
}

int64_t sum_of(const std::vector<int64_t>& n) {
    return std::accumulate(n.begin(), n.end(), int64_t{0});
}

/// The most mass that all heads can have within `total` entries, and the rest by gain. Ties: the
/// head with fewer entries, then the earlier.
std::vector<int64_t> share_out(const std::vector<HeadMass>& heads, int64_t total) {
    double low = 0;
    double high = 2;  // above all mass there is
    for (int i = 0; i < kHalvings; ++i) {
        const double mass = (low + high) / 2;
        const bool fits = sum_of(taken_for(heads, mass)) <= total;
        (fits ? low : high) = mass;
    }
    std::vector<int64_t> taken = taken_for(heads, low);
    for (int64_t left = total - sum_of(taken); left > 0; --left) {
        size_t best = 0;
        for (size_t h = 1; h < heads.size(); ++h) {
            const double gain = heads[h].next(taken[h]);
            const double best_gain = heads[best].next(taken[best]);
            if (gain > best_gain || (gain == best_gain && taken[h] < taken[best])) best = h;
        }
        if (heads[best].next(taken[best]) < 0) break;
        ++taken[best];
    }
    return taken;
}

class MassAllocator final : public BudgetAllocator {
 public:
    explicit MassAllocator(const PartInputs& in)
        : last_query_(in.observers.add<QueryWindow>(in.shape, 1)),
          floor_(in.options.integer("mass-floor", -1, -1, int64_t{1} << 40)) {}

    void complete(LayerCandidates& layer, const Observers& noted) const override {
        const auto share = 1.0F / static_cast<float>(layer.view.shape->group());
        for (int64_t h = 0; h < std::ssize(layer.view.heads); ++h) {
            layer.attention.push_back(noted[last_query_].attention(layer.view, h, Reduce::kSum));
            for (float& x : layer.attention.back()) x *= share;
        }
    }

    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        std::vector<std::vector<int64_t>> counts;
        for (const LayerCandidates& layer : layers) counts.push_back(of_layer(layer, target));
        return counts;
    }

 private:
    [[nodiscard]] std::vector<int64_t> of_layer(const LayerCandidates& layer,
                                                const CutTarget& target) const {
        check(layer.attention.size() == layer.scores.size(),
              "the allocator `mass` is given the last query's attention");
        std::vector<HeadMass> heads;
        int64_t total = target.entries * std::ssize(layer.scores);
        for (size_t h = 0; h < layer.scores.size(); ++h) {
            heads.push_back(head_mass(layer, h, target.most));
            total -= heads.back().n_protected;
        }
        std::vector<int64_t> counts(heads.size(), target.entries);
        if (total < 0) return counts;  // what is protected alone is too much
        const int64_t equal = total / std::ssize(heads);
        for (HeadMass& of : heads) of.least = std::min(floor_of(equal), of.most);
        const std::vector<int64_t> taken = share_out(heads, total);
        for (size_t h = 0; h < heads.size(); ++h) counts[h] = heads[h].n_protected + taken[h];
        return counts;
    }

    [[nodiscard]] int64_t floor_of(int64_t equal) const {
        const auto quarter = static_cast<int64_t>(static_cast<double>(equal) * kFloorShare);
        return floor_ < 0 ? std::min(kMostFloor, quarter) : std::min(floor_, equal);
    }

    Noted<QueryWindow> last_query_;
    int64_t floor_;  // entries of every head besides the protected; -1: as the share of each
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_mass(const PartInputs& in) {
    return std::make_unique<MassAllocator>(in);
}

}  // namespace palimpsest
