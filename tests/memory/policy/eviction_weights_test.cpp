// Trained weights for evicting: what is loaded, and every way in which a file is refused.

#include "memory/policy/eviction_weights.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "core/fingerprint.h"
#include "memory/cache/kv_cache.h"
#include "memory/eviction/allocation.h"
#include "support/golden.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::small_sidecar;
using testing::TemporaryFile;

MemoryShape shape_of() {
    return {.n_layer = 2, .n_head = 4, .n_head_kv = 2, .d_head = 16, .windows = {}, .n_embd = 24};
}

struct Refusal {
    const char* name;
    std::function<void(GgufBuilder&)> damage;
    ErrorCode code;
    const char* says;
};

void load(const std::string& bytes) {
    const Backend backend(1);
    const TemporaryFile file(bytes);
    const EvictionWeights weights(file.path(), backend, shape_of(),
                                  {.architecture = "llama", .fingerprint = "0123456789abcdef"});
    check_trained_allocator(weights);
}

class RefusedSidecar : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedSidecar, SaysWhy) {
    GgufBuilder file = small_sidecar(shape_of());
    GetParam().damage(file);
    try {
        load(file.bytes());
        FAIL() << "it was taken";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), GetParam().code) << e.what();
        EXPECT_NE(std::string(e.what()).find(GetParam().says), std::string::npos) << e.what();
    }
}

void put_number(GgufBuilder& f, const char* tensor, float x) {
    f.tensor(tensor).data.replace(4, sizeof x, raw(x));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedSidecar,
    ::testing::Values(
        Refusal{"other_kind", [](auto& f) { f.set_text("general.architecture", "llama"); },
                ErrorCode::kCorrupt, "no sidecar"},
        Refusal{"other_architecture",
                [](auto& f) { f.set_text("evict.base_architecture", "qwen3"); },
                ErrorCode::kInvalidArgument, "another model"},
        Refusal{"other_depth", [](auto& f) { f.set("evict.block_count", uint32_t{3}); },
                ErrorCode::kInvalidArgument, "another model"},
        Refusal{"other_model",
                [](auto& f) { f.set_text("evict.base_fingerprint", "ffffffffffffffff"); },
                ErrorCode::kInvalidArgument, "0123456789abcdef"},
        Refusal{"other_width",
                [](auto& f) {
                    f.remove_tensor("blk.1.indexer_k.weight")
                        .add_f32("blk.1.indexer_k.weight", {20, 8});
                },
                ErrorCode::kCorrupt, "[20, 8]"},
        Refusal{"missing", [](auto& f) { f.remove_tensor("blk.1.indexer_k.weight"); },
                ErrorCode::kCorrupt, "blk.1.indexer_k.weight"},
        Refusal{"nan",
                [](auto& f) {
                    put_number(f, "blk.0.memory_phi.weight",
                               std::numeric_limits<float>::quiet_NaN());
                },
                ErrorCode::kCorrupt, "not finite"},
        Refusal{"infinite",
                [](auto& f) {
                    put_number(f, "blk.0.gate_in.weight", std::numeric_limits<float>::infinity());
                },
                ErrorCode::kCorrupt, "not finite"},
        Refusal{"no_heads", [](auto& f) { f.set("evict.indexer.head_count", uint32_t{0}); },
                ErrorCode::kCorrupt, "head_count"},
        Refusal{"too_wide", [](auto& f) { f.set("evict.indexer.key_length", uint32_t{1} << 20U); },
                ErrorCode::kCorrupt, "key_length"},
        Refusal{"too_narrow", [](auto& f) { f.set("evict.indexer.key_length", uint32_t{3}); },
                ErrorCode::kCorrupt, "key_length = 3; it must be 4 to 128"},
        Refusal{"uneven_groups",
                [](auto& f) {
                    f.set("evict.indexer.head_count", uint32_t{3});
                    f.set("evict.indexer.group_count", uint32_t{2});
                },
                ErrorCode::kCorrupt, "group_count = 2; it must divide"},
        Refusal{"unknown_allocator", [](auto& f) { f.set_text("evict.indexer.allocator", "fair"); },
                ErrorCode::kCorrupt, "the allocator 'fair'; known are "},
        Refusal{"more_groups_than_heads",
                [](auto& f) { f.set("evict.indexer.group_count", uint32_t{4}); },
                ErrorCode::kCorrupt, "group_count"},
        Refusal{"unknown_norm", [](auto& f) { f.set_text("evict.indexer.norm", "batch"); },
                ErrorCode::kCorrupt, "batch"},
        Refusal{"unknown_activation",
                [](auto& f) { f.set_text("evict.indexer.activation", "tanh"); },
                ErrorCode::kCorrupt, "tanh"},
        Refusal{"unknown_order", [](auto& f) { f.set_text("evict.channel_order", "reversed"); },
                ErrorCode::kCorrupt, "reversed"},
        Refusal{"negative_epsilon", [](auto& f) { f.set("evict.memory.epsilon", -1.0F); },
                ErrorCode::kCorrupt, "epsilon"},
        Refusal{"nothing_in_it", [](auto& f) { f.tensors.clear(); }, ErrorCode::kCorrupt,
                "neither"}),
    [](const auto& test) { return test.param.name; });

TEST(EvictionWeights, AMemoryInTheSoftmaxNeedsMapsOfItsOwn) {
    const auto weights = testing::small_softmax_memory(shape_of());
    ASSERT_NE(weights->latent(), nullptr);
    EXPECT_EQ(weights->latent()->form, LatentForm::kSoftmax);
    const auto refused = [](const auto& spoil, const std::string& words) {
        GgufBuilder f = testing::small_softmax_sidecar(shape_of());
        spoil(f);
        try {
            load(f.bytes());
            ADD_FAILURE() << "taken, without " << words;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
            EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
        }
    };
    refused([](auto& f) { f.remove_tensor("blk.1.memory_query.bias"); }, "memory_query.bias");
    refused([](auto& f) { f.set_text("evict.memory.form", "delta"); }, "delta");
    refused([](auto& f) { f.set_text("evict.memory.form", "residual"); }, "memory_phi");
    refused([](auto& f) { f.set("evict.memory.feature_length", uint32_t{7}); }, "memory_key");
    refused([](auto& f) { put_number(f, "blk.0.memory_key.weight", NAN); }, "finite");
}

TEST(EvictionWeights, ATruncatedFileIsRefused) {
    const std::string whole = small_sidecar(shape_of()).bytes();
    EXPECT_NO_THROW(load(whole));
    for (const double share : {0.1, 0.5, 0.9, 0.99}) {
        const auto n = static_cast<size_t>(share * static_cast<double>(whole.size()));
        EXPECT_THROW(load(whole.substr(0, n)), Error) << share;
    }
}

TEST(EvictionWeights, AFileWithoutFingerprintIsTakenWithAWarning) {
    const auto weights = testing::small_weights(shape_of());
    EXPECT_NE(weights->warning(), "");
    ASSERT_NE(weights->indexer(), nullptr);
    EXPECT_EQ(weights->indexer()->n_head, 2);
    ASSERT_NE(weights->latent(), nullptr);
    EXPECT_TRUE(weights->latent()->clips);
    ASSERT_NE(weights->gate(), nullptr);
    EXPECT_EQ(weights->n_sink(), 4);
}

/// Nothing untrained is switched on without a word.
TEST(EvictionWeights, WhatIsLearnedNeedsWeightsThatHoldIt) {
    const Backend backend(1);
    const auto make = [&](EvictionOptions e, std::shared_ptr<const EvictionWeights> learned = {}) {
        e.budget = {.kind = Budget::Kind::kEntries, .count = 64, .share = 0};
        e.interval = 32;
        return KvCache(backend, shape_of(),
                       {.n_ctx = 256,
                        .eviction = std::move(e),
                        .supplies = {.n_chunk = 32, .learned = std::move(learned)}});
    };
    GgufBuilder gate_only = small_sidecar(shape_of());
    std::erase_if(gate_only.tensors, [](const auto& t) {
        return t.name.find("gate_") == std::string::npos ||
               t.name.find("memory") != std::string::npos;
    });
    const TemporaryFile file(gate_only.bytes());
    const auto weights =
        std::make_shared<const EvictionWeights>(file.path(), backend, shape_of(), BaseModel{});
    EXPECT_THROW(make({.policy = "indexer"}), Error);
    EXPECT_THROW(make({.policy = "gate"}), Error);
    EXPECT_THROW(make({.policy = "window", .residue = "latent"}), Error);
    EXPECT_THROW(make({.policy = "indexer"}, weights), Error);
    EXPECT_THROW(make({.policy = "gate", .residue = "latent"}, weights), Error);
    EXPECT_NO_THROW(make({.policy = "gate"}, weights));
}

TEST(Fingerprint, TellsModelsApart) {
    const auto of = [](const GgufBuilder& file) {
        const std::string bytes = file.bytes();
        return model_fingerprint(GgufFile(std::as_bytes(std::span(bytes))));
    };
    const std::string one = of(testing::tiny_llama());
    EXPECT_EQ(one.size(), 16);
    EXPECT_EQ(one, of(testing::tiny_llama()));
    EXPECT_NE(one, of(testing::tiny_llama(48)));
    GgufBuilder other = testing::tiny_llama();
    other.tensors.back().data[5] = static_cast<char>(other.tensors.back().data[5] + 1);
    EXPECT_NE(one, of(other));
}

}  // namespace
}  // namespace palimpsest
