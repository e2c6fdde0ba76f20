// What the learned residues leave behind, against plain loops and exact cases.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "memory/cache/kv_cache.h"
#include "memory/residue/residues.h"
#include "support/golden.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::MemoryScript;

constexpr int64_t kLength = 96;
constexpr int64_t kKept = 32;

MemoryShape shape_of() {
    return {.n_layer = 2, .n_head = 4, .n_head_kv = 2, .d_head = 32, .windows = {}, .n_embd = 32};
}

KvCacheOptions options(const std::string& policy, const std::string& residue,
                       OptionMap settings = {}) {
    EvictionOptions e = {.policy = policy, .residue = residue, .settings = std::move(settings)};
    e.budget = {.kind = Budget::Kind::kEntries, .count = kKept, .share = 0};
    e.n_sink = 0;
    e.n_recent = 0;
    e.interval = 32;
    e.positions = Positions::kOriginal;
    return {.n_ctx = 512,
            .entries = GGML_TYPE_F32,
            .eviction = std::move(e),
            .supplies = {.n_chunk = 32, .learned = testing::small_weights(shape_of())}};
}

/// With a place for everything that goes, nothing is averaged: attention as if all were kept.
TEST(Centroids, EnoughOfThemAreTheEntriesThemselves) {
    for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kReference}) {
        for (const char* policy : {"random", "window", "indexer", "gate"}) {
            SCOPED_TRACE(policy);
            const MemoryScript script(shape_of(), kLength);
            Backend backend(2);
            KvCacheOptions o = options(policy, "centroids", {{"centroids", "128"}});
            o.path = path;
            if (std::string(policy) == "gate") o.eviction.allocator = "adaptive";
            KvCache memory(backend, shape_of(), o);
            double most = 0;
            for (const int64_t n : {31, 1, 32, 1, 1, 30}) {  // many queries, and few
                const int64_t at = memory.usage().positions_seen;
                most = std::max(most, max_difference(script.step(backend, memory, at, n),
                                                     script.expected(at, n)));
            }
            EXPECT_GT(memory.report().n_cuts, 1);
            EXPECT_LE(most, 2e-5);
        }
    }
}

TEST(Centroids, TheirNumbersAddUpToWhatWent) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(1);
    double n = 0;
    KvCacheOptions o = options("random", "centroids", {{"centroids", "5"}});
    o.on_cut = [&](const Cut& cut) {
        n = 0;
        for (const NamedState& part : cut.residue->state(1, 1)) {
            if (part.name != "centroid_counts") continue;
            EXPECT_EQ(part.values.size(), 5);
            for (const float x : part.values) n += static_cast<double>(x);
        }
    };
    KvCache memory(backend, shape_of(), o);
    script.run(backend, memory, 32);
    EXPECT_EQ(n, kLength - kKept);
}

/// What one head's state holds.
struct LatentState {
    std::vector<float> m, b;
};

LatentState state_of(const Residue& residue, int64_t layer, int64_t head) {
    LatentState s;
    for (const NamedState& part : residue.state(layer, head)) {
        (part.name == "M" ? s.m : s.b) = part.values;
    }
    return s;
}

/// phi x, in double.
std::vector<double> features(const LatentLayer& of, std::span<const float> x) {
    std::vector<double> f(of.phi.size() / x.size());
    for (size_t j = 0; j < f.size(); ++j) {
        for (size_t c = 0; c < x.size(); ++c) {
            f[j] += static_cast<double>(of.phi[c * f.size() + j]) * static_cast<double>(x[c]);
        }
    }
    return f;
}

TEST(Latent, TwoCutsAreTheFirstDecayedAndTheSecond) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(1);
    const KvCacheOptions plain = options("random", "latent");
    const LatentLayer& w = plain.supplies.learned->latent()->layers[1];
    std::vector<LatentState> seen;
    std::vector<std::vector<int32_t>> gone;
    KvCacheOptions o = plain;
    o.on_cut = [&](const Cut& cut) {
        seen.push_back(state_of(*cut.residue, 1, 0));
        std::vector<int32_t>& went = gone.emplace_back();
        std::ranges::set_difference(cut.held[1][0], cut.kept[1][0], std::back_inserter(went));
    };
    KvCache memory(backend, shape_of(), o);
    script.run(backend, memory, 32);
    ASSERT_EQ(seen.size(), 2);
    const size_t d = 32;
    std::vector<double> m(w.phi.size());
    std::vector<double> b(w.phi.size() / d);
    for (size_t cut = 0; cut < 2; ++cut) {
        for (double& x : m) x *= static_cast<double>(w.decay);
        for (double& x : b) x *= static_cast<double>(w.decay);
        for (const int32_t p : gone[cut]) {
            const testing::ReferenceEntry e = script.entry(1, 0, p);
            const std::vector<double> f = features(w, e.k);
            for (size_t j = 0; j < f.size(); ++j) {
                for (size_t c = 0; c < d; ++c) m[j * d + c] += f[j] * static_cast<double>(e.v[c]);
                b[j] += f[j] * f[j];
            }
        }
        EXPECT_LE(max_difference(seen[cut].m, std::vector<float>(m.begin(), m.end())), 1e-4);
        EXPECT_LE(max_difference(seen[cut].b, std::vector<float>(b.begin(), b.end())), 1e-4);
    }
    for (const float x : seen[1].b) EXPECT_GE(x, 0);
}

/// What a state says to features: the quotient, of at most the length `longest`, times the gate.
std::vector<double> latent_answer(const LatentLayer& w, const LatentState& state,
                                  const std::vector<double>& f, double longest) {
    std::vector<double> m(state.m.size() / f.size());
    double denominator = 0;
    for (size_t j = 0; j < f.size(); ++j) {
        denominator += f[j] * f[j] * static_cast<double>(state.b[j]);
        for (size_t c = 0; c < m.size(); ++c) {
            m[c] += f[j] * static_cast<double>(state.m[j * m.size() + c]);
        }
    }
    double squared = 0;
    for (double& x : m) {
        x /= std::max(denominator, 1e-6);
        squared += x * x;
    }
    const double factor = static_cast<double>(w.gate) * std::min(1.0, longest / std::sqrt(squared));
    for (double& x : m) x *= factor;
    return m;
}

/// The answer beside attention, for every query, against the formula; clipped as it says.
TEST(Latent, AnswersAsTheFormulaSays) {
    for (const bool clips : {false, true}) {
        const MemoryScript script(shape_of(), 65);
        Backend backend(2);
        KvCacheOptions o = options("random", "latent", {{"clip", clips ? "1" : "0"}});
        const LatentLayer& w = o.supplies.learned->latent()->layers[1];
        LatentState state;
        float longest = 0;
        o.on_cut = [&](const Cut& cut) {
            state = state_of(*cut.residue, 1, 1);
            std::vector<int32_t> gone;
            std::ranges::set_difference(cut.held[1][1], cut.kept[1][1], std::back_inserter(gone));
            for (const int32_t p : gone) {
                float squared = 0;
                for (const float x : script.entry(1, 1, p).v) squared += x * x;
                longest = std::max(longest, std::sqrt(squared));
            }
        };
        KvCache memory(backend, shape_of(), o);
        o.eviction.residue = "none";
        o.eviction.settings = {};
        o.on_cut = {};
        KvCache without(backend, shape_of(), o);
        script.step(backend, memory, 0, 32);
        script.step(backend, memory, 32, 32);
        script.step(backend, without, 0, 32);
        script.step(backend, without, 32, 32);
        const std::vector<float> got = script.step(backend, memory, 64, 1);
        const std::vector<float> bare = script.step(backend, without, 64, 1);
        const size_t d = 32;
        for (int64_t h = 2; h < 4; ++h) {
            const std::vector<double> f = features(w, script.query(1, h, 64));
            const std::vector<double> answer =
                latent_answer(w, state, f, clips ? static_cast<double>(longest) : HUGE_VAL);
            const size_t at = (4 + static_cast<size_t>(h)) * d;
            for (size_t c = 0; c < d; ++c) {
                EXPECT_NEAR(static_cast<double>(got[at + c]),
                            static_cast<double>(bare[at + c]) + answer[c], 1e-4)
                    << "head " << h << ", clips " << clips;
            }
        }
    }
}

/// What the residue `latent` adds to all answers at the last position, after a cut before it.
std::vector<float> added(const MemoryScript& script, KvCacheOptions o) {
    Backend backend(1);
    const auto last_answers = [&](const KvCacheOptions& with) {
        KvCache memory(backend, shape_of(), with);
        const int64_t last = script.length() - 1;
        script.step(backend, memory, 0, kKept);
        script.step(backend, memory, kKept, last - kKept);
        return script.step(backend, memory, last, 1);
    };
    std::vector<float> answers = last_answers(o);
    o.eviction.residue = "none";
    o.eviction.settings = {};
    o.on_cut = {};
    const std::vector<float> without = last_answers(o);
    for (size_t i = 0; i < answers.size(); ++i) answers[i] -= without[i];
    return answers;
}

/// One pair written: the answer is parallel to its value, and of the length the formula says.
TEST(Latent, OnePairAnswersAlongItsValue) {
    const MemoryScript script(shape_of(), kKept + 2);
    KvCacheOptions o = options("random", "latent", {{"clip", "0"}});
    const LatentLayer& w = o.supplies.learned->latent()->layers[1];
    std::vector<int32_t> gone;  // [KV head]
    o.on_cut = [&](const Cut& cut) {
        for (const size_t h : {0U, 1U}) {
            std::ranges::set_difference(cut.held[1][h], cut.kept[1][h], std::back_inserter(gone));
        }
    };
    const std::vector<float> answers = added(script, o);
    ASSERT_EQ(gone.size(), 2U);
    for (int64_t h = 0; h < 4; ++h) {
        const testing::ReferenceEntry e = script.entry(1, h / 2, gone[static_cast<size_t>(h) / 2]);
        const std::vector<double> fq = features(w, script.query(1, h, kKept + 1));
        const std::vector<double> fk = features(w, e.k);
        double product = 0;
        double denominator = 0;
        for (size_t j = 0; j < fq.size(); ++j) {
            product += fq[j] * fk[j];
            denominator += fq[j] * fq[j] * fk[j] * fk[j];
        }
        ASSERT_GT(denominator, 1e-3);
        const double factor = static_cast<double>(w.gate) * product / denominator;
        for (size_t c = 0; c < e.v.size(); ++c) {
            const size_t at = (4 + static_cast<size_t>(h)) * e.v.size() + c;
            EXPECT_NEAR(static_cast<double>(answers[at]), factor * static_cast<double>(e.v[c]),
                        1e-5 * (1 + std::abs(factor)))
                << "head " << h;
        }
    }
}

/// A sidecar of another eta and epsilon.
std::shared_ptr<const EvictionWeights> weights_of(float eta, float epsilon) {
    static const Backend kBackend(1);
    testing::GgufBuilder f = testing::small_sidecar(shape_of());
    f.set("evict.memory.eta", eta).set("evict.memory.epsilon", epsilon);
    const testing::TemporaryFile file(f.bytes());
    return std::make_shared<const EvictionWeights>(file.path(), kBackend, shape_of(), BaseModel{});
}

/// Numerator and denominator grow alike with eta: only below epsilon does an answer change.
TEST(Latent, EtaCancelsAboveEpsilon) {
    const MemoryScript script(shape_of(), 2 * kKept + 1);
    const auto answers = [&](float eta, float epsilon) {
        KvCacheOptions o = options("random", "latent", {{"clip", "0"}});
        o.supplies.learned = weights_of(eta, epsilon);
        return added(script, o);
    };
    const auto largest = [](const std::vector<float>& x) {
        return max_difference(x, std::vector<float>(x.size()));
    };
    const std::vector<float> above = answers(1, 1e-6F);
    EXPECT_GT(largest(above), 1e-3);
    EXPECT_LE(max_difference(answers(10, 1e-6F), above), 1e-6);
    // Denominators here are some thousands.
    std::vector<float> below = answers(1, 1e6F);
    EXPECT_GT(largest(below), 1e-6);
    for (float& x : below) x *= 10;
    EXPECT_LE(max_difference(answers(10, 1e6F), below), 0.05 * largest(below));
}

TEST(Latent, AnEmptyStateSaysNothing) {
    for (const bool softmax : {false, true}) {
        const MemoryScript script(shape_of(), 30);
        Backend backend(1);
        KvCacheOptions o = options("random", "latent");
        if (softmax) o.supplies.learned = testing::small_softmax_memory(shape_of());
        KvCache memory(backend, shape_of(), o);
        EXPECT_LE(max_difference(script.step(backend, memory, 0, 30), script.expected(0, 30)),
                  2e-5);
    }
}

/// A state of zero keys has a denominator of zero, and so has a query of zeros.
TEST(Latent, ZeroQueriesAndKeysAreAnsweredFinitely) {
    for (const bool softmax : {false, true}) {
        for (const int64_t n_silent : {kKept, int64_t{2} * kKept + 1}) {
            SCOPED_TRACE(cat(softmax ? "softmax, " : "residual, ", n_silent, " silent"));
            MemoryScript script(shape_of(), 2 * kKept + 1);
            script.silence(0, n_silent);
            Backend backend(1);
            KvCacheOptions o = options("window", "latent", {});
            if (softmax) o.supplies.learned = testing::small_softmax_memory(shape_of());
            std::vector<float> noted;
            o.on_cut = [&](const Cut& cut) {
                for (const NamedState& part : cut.residue->state(0, 1)) {
                    noted.insert(noted.end(), part.values.begin(), part.values.end());
                }
            };
            KvCache memory(backend, shape_of(), o);
            for (const float x : script.run(backend, memory, 32)) EXPECT_TRUE(std::isfinite(x));
            ASSERT_FALSE(noted.empty());
            for (const float x : noted) EXPECT_TRUE(std::isfinite(x));
        }
    }
}

/// What is no number is forgotten, not written: one such entry would spoil every later answer.
TEST(Residues, EntriesThatAreNotFiniteLeaveNothing) {
    constexpr int64_t kChannels = 32;
    for (const char* which : {"latent", "latent in the softmax", "centroids"}) {
        SCOPED_TRACE(which);
        const bool softmax = std::string(which).ends_with("softmax");
        const auto learned = softmax ? testing::small_softmax_memory(shape_of())
                                     : testing::small_weights(shape_of());
        const OptionMap none;
        OptionReader reader("a residue", none);
        const MemoryShape shape = shape_of();
        Observers observers;
        const PartInputs in = {
            .shape = shape, .options = reader, .observers = observers, .learned = learned.get()};
        const bool is_latent = std::string(which) != "centroids";
        const auto residue = is_latent ? make_latent(in) : make_centroids(in);
        std::vector<float> keys(4 * kChannels, 0.5F);
        std::vector<float> values(4 * kChannels, 1.0F);
        keys[kChannels + 3] = std::numeric_limits<float>::quiet_NaN();
        values[2 * kChannels] = std::numeric_limits<float>::infinity();
        const std::vector<int32_t> gone = {0, 1, 2, 3};
        residue->absorb({.layer = 1,
                         .head = 1,
                         .held = {.positions = gone,
                                  .rotary = gone,
                                  .rows = {.type = GGML_TYPE_F32,
                                           .k = reinterpret_cast<const std::byte*>(keys.data()),
                                           .v = reinterpret_cast<const std::byte*>(values.data()),
                                           .row_bytes = kChannels * sizeof(float),
                                           .d = kChannels}},
                         .kept = {},
                         .gone = gone});
        const std::vector<NamedState> parts = residue->state(1, 1);
        for (const NamedState& part : parts) {
            for (const float x : part.values) EXPECT_TRUE(std::isfinite(x)) << part.name;
        }
        double written = 0;
        for (const float x : parts.back().values) written += static_cast<double>(x);
        EXPECT_GT(written, 0);
        if (softmax || !is_latent) {
            EXPECT_NEAR(written, 2, 1e-5) << "two of four entries";
        }
        // Nor does a saved state bring one in.
        std::stringstream saved;
        residue->save(saved);
        std::string bytes = saved.str();
        const float wrong = std::numeric_limits<float>::quiet_NaN();
        const size_t first = is_latent ? sizeof(int64_t) : 2 * sizeof(int64_t);
        bytes.replace(first, sizeof wrong, reinterpret_cast<const char*>(&wrong), sizeof wrong);
        std::istringstream damaged(bytes);
        EXPECT_THROW(residue->load(damaged), Error);
        std::istringstream good(saved.str());
        EXPECT_NO_THROW(residue->load(good));
    }
}

/// A head's rows of an affine map of x, in double.
std::vector<double> mapped(const HeadMap& map, int64_t head, std::span<const float> x) {
    const size_t n = map.bias.size() / 2;  // two KV heads
    std::vector<double> f(n);
    for (size_t j = 0; j < n; ++j) {
        const size_t row = static_cast<size_t>(head) * n + j;
        f[j] = static_cast<double>(map.bias[row]);
        for (size_t c = 0; c < x.size(); ++c) {
            const size_t at = (static_cast<size_t>(head) * x.size() + c) * n + j;
            f[j] += static_cast<double>(map.weight[at]) * static_cast<double>(x[c]);
        }
    }
    return f;
}

std::vector<double> softmax_of(std::vector<double> x) {
    double sum = 0;
    for (double& e : x) sum += e = std::exp(e);
    for (double& e : x) e /= sum;
    return x;
}

/// What one head of layer 1 should hold and say, kept in double.
class SoftmaxReference {
 public:
    SoftmaxReference(const MemoryScript& script, const LatentLayer& weights)
        : script_(script),
          weights_(weights),
          m_(weights.key.bias.size() / 2 * kChannels),
          b_(weights.key.bias.size() / 2) {}

    void absorb(const Cut& cut) {
        kept_ = cut.kept[1][kHead];
        std::vector<int32_t> gone;
        std::ranges::set_difference(cut.held[1][kHead], kept_, std::back_inserter(gone));
        for (const int32_t p : gone) {
            const testing::ReferenceEntry e = script_.entry(1, kHead, p);
            const std::vector<double> a = softmax_of(mapped(weights_.key, kHead, e.k));
            for (size_t j = 0; j < a.size(); ++j) {
                b_[j] += a[j];
                for (size_t c = 0; c < kChannels; ++c) {
                    m_[j * kChannels + c] += a[j] * static_cast<double>(e.v[c]);
                }
            }
        }
    }

    void expect_state(const Residue& residue) const {
        const LatentState state = state_of(residue, 1, kHead);
        EXPECT_LE(max_difference(state.m, std::vector<float>(m_.begin(), m_.end())), 1e-4);
        EXPECT_LE(max_difference(state.b, std::vector<float>(b_.begin(), b_.end())), 1e-4);
    }

    /// Of the query of a head at `position`: all that was kept, its own entry, and all features.
    [[nodiscard]] std::vector<double> answer(int64_t query_head, int64_t position) const {
        const std::span<const float> q = script_.query(1, query_head, position);
        std::vector<int32_t> entries = kept_;
        entries.push_back(static_cast<int32_t>(position));
        std::vector<double> weights = mapped(weights_.query, kHead, q);
        for (size_t j = 0; j < b_.size(); ++j) weights[j] += std::log(b_[j]);
        for (const int32_t p : entries) {
            const auto k = script_.entry(1, kHead, p).k;
            double dot = 0;
            for (size_t c = 0; c < kChannels; ++c) {
                dot += static_cast<double>(q[c]) * static_cast<double>(k[c]);
            }
            weights.push_back(dot / std::sqrt(static_cast<double>(kChannels)));
        }
        weights = softmax_of(weights);
        std::vector<double> out(kChannels);
        for (size_t c = 0; c < kChannels; ++c) {
            for (size_t j = 0; j < b_.size(); ++j) {
                out[c] += weights[j] * m_[j * kChannels + c] / b_[j];
            }
            for (size_t i = 0; i < entries.size(); ++i) {
                const auto v = script_.entry(1, kHead, entries[i]).v;
                out[c] += weights[b_.size() + i] * static_cast<double>(v[c]);
            }
        }
        return out;
    }

 private:
    static constexpr int64_t kHead = 1;
    static constexpr size_t kChannels = 32;
    const MemoryScript& script_;
    const LatentLayer& weights_;
    std::vector<double> m_, b_;
    std::vector<int32_t> kept_;
};

/// Two cuts, and what a query then reads: all kept entries and all features in one softmax.
TEST(LatentInTheSoftmax, AnswersAsTheFormulaSays) {
    for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kReference}) {
        const MemoryScript script(shape_of(), kLength + 1);
        Backend backend(2);
        KvCacheOptions o = options("random", "latent");
        o.path = path;
        o.supplies.learned = testing::small_softmax_memory(shape_of());
        SoftmaxReference reference(script, o.supplies.learned->latent()->layers[1]);
        o.on_cut = [&](const Cut& cut) {
            reference.absorb(cut);
            reference.expect_state(*cut.residue);
        };
        KvCache memory(backend, shape_of(), o);
        for (const int64_t at : {0, 32, 64}) script.step(backend, memory, at, 32);
        const std::vector<float> got = script.step(backend, memory, kLength, 1);
        for (int64_t h = 2; h < 4; ++h) {
            const std::vector<double> wanted = reference.answer(h, kLength);
            for (size_t c = 0; c < wanted.size(); ++c) {
                const size_t at = (4 + static_cast<size_t>(h)) * wanted.size() + c;
                EXPECT_NEAR(static_cast<double>(got[at]), wanted[c], 1e-4) << "head " << h;
            }
        }
    }
}

}  // namespace
}  // namespace palimpsest
