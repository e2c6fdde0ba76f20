// Model files that lie in ways the GGUF reader cannot see: a sentence, never a crash.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/tiny_model.h"
#include "support/use_model.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::TemporaryFile;

void load_and_use(const std::string& bytes) {
    const TemporaryFile file(bytes, ".gguf");
    Backend backend(1);
    testing::use_model(LoadedModel(file.path(), backend), backend);
}

struct Lie {
    const char* name;
    std::function<void(GgufBuilder&)> tell;
    ErrorCode code;
    const char* says;  // part of the message
};

void expect_refusal(const std::string& bytes, const Lie& lie) {
    try {
        load_and_use(bytes);
        FAIL() << "it was loaded";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), lie.code) << e.what();
        EXPECT_NE(std::string(e.what()).find(lie.says), std::string::npos) << e.what();
    }
}

class HostileModel : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileModel, IsRefusedWithASentence) {
    GgufBuilder f = testing::tiny_llama();
    GetParam().tell(f);
    expect_refusal(f.bytes(), GetParam());
}

constexpr ErrorCode kMissing = ErrorCode::kNotFound;
constexpr ErrorCode kCorrupt = ErrorCode::kCorrupt;
constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;

void become(GgufBuilder& f, const char* tensor, uint32_t type, size_t bytes) {
    f.tensor(tensor).type = type;
    f.tensor(tensor).data = std::string(bytes, '\0');
}

template <typename T>
std::function<void(GgufBuilder&)> key(const char* name, T value) {
    return [=](GgufBuilder& f) { f.set(std::string("llama.") + name, value); };
}

std::function<void(GgufBuilder&)> without(const char* name) {
    return [=](GgufBuilder& f) { f.remove(name); };
}

std::function<void(GgufBuilder&)> without_tensor(const char* name) {
    return [=](GgufBuilder& f) { f.remove_tensor(name); };
}

const Lie kTensorLies[] = {
    {"no_embedding", without_tensor("token_embd.weight"), kMissing, "token_embd.weight"},
    {"no_norm", without_tensor("output_norm.weight"), kMissing, "output_norm.weight"},
    {"no_query", without_tensor("blk.1.attn_q.weight"), kMissing, "blk.1.attn_q.weight"},
    {"no_last_matrix", without_tensor("blk.1.ffn_down.weight"), kMissing, "blk.1.ffn_down"},
    {"more_layers_than_tensors", key("block_count", uint32_t{3}), kMissing, "blk.2."},
    {"wrong_shape",
     [](GgufBuilder& f) {
         f.remove_tensor("blk.0.attn_k.weight").add_f32("blk.0.attn_k.weight", {32, 17});
     },
     kCorrupt, "[32, 17]"},
    {"transposed_shape",
     [](GgufBuilder& f) {
         f.remove_tensor("blk.0.ffn_up.weight").add_f32("blk.0.ffn_up.weight", {48, 32});
     },
     kCorrupt, "blk.0.ffn_up.weight"},
    {"norm_of_two_dimensions",
     [](GgufBuilder& f) {
         f.tensor("output_norm.weight").dims = {16, 2};
     },
     kCorrupt, "[16, 2]"},
    {"bias_of_another_length", [](GgufBuilder& f) { f.add_f32("blk.0.attn_q.bias", {31}); },
     kCorrupt, "[31]"},
    {"rope_factors_of_another_length", [](GgufBuilder& f) { f.add_f32("rope_freqs.weight", {7}); },
     kCorrupt, "rope_freqs"},
    {"matrix_of_integers",
     [](GgufBuilder& f) { f.tensor("blk.0.attn_q.weight").type = GGML_TYPE_I32; }, kUnsupported,
     "i32"},
    {"matrix_of_doubles",
     [](GgufBuilder& f) { become(f, "blk.0.attn_q.weight", GGML_TYPE_F64, size_t{32} * 32 * 8); },
     kUnsupported, "f64"},
    {"matrix_of_bytes",
     [](GgufBuilder& f) { become(f, "output.weight", GGML_TYPE_I8, size_t{32} * 40); },
     kUnsupported, "i8"},
    {"table_of_integers",
     [](GgufBuilder& f) { f.tensor("token_embd.weight").type = GGML_TYPE_I32; }, kUnsupported,
     "i32"},
    {"norm_of_integers",
     [](GgufBuilder& f) { f.tensor("output_norm.weight").type = GGML_TYPE_I32; }, kUnsupported,
     "i32"},
    {"matrix_of_an_inner_type",
     [](GgufBuilder& f) { become(f, "blk.0.attn_q.weight", GGML_TYPE_Q8_1, size_t{36} * 32); },
     kUnsupported, "q8_1"},
    {"table_of_an_inner_type",
     [](GgufBuilder& f) { become(f, "token_embd.weight", GGML_TYPE_Q8_1, size_t{36} * 40); },
     kUnsupported, "q8_1"},
};

const Lie kKeyLies[] = {
    {"no_architecture", without("general.architecture"), kMissing, "general.architecture"},
    {"no_layers", without("llama.block_count"), kMissing, "llama.block_count"},
    {"no_width", without("llama.embedding_length"), kMissing, "embedding_length"},
    {"no_heads", without("llama.attention.head_count"), kMissing, "head_count"},
    {"no_context", without("llama.context_length"), kMissing, "context_length"},
    {"layers_0", key("block_count", uint32_t{0}), kCorrupt, "block_count"},
    {"layers_negative", key("block_count", int32_t{-1}), kCorrupt, "-1"},
    {"layers_huge", key("block_count", uint32_t{4000000000U}), kCorrupt, "4000000000"},
    {"layers_float", key("block_count", 2.0F), kCorrupt, "block_count"},
    {"width_0", key("embedding_length", uint32_t{0}), kCorrupt, "embedding_length"},
    {"width_huge", key("embedding_length", uint32_t{4000000000U}), kCorrupt, "4000000000"},
    {"width_of_other_tensors", key("embedding_length", uint32_t{64}), kCorrupt, "shape"},
    {"feed_forward_0", key("feed_forward_length", uint32_t{0}), kCorrupt, "feed_forward"},
    {"context_0", key("context_length", uint32_t{0}), kCorrupt, "context_length"},
    {"context_huge", key("context_length", uint32_t{4000000000U}), kCorrupt, "context_length"},
    {"heads_0", key("attention.head_count", uint32_t{0}), kCorrupt, "head_count"},
    {"heads_negative", key("attention.head_count", int32_t{-2}), kCorrupt, "head_count"},
    {"kv_heads_0", key("attention.head_count_kv", uint32_t{0}), kCorrupt, "head_count_kv"},
    {"kv_heads_above_heads", key("attention.head_count_kv", uint32_t{3}), kCorrupt, "1 to 2"},
    {"heads_that_do_not_divide",
     [](GgufBuilder& f) {
         f.set("llama.attention.head_count", uint32_t{3});
         f.set("llama.attention.head_count_kv", uint32_t{2});
     },
     kCorrupt, "evenly"},
    {"width_that_does_not_divide",
     [](GgufBuilder& f) {
         f.remove("llama.attention.key_length").set("llama.attention.head_count", uint32_t{3});
     },
     kCorrupt, "32"},
    {"head_size_0", key("attention.key_length", uint32_t{0}), kCorrupt, "key_length"},
    {"values_of_another_size", key("attention.value_length", uint32_t{8}), kUnsupported, "8"},
    {"rotary_size_odd", key("rope.dimension_count", uint32_t{15}), kCorrupt, "even"},
    {"rotary_size_above_head", key("rope.dimension_count", uint32_t{18}), kCorrupt, "18"},
    {"epsilon_0", key("attention.layer_norm_rms_epsilon", 0.0F), kCorrupt, "positive"},
    {"epsilon_negative", key("attention.layer_norm_rms_epsilon", -1.0F), kCorrupt, "positive"},
    {"epsilon_not_a_number", key("attention.layer_norm_rms_epsilon", std::nanf("")), kCorrupt,
     "positive"},
    {"rope_base_infinite", key("rope.freq_base", HUGE_VALF), kCorrupt, "rope.freq_base"},
    {"experts", key("expert_count", uint32_t{8}), kUnsupported, "experts"},
    {"unknown_scaling", [](GgufBuilder& f) { f.set_text("llama.rope.scaling.type", "longrope"); },
     kUnsupported, "longrope"},
    {"architecture_of_a_number", [](GgufBuilder& f) { f.set("general.architecture", uint32_t{1}); },
     kCorrupt, "general.architecture"},
    {"unknown_architecture", [](GgufBuilder& f) { f.set_text("general.architecture", "rwkv7"); },
     kUnsupported, "rwkv7"},
    {"known_architectures_are_listed",
     [](GgufBuilder& f) { f.set_text("general.architecture", "rwkv7"); }, kUnsupported,
     "llama, qwen2, qwen3, qwen3moe, gemma3"},
};

const auto kLieName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Tensors, HostileModel, ::testing::ValuesIn(kTensorLies), kLieName);
INSTANTIATE_TEST_SUITE_P(Keys, HostileModel, ::testing::ValuesIn(kKeyLies), kLieName);

class HostileGemma : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileGemma, IsRefusedWithASentence) {
    GgufBuilder f = testing::taken_apart(testing::tiny_model_bytes({.architecture = "gemma3"}));
    GetParam().tell(f);
    expect_refusal(f.bytes(), GetParam());
}

constexpr const char* kWindow = "gemma3.attention.sliding_window";
constexpr const char* kPattern = "gemma3.attention.sliding_window_pattern";

const Lie kWindowLies[] = {
    {"window_negative", [](GgufBuilder& f) { f.set(kWindow, int32_t{-5}); }, kCorrupt, "-5"},
    {"window_huge", [](GgufBuilder& f) { f.set(kWindow, 0xFFFFFFFFU); }, kCorrupt, "4294967295"},
    {"window_text", [](GgufBuilder& f) { f.set_text(kWindow, "8"); }, kCorrupt, kWindow},
    {"period_0", [](GgufBuilder& f) { f.set(kPattern, uint32_t{0}); }, kCorrupt, kPattern},
    {"period_negative", [](GgufBuilder& f) { f.set(kPattern, int32_t{-6}); }, kCorrupt, "-6"},
    {"too_few_flags",
     [](GgufBuilder& f) { f.set_array(kPattern, GGUF_TYPE_BOOL, std::vector<uint8_t>{1}); },
     kCorrupt, "fewer"},
    {"flags_of_text",
     [](GgufBuilder& f) {
         f.set_texts(kPattern, {"a", "b"});
     },
     kCorrupt, kPattern},
    {"no_query_norm", without_tensor("blk.0.attn_q_norm.weight"), kMissing, "attn_q_norm"},
};

INSTANTIATE_TEST_SUITE_P(Windows, HostileGemma, ::testing::ValuesIn(kWindowLies), kLieName);

class HostileExperts : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileExperts, IsRefusedWithASentence) {
    GgufBuilder f = testing::taken_apart(testing::tiny_model_bytes({.architecture = "qwen3moe"}));
    GetParam().tell(f);
    expect_refusal(f.bytes(), GetParam());
}

std::function<void(GgufBuilder&)> expert_key(const char* name, uint32_t value) {
    return [=](GgufBuilder& f) { f.set(std::string("qwen3moe.expert_") + name, value); };
}

const Lie kExpertLies[] = {
    {"another_count", expert_key("count", 4), kCorrupt, "[32, 4]"},
    {"more_than_any", expert_key("count", 1U << 30U), kCorrupt, "expert_count"},
    {"none_used", expert_key("used_count", 0), kCorrupt, "expert_used_count"},
    {"more_used_than_there_are", expert_key("used_count", 6), kCorrupt, "expert_used_count"},
    {"no_count", [](GgufBuilder& f) { f.remove("qwen3moe.expert_count"); }, kMissing, "ffn_gate"},
    {"another_width", expert_key("feed_forward_length", 47), kCorrupt, "[32, 48, 5]"},
    {"a_shared_one_that_is_not_there", expert_key("shared_feed_forward_length", 8), kMissing,
     "ffn_gate_shexp"},
    {"another_gating", expert_key("gating_func", 2), kCorrupt, "expert_gating_func"},
    {"groups", expert_key("group_count", 4), kUnsupported, "expert_group_count"},
    {"no_router", without_tensor("blk.1.ffn_gate_inp.weight"), kMissing, "ffn_gate_inp"},
    {"no_experts", without_tensor("blk.1.ffn_down_exps.weight"), kMissing, "ffn_down_exps"},
    {"a_bias", [](GgufBuilder& f) { f.add_f32("blk.0.exp_probs_b.bias", {5}); }, kUnsupported,
     "exp_probs_b"},
    {"experts_of_integers",
     [](GgufBuilder& f) { f.tensor("blk.0.ffn_up_exps.weight").type = GGML_TYPE_I32; },
     kUnsupported, "i32"},
    {"not_a_number",
     [](GgufBuilder& f) {
         std::string& data = f.tensor("blk.0.ffn_up_exps.weight").data;
         data.replace(data.size() - 4, 4, testing::raw(std::nanf("")));
     },
     kCorrupt, "ffn_up_exps"},
};

INSTANTIATE_TEST_SUITE_P(Experts, HostileExperts, ::testing::ValuesIn(kExpertLies), kLieName);

class HostileGranite : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileGranite, IsRefusedWithASentence) {
    GgufBuilder f =
        testing::taken_apart(testing::tiny_model_bytes({.architecture = "granitehybrid"}));
    GetParam().tell(f);
    expect_refusal(f.bytes(), GetParam());
}

std::function<void(GgufBuilder&)> granite_heads(std::vector<int32_t> of_layers) {
    return [=](GgufBuilder& f) {
        f.set_array("granitehybrid.attention.head_count_kv", GGUF_TYPE_INT32, of_layers);
    };
}

const Lie kGraniteLies[] = {
    {"no_layer_attends", granite_heads({0, 0}), kCorrupt, "0 for every layer"},
    {"unequal_heads", granite_heads({1, 2}), kUnsupported, "all of one size"},
    {"negative_heads", granite_heads({0, -2}), kCorrupt, "-2"},
    {"other_layers_attend", granite_heads({2, 0}), kMissing, "blk.0.attn_q"},
    {"heads_of_fewer_layers", granite_heads({2}), kCorrupt, "1 elements"},
    {"scale_negative", [](GgufBuilder& f) { f.set("granitehybrid.residual_scale", -1.0F); },
     kCorrupt, "residual_scale"},
    {"scale_not_a_number",
     [](GgufBuilder& f) { f.set("granitehybrid.logit_scale", std::nanf("")); }, kCorrupt,
     "logit_scale"},
};

INSTANTIATE_TEST_SUITE_P(Scales, HostileGranite, ::testing::ValuesIn(kGraniteLies), kLieName);

TEST(HostileModelFile, LoadsWhenNothingIsWrong) {
    for (const char* architecture : {"qwen3moe", "granite", "granitemoe"}) {
        EXPECT_NO_THROW(load_and_use(testing::tiny_model_bytes({.architecture = architecture})));
    }
    EXPECT_NO_THROW(load_and_use(testing::tiny_llama().bytes()));
    EXPECT_NO_THROW(load_and_use(testing::tiny_model_bytes({.architecture = "gemma3"})));
}

TEST(HostileModelFile, IsRefusedWhereverItIsCut) {
    const std::string whole = testing::tiny_llama().bytes();
    for (size_t n = 0; n + 64 < whole.size(); n += 997) {
        EXPECT_THROW(load_and_use(whole.substr(0, n)), Error) << n;
    }
}

TEST(HostileModelFile, WithALongTrainedContextTakesNoMemoryForIt) {
    GgufBuilder f = testing::tiny_llama();
    f.set("llama.context_length", uint32_t{1} << 28U);
    EXPECT_NO_THROW(load_and_use(f.bytes()));
}

}  // namespace
}  // namespace palimpsest
