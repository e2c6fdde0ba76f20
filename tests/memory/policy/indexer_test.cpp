// The indexer against plain loops, whatever its form; and where one layer scores for several.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "memory/cache/kv_cache.h"
#include "support/golden.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::MemoryScript;

MemoryShape shape_of() {
    return {.n_layer = 4, .n_head = 4, .n_head_kv = 2, .d_head = 32, .windows = {}, .n_embd = 48};
}

// ---- against plain loops ------------------------------------------------------------------------

/// What of an indexer can be chosen, and how a file says it.
struct Form {
    std::string name;
    std::string activation = "relu";
    std::string norm = "rms";
    bool has_biases = false, is_causal = true;
    int64_t n_head = 2, n_group = 1;
    int64_t n_recent = 0;
};

constexpr int64_t kWidth = 8, kLength = 90;

/// Numbers of one layer's indexer, as they stand in a file.
using LayerTensors = std::map<std::string, std::vector<float>>;

std::vector<double> normed(const std::vector<double>& x, const LayerTensors& of,
                           const std::string& norm, bool has_mean) {
    double mean = 0;
    if (has_mean) {
        for (const double y : x) mean += y / static_cast<double>(x.size());
    }
    double square = 0;
    for (const double y : x) square += (y - mean) * (y - mean) / static_cast<double>(x.size());
    std::vector<double> out;
    for (size_t i = 0; i < x.size(); ++i) {
        double y = (x[i] - mean) / std::sqrt(square + (has_mean ? 1e-5 : 1e-6));
        y *= static_cast<double>(of.at(norm + ".weight")[i]);
        const auto bias = of.find(norm + ".bias");
        out.push_back(bias == of.end() ? y : y + static_cast<double>(bias->second[i]));
    }
    return out;
}

/// A row through a matrix of the file, and its bias if there is one.
std::vector<double> through(std::span<const float> x, const LayerTensors& of,
                            const std::string& name) {
    const std::vector<float>& w = of.at(name + ".weight");
    const auto bias = of.find(name + ".bias");
    std::vector<double> y;
    for (size_t row = 0; row < w.size() / x.size(); ++row) {
        double sum = bias == of.end() ? 0.0 : static_cast<double>(bias->second[row]);
        for (size_t c = 0; c < x.size(); ++c) {
            sum += static_cast<double>(w[row * x.size() + c]) * static_cast<double>(x[c]);
        }
        y.push_back(sum);
    }
    return y;
}

double activated(const std::string& name, double x) {
    if (name == "relu") return std::max(x, 0.0);
    if (name == "leaky_relu") return x > 0 ? x : 0.01 * x;
    if (name == "softplus") return std::log1p(std::exp(x));
    return x;
}

class IndexerForm : public ::testing::TestWithParam<Form> {
 protected:
    [[nodiscard]] static testing::GgufBuilder sidecar() {
        const Form& form = GetParam();
        testing::GgufBuilder f = testing::small_sidecar(shape_of());
        f.set("evict.indexer.head_count", static_cast<uint32_t>(form.n_head));
        f.set_text("evict.indexer.activation", form.activation);
        f.set_text("evict.indexer.norm", form.norm);
        f.set_bool("evict.indexer.causal", form.is_causal);
        if (form.n_group > 1) {
            f.set("evict.indexer.group_count", static_cast<uint32_t>(form.n_group));
        }
        if (form.n_recent > 0) {
            f.set("evict.indexer.recent_count", static_cast<uint32_t>(form.n_recent));
        }
        const auto n_head = static_cast<uint64_t>(form.n_head);
        std::mt19937 engine(5);
        for (int64_t i = 0; i < shape_of().n_layer; ++i) {
            const std::string at = "blk." + std::to_string(i) + ".indexer_";
            f.remove_tensor(at + "q.weight").remove_tensor(at + "head.weight");
            f.add_f32(at + "q.weight", {uint64_t{4} * 32, n_head * kWidth});
            f.add_f32(at + "head.weight", {48, n_head});
            f.add_f32(at + "bias", {static_cast<uint64_t>(form.n_group)});
            if (form.has_biases) {
                f.add_f32(at + "k.bias", {kWidth}).add_f32(at + "head.bias", {n_head});
                f.add_f32(at + "q_norm.bias", {kWidth}).add_f32(at + "k_norm.bias", {kWidth});
            }
            for (testing::TensorField& t : f.tensors) {
                if (!t.name.starts_with(at)) continue;
                for (size_t b = 0; b < t.data.size(); b += sizeof(float)) {
                    const float x = static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F;
                    t.data.replace(b, sizeof(float), testing::raw(x));
                }
            }
        }
        return f;
    }

    static LayerTensors tensors_of(const testing::GgufBuilder& file, int64_t layer) {
        const std::string at = "blk." + std::to_string(layer) + ".indexer_";
        LayerTensors all;
        for (const testing::TensorField& t : file.tensors) {
            if (!t.name.starts_with(at)) continue;
            std::vector<float>& x = all[t.name.substr(at.size())];
            x.resize(t.data.size() / sizeof(float));
            std::memcpy(x.data(), t.data.data(), t.data.size());
        }
        return all;
    }

    /// What an indexer makes of every position of a layer.
    struct Projected {
        std::vector<std::vector<double>> keys, queries, alphas;

        /// sum_i alpha_i act(q_i . k) over heads [first, last).
        [[nodiscard]] double score(size_t s, size_t t, int64_t first, int64_t last) const {
            double sum = 0;
            for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
                double product = 0;
                for (size_t c = 0; c < kWidth; ++c)
                    product += queries[s][i * kWidth + c] * keys[t][c];
                sum += alphas[s][i] * activated(GetParam().activation, product);
            }
            return sum / std::sqrt(static_cast<double>(GetParam().n_head * kWidth));
        }
    };

    static Projected project(const MemoryScript& script, const LayerTensors& of, int64_t layer) {
        const bool has_mean = GetParam().norm == "layer";
        Projected p;
        for (int64_t t = 0; t < kLength; ++t) {
            const auto hidden = script.hidden(layer, t);
            p.keys.push_back(normed(through(hidden, of, "k"), of, "k_norm", has_mean));
            p.alphas.push_back(through(hidden, of, "head"));
            std::vector<float> flat;
            for (int64_t h = 0; h < shape_of().n_head; ++h) {
                const auto q = script.query(layer, h, t);
                flat.insert(flat.end(), q.begin(), q.end());
            }
            std::vector<double>& all = p.queries.emplace_back();
            const std::vector<double> q = through(flat, of, "q");
            for (auto head = q.begin(); head != q.end(); head += kWidth) {
                const auto one = normed({head, head + kWidth}, of, "q_norm", has_mean);
                all.insert(all.end(), one.begin(), one.end());
            }
        }
        return p;
    }

    /// [group][position]: the definition, word for word.
    static std::vector<std::vector<double>> expected(const MemoryScript& script,
                                                     const LayerTensors& of, int64_t layer) {
        const Form& form = GetParam();
        const Projected p = project(script, of, layer);
        std::vector<std::vector<double>> largest(static_cast<size_t>(form.n_group));
        const int64_t n_in_group = form.n_head / form.n_group;
        for (int64_t g = 0; g < form.n_group; ++g) {
            const auto group = static_cast<size_t>(g);
            for (size_t t = 0; t < p.keys.size(); ++t) {
                double most = -HUGE_VAL;
                for (size_t s = form.is_causal ? t : 0; s < p.keys.size(); ++s) {
                    most = std::max(most, p.score(s, t, g * n_in_group, (g + 1) * n_in_group));
                }
                largest[group].push_back(most + static_cast<double>(of.at("bias")[group]));
            }
        }
        return largest;
    }

    /// A layer of a cut: scores as expected, and the last positions kept if they are protected.
    static void expect_layer(const Cut& cut, size_t layer,
                             const std::vector<std::vector<double>>& all) {
        for (size_t h = 0; h < cut.scores[layer].size(); ++h) {
            const auto& of_group = all[h * all.size() / cut.scores[layer].size()];
            for (size_t i = 0; i < cut.scores[layer][h].size(); ++i) {
                const double want = of_group[static_cast<size_t>(cut.held[layer][h][i])];
                EXPECT_NEAR(static_cast<double>(cut.scores[layer][h][i]), want,
                            1e-4 * (1 + std::abs(want)))
                    << "layer " << layer << " head " << h << " entry " << i;
            }
            for (int64_t p = kLength - GetParam().n_recent; p < kLength; ++p) {
                EXPECT_TRUE(std::ranges::binary_search(cut.kept[layer][h], static_cast<int32_t>(p)))
                    << p;
            }
        }
    }
};

TEST_P(IndexerForm, ScoresAsItsDefinition) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(2);
    const testing::GgufBuilder file = sidecar();
    const testing::TemporaryFile on_disk(file.bytes());
    int64_t n_cut = 0;
    EvictionOptions e = {.policy = "indexer", .residue = "none"};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 40, .share = 0};
    e.n_recent = 0;
    const auto on_cut = [&](const Cut& cut) {
        ++n_cut;
        for (size_t l = 0; l < cut.held.size(); ++l) {
            const auto layer = static_cast<int64_t>(l);
            expect_layer(cut, l, expected(script, tensors_of(file, layer), layer));
        }
    };
    KvCacheOptions options = {.n_ctx = 512, .entries = GGML_TYPE_F32, .eviction = e};
    options.supplies.n_chunk = 256;
    options.supplies.learned =
        std::make_shared<const EvictionWeights>(on_disk.path(), backend, shape_of(), BaseModel{});
    options.on_cut = on_cut;
    KvCache memory(backend, shape_of(), options);
    script.run(backend, memory, kLength);
    EXPECT_EQ(n_cut, 1);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, IndexerForm,
    ::testing::Values(
        Form{.name = "papers"}, Form{.name = "leaky_relu", .activation = "leaky_relu"},
        Form{.name = "softplus", .activation = "softplus"},
        Form{.name = "identity", .activation = "identity"},
        Form{.name = "layer_norm", .norm = "layer", .has_biases = true},
        Form{.name = "biases", .has_biases = true}, Form{.name = "not_causal", .is_causal = false},
        Form{.name = "by_head", .n_head = 4, .n_group = 2}, Form{.name = "recent", .n_recent = 16},
        Form{.name = "by_head_not_causal",
             .activation = "softplus",
             .is_causal = false,
             .n_head = 2,
             .n_group = 2}),
    [](const auto& test) { return test.param.name; });

TEST(Indexer, HeadsOfTheirOwnKeepOthers) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(1);
    testing::GgufBuilder file = testing::small_sidecar(shape_of());
    file.set("evict.indexer.group_count", uint32_t{2});
    const testing::TemporaryFile on_disk(file.bytes());
    EvictionOptions e = {.policy = "indexer", .residue = "none"};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 40, .share = 0};
    KvCache memory(backend, shape_of(),
                   {.n_ctx = 512,
                    .eviction = std::move(e),
                    .supplies = {.n_chunk = 32,
                                 .learned = std::make_shared<const EvictionWeights>(
                                     on_disk.path(), backend, shape_of(), BaseModel{})}});
    script.run(backend, memory, 32);
    EXPECT_FALSE(std::ranges::equal(memory.positions(0, 0), memory.positions(0, 1)));
}

// ---- in groups of layers ------------------------------------------------------------------------

struct Counted {
    int64_t unscored = 0;   // entries without a score, in all cuts
    int64_t others = 0;     // entries whose score is another than the first layer gives their token
    int64_t differing = 0;  // layers that hold others than the first

    void add(const Cut& cut) {
        std::map<int32_t, float> first;
        for (size_t l = 0; l < cut.held.size(); ++l) {
            differing += cut.held[l] != cut.held[0] ? 1 : 0;
            for (size_t h = 0; h < cut.scores[l].size(); ++h) {
                for (size_t i = 0; i < cut.scores[l][h].size(); ++i) {
                    const float s = cut.scores[l][h][i];
                    unscored += std::isfinite(s) ? 0 : 1;
                    const auto [at, is_new] = first.try_emplace(cut.held[l][h][i], s);
                    others += at->second != s ? 1 : 0;
                }
            }
        }
    }
};

/// Of layers that share a scorer, or do not; heads keep as many as their attention needs, so layers
/// hold different ones.
Counted count(const char* reuse) {
    const MemoryScript script(shape_of(), 200);
    Backend backend(2);
    Counted counted;
    EvictionOptions e = {.policy = "indexer", .allocator = "mass", .residue = "none"};
    e.settings = {{"reuse", reuse}, {"mass-floor", "1"}};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 48, .share = 0};
    e.n_recent = 4;
    KvCache memory(backend, shape_of(),
                   {.n_ctx = 512,
                    .entries = GGML_TYPE_F32,
                    .eviction = std::move(e),
                    .supplies = {.n_chunk = 32, .learned = testing::small_weights(shape_of())},
                    .on_cut = [&](const Cut& cut) { counted.add(cut); }});
    script.run(backend, memory, 32);
    EXPECT_GT(counted.differing, 0);
    return counted;
}

TEST(Indexer, RowsStayAsLongAsAnyLayerHoldsThem) {
    for (const char* reuse : {"1", "2", "4"}) EXPECT_EQ(count(reuse).unscored, 0) << reuse;
}

TEST(Indexer, ALayerScoresForItsGroup) {
    const int64_t apart = count("1").others;
    const int64_t in_pairs = count("2").others;
    EXPECT_GT(apart, in_pairs);
    EXPECT_GT(in_pairs, 0);
    EXPECT_EQ(count("4").others, 0);
}

}  // namespace
}  // namespace palimpsest
