// How many entries each head gets, where that takes more than counting the best.

#include "memory/eviction/allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "memory/eviction/eviction.h"

namespace palimpsest {
namespace {

/// One layer of heads with scores and attention by lot; the first `n_protected` entries are safe.
/// Head h's attention falls off faster the larger h is.
LayerCandidates layer_by_lot(int64_t n_heads, int64_t n, int64_t n_protected, uint32_t seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> unit(0.0F, 1.0F);
    LayerCandidates layer;
    for (int64_t h = 0; h < n_heads; ++h) {
        std::vector<float> scores;
        std::vector<float> attention;
        std::vector<uint8_t> marks;
        float sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            scores.push_back(unit(random));
            attention.push_back(std::exp(static_cast<float>(6 * h) * (scores.back() - 1)) *
                                unit(random));
            marks.push_back(i < n_protected ? 1 : 0);
            sum += attention.back();
        }
        for (float& x : attention) x /= sum;
        layer.scores.push_back(scores);
        layer.attention.push_back(attention);
        layer.is_protected.push_back(marks);
    }
    return layer;
}

CutTarget target_of(int64_t entries, int64_t n_protected) {
    return {.exact = static_cast<double>(entries),
            .entries = entries,
            .most = 1 << 20,
            .n_protected = n_protected};
}

std::unique_ptr<BudgetAllocator> mass(const OptionMap& settings = {}) {
    OptionReader reader("allocator 'mass'", settings);
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 2, .n_head_kv = 2, .d_head = 32, .windows = {}};
    Observers observers;
    return find_allocator("mass").make({.shape = shape, .options = reader, .observers = observers});
}

int64_t sum_of(const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

/// Mass that a head keeps with its protected entries and the best `n` others.
double mass_of(const LayerCandidates& layer, size_t h, int64_t n) {
    std::vector<std::pair<float, float>> others;  // minus the score, attention
    double sum = 0;
    for (size_t i = 0; i < layer.scores[h].size(); ++i) {
        if (layer.is_protected[h][i] != 0) {
            sum += static_cast<double>(layer.attention[h][i]);
        } else {
            others.emplace_back(-layer.scores[h][i], layer.attention[h][i]);
        }
    }
    std::ranges::sort(others);
    for (int64_t i = 0; i < n; ++i) {
        sum += static_cast<double>(others[static_cast<size_t>(i)].second);
    }
    return sum;
}

/// By plain loops: from the floor on, the head with the least mass so far takes its next entry. All
/// that have taken more than the floor then have the same mass, as nearly as entries allow.
std::vector<int64_t> poorest_first(const LayerCandidates& layer, int64_t total, int64_t floor,
                                   int64_t n_protected) {
    std::vector<int64_t> taken(layer.scores.size(), floor);
    const int64_t room = std::ssize(layer.scores[0]) - n_protected;
    for (int64_t left = total - sum_of(taken); left > 0; --left) {
        size_t poorest = layer.scores.size();
        for (size_t h = 0; h < layer.scores.size(); ++h) {
            if (taken[h] == room) continue;
            if (poorest == layer.scores.size() ||
                mass_of(layer, h, taken[h]) < mass_of(layer, poorest, taken[poorest])) {
                poorest = h;
            }
        }
        ++taken[poorest];
    }
    return taken;
}

TEST(MassAllocator, GivesThePoorestHeadTheNextEntry) {
    for (uint32_t seed = 1; seed <= 20; ++seed) {
        const LayerCandidates layer = layer_by_lot(4, 60, 3, seed);
        const auto counts = mass()->allocate(std::span(&layer, 1), target_of(23, 3));
        ASSERT_EQ(counts.size(), 1U);
        EXPECT_EQ(sum_of(counts[0]), 4 * 23);
        const std::vector<int64_t> expected = poorest_first(layer, 80, 5, 3);
        for (size_t h = 0; h < 4; ++h) EXPECT_EQ(counts[0][h], expected[h] + 3) << "seed " << seed;
    }
}

TEST(MassAllocator, HeadsThatLookAtFewEntriesGetTheFloor) {
    // One head looks at its best entry only, the other at all alike.
    LayerCandidates layer = layer_by_lot(2, 40, 0, 1);
    for (size_t i = 0; i < 40; ++i) {
        layer.scores[0][i] = layer.scores[1][i] = static_cast<float>(40 - i);
        layer.attention[0][i] = i == 0 ? 1.0F : 0.0F;
        layer.attention[1][i] = 1.0F / 40;
    }
    const auto counts = [&](const OptionMap& settings) {
        return mass(settings)->allocate(std::span(&layer, 1), target_of(16, 0)).front();
    };
    EXPECT_EQ(counts({}), (std::vector<int64_t>{4, 28}));
    EXPECT_EQ(counts({{"mass-floor", "0"}}), (std::vector<int64_t>{1, 31}));
    EXPECT_EQ(counts({{"mass-floor", "100"}}), (std::vector<int64_t>{16, 16}));
}

TEST(MassAllocator, ProtectedEntriesCountAndNobodyPassesTheMost) {
    // The first head's mass lies on a protected entry: it asks for no more.
    LayerCandidates layer = layer_by_lot(2, 40, 1, 1);
    for (size_t i = 0; i < 40; ++i) {
        layer.scores[0][i] = layer.scores[1][i] = static_cast<float>(40 - i);
        layer.attention[0][i] = i == 0 ? 0.9F : 0.1F / 39;
        layer.attention[1][i] = 1.0F / 40;
    }
    CutTarget target = target_of(17, 1);
    EXPECT_EQ(mass()->allocate(std::span(&layer, 1), target).front(),
              (std::vector<int64_t>{5, 29}));
    target.most = 20;
    EXPECT_EQ(mass()->allocate(std::span(&layer, 1), target).front(),
              (std::vector<int64_t>{14, 20}));
    target.entries = 0;  // less than what is protected: nothing to share out
    EXPECT_EQ(mass()->allocate(std::span(&layer, 1), target).front(), (std::vector<int64_t>{0, 0}));
}

TEST(MassAllocator, WithoutAttentionAllGetTheSame) {
    LayerCandidates layer = layer_by_lot(3, 40, 2, 1);
    for (auto& of : layer.attention) std::ranges::fill(of, 0.0F);
    EXPECT_EQ(mass()->allocate(std::span(&layer, 1), target_of(12, 2)).front(),
              (std::vector<int64_t>{12, 12, 12}));
}

TEST(MassAllocator, OneReadingServesOnlyThoseThatNoteTheSame) {
    const EvictionOptions uniform = {.policy = "key-norm"};
    EvictionOptions by_mass = uniform;
    by_mass.allocator = "mass";
    EvictionOptions adaptive = uniform;
    adaptive.allocator = "adaptive";
    EXPECT_TRUE(notes_alike(uniform, adaptive, nullptr));
    EXPECT_FALSE(notes_alike(uniform, by_mass, nullptr));
    EvictionOptions often = uniform;  // a ring may be as long as the interval
    often.interval = 16;
    EXPECT_FALSE(notes_alike(uniform, often, nullptr));
}

}  // namespace
}  // namespace palimpsest
