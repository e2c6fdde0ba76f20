// Kinds of failure that users of such programs have met, named as the list of field cases numbers
// them: models that say more than is computed, or what cannot be.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/finite.h"
#include "engine/sampler.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/tiny_model.h"

// Options that are not named keep their defaults.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;
using testing::GgufBuilder;
using testing::raw;
using testing::TemporaryFile;
using testing::tiny_llama;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinite = std::numeric_limits<float>::infinity();

GgufBuilder tiny_gemma() {
    return testing::taken_apart(testing::tiny_model_bytes({.architecture = "gemma3"}));
}

ModelConfig config_of(const GgufBuilder& f) {
    const TemporaryFile file(f.bytes(), ".gguf");
    const Backend backend(1);
    return LoadedModel(file.path(), backend).config();
}

void expect_refusal(const std::function<void()>& work, ErrorCode code, const std::string& says) {
    try {
        work();
        FAIL() << "it was taken: " << says;
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
}

void expect_refused_model(const GgufBuilder& f, ErrorCode code, const std::string& says) {
    expect_refusal([&] { config_of(f); }, code, says);
}

TEST(FieldCases, C1_UnknownTensorsAreRefusedByName) {
    for (const char* name : {"output.bias", "blk.0.attn_q.scale", "blk.2.attn_q.weight",
                             "blk.0.ffn_up.bias", "blk.1.attn_qkv.weight", "v.patch_embd.weight"}) {
        GgufBuilder f = tiny_llama();
        expect_refused_model(f.add_f32(name, {32}), ErrorCode::kUnsupported, name);
    }
    GgufBuilder f = tiny_gemma();
    expect_refused_model(f.add_f32("blk.0.layer_output_scale.weight", {1}), ErrorCode::kUnsupported,
                         "layer_output_scale");
}

TEST(FieldCases, C1_BlocksBeyondTheCountAreRefusedByName) {
    GgufBuilder f = tiny_llama();
    expect_refused_model(f.set("llama.block_count", uint32_t{1}), ErrorCode::kUnsupported,
                         "blk.1.");
}

TEST(FieldCases, C1_WhatIsUsedIsTaken) {
    GgufBuilder f = tiny_llama();
    f.add_f32("blk.0.attn_q.bias", {32}).add_f32("blk.1.attn_output.bias", {32});
    EXPECT_NO_THROW(config_of(f));
}

TEST(FieldCases, C1_UnknownKeysAreRefusedByName) {
    const std::pair<const char*, float> keys[] = {{"llama.logit_scale", 0.5F},
                                                  {"llama.residual_scale", 0.2F},
                                                  {"llama.attention.scale", 0.1F},
                                                  {"llama.attn_logit_softcapping", 50},
                                                  {"llama.rope.scaling.yarn_log_multiplier", 0.1F},
                                                  {"llama.never_heard_of", 0}};
    for (const auto& [name, value] : keys) {
        GgufBuilder f = tiny_llama();
        f.set_text("llama.rope.scaling.type", "yarn");
        expect_refused_model(f.set(name, value), ErrorCode::kUnsupported, name);
    }
}

TEST(FieldCases, C1_KeysThatChangeNothingAreTaken) {
    GgufBuilder f = tiny_llama();
    f.set("llama.vocab_size", uint32_t{40}).set("llama.logit_scale", 1.0F);
    f.set("llama.expert_count", uint32_t{0}).set("llama.expert_used_count", uint32_t{0});
    f.set_bool("llama.attention.causal", true).set_text("llama.tensor_data_layout", "Meta AI");
    f.set("quantize.imatrix.entries_count", 7).set_text("general.author", "somebody");
    f.set_text("other.key", "of another tool");
    EXPECT_NO_THROW(config_of(f));
}

TEST(FieldCases, C2_ModelsThatSeeWhatFollowsAreRefused) {
    GgufBuilder f = tiny_llama();
    expect_refused_model(f.set_bool("llama.attention.causal", false), ErrorCode::kUnsupported,
                         "'llama.attention.causal' is false");
}

/// The model, with number `at` of a tensor set.
GgufBuilder with_value(const char* tensor, size_t at, float value) {
    GgufBuilder f = tiny_llama();
    f.tensor(tensor).data.replace(at * sizeof value, sizeof value, raw(value));
    return f;
}

TEST(FieldCases, C4_WeightsThatAreNoNumbersAreRefusedByName) {
    for (const char* name : {"token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight",
                             "blk.1.attn_norm.weight", "output.weight"}) {
        for (const float value : {kNan, -kNan, kInfinite, -kInfinite}) {
            expect_refused_model(with_value(name, 17, value), ErrorCode::kCorrupt, name);
        }
        EXPECT_NO_THROW(config_of(with_value(name, 17, 1e-41F)));
    }
}

/// One block of each type, of the greatest finite numbers and then with an infinite scale.
TEST(FieldCases, C4_ScalesThatAreNoNumbersAreFoundInEveryType) {
    const Backend backend(2);
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = static_cast<ggml_type>(i);
        const ggml_type_traits* traits = ggml_get_type_traits(type);
        if (traits->to_float == nullptr || traits->blck_size == 0 ||
            traits->from_float_ref == nullptr) {
            continue;
        }
        ggml_quantize_init(type);
        const auto n = static_cast<size_t>(traits->blck_size);
        std::vector<float> values(n);
        for (size_t j = 0; j < n; ++j) values[j] = std::sin(static_cast<float>(j));
        std::vector<std::byte> block(traits->type_size);
        traits->from_float_ref(values.data(), block.data(), std::ssize(values));
        GgufTensor t = {.name = "x", .type = type, .data = block};
        EXPECT_TRUE(is_finite(t, 2)) << traits->type_name;
        // Whatever becomes infinite in plain numbers must be found without turning them.
        for (size_t at = 0; at + 1 < block.size(); ++at) {
            std::vector<std::byte> damaged = block;
            damaged[at] = std::byte{0x00};
            damaged[at + 1] = std::byte{0x7C};
            traits->to_float(damaged.data(), values.data(), std::ssize(values));
            const bool is_bad = !is_finite(std::span<const float>(values));
            t.data = damaged;
            EXPECT_TRUE(!is_bad || !is_finite(t, 2)) << traits->type_name << " at " << at;
        }
    }
}

TEST(FieldCases, C4_OneValueInALargeTensorIsFound) {
    const Backend backend(2);
    std::vector<float> values(3'000'001, 1.0F);
    GgufTensor t = {.name = "x", .data = std::as_bytes(std::span(values))};
    EXPECT_TRUE(is_finite(t, 2));
    for (const size_t at : {size_t{0}, size_t{262'144}, values.size() - 1}) {
        values[at] = kNan;
        EXPECT_FALSE(is_finite(t, 2)) << at;
        values[at] = 1.0F;
    }
}

TEST(FieldCases, C4_KeysThatCannotBeAreRefusedByName) {
    for (const float value : {-1.0F, kNan, kInfinite}) {
        GgufBuilder g = tiny_gemma();
        expect_refused_model(g.set("gemma3.rope.freq_base_swa", value), ErrorCode::kCorrupt,
                             "freq_base_swa");
        g = tiny_gemma();
        expect_refused_model(g.set("gemma3.final_logit_softcapping", value), ErrorCode::kCorrupt,
                             "final_logit_softcapping");
        for (const char* key : {"rope.freq_base", "rope.scaling.factor", "rope.scale_linear",
                                "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast",
                                "attention.layer_norm_rms_epsilon"}) {
            GgufBuilder f = tiny_llama();
            f.set_text("llama.rope.scaling.type", "yarn");
            expect_refused_model(f.set(std::string("llama.") + key, value), ErrorCode::kCorrupt,
                                 key);
        }
    }
    GgufBuilder g = tiny_gemma();
    expect_refused_model(g.set("gemma3.rope.freq_base_swa", 0.0F), ErrorCode::kCorrupt,
                         "freq_base_swa");
}

TEST(FieldCases, C4_LogitsThatAreNoNumbersSayAtWhichPosition) {
    GgufBuilder f = tiny_llama();
    for (const char* name : {"output_norm.weight", "output.weight"}) {
        std::string& data = f.tensor(name).data;
        for (size_t i = 0; i < data.size(); i += sizeof(float)) {
            data.replace(i, sizeof(float), raw(1e30F));
        }
    }
    const TemporaryFile file(f.bytes(), ".gguf");
    Backend backend(1);
    const LoadedModel loaded(file.path(), backend);
    const Runtime runtime(loaded, backend);
    const auto session = runtime.make_session(runtime.make_cache());
    expect_refusal([&] { session->feed(testing::tiny_tokens(5)); }, ErrorCode::kCorrupt,
                   "position 4 ");
}

/// Adds an element to a list.
void append(GgufBuilder& f, std::string_view key, const std::string& element) {
    for (auto& [name, value] : f.keys) {
        if (name != key) continue;
        uint64_t n = 0;
        std::memcpy(&n, value.data() + 8, sizeof n);
        value.replace(8, sizeof n, raw(n + 1));
        value += element;
    }
}

/// A vocabulary whose last token only fills it up, in a table of `n_rows`.
GgufBuilder padded(uint64_t n_rows) {
    GgufBuilder f = tiny_llama(n_rows);
    testing::add_bpe_vocabulary(f);
    append(f, "tokenizer.ggml.tokens", testing::raw_text("[PAD262]"));
    append(f, "tokenizer.ggml.token_type", raw(int32_t{5}));
    return f;
}

TEST(FieldCases, D6_RowsBeyondTheVocabularyAreNeverPicked) {
    constexpr int64_t kRows = testing::kTinyBpeTokens + 64;
    const TemporaryFile file(padded(kRows).bytes(), ".gguf");
    const Backend backend(1);
    const LoadedModel loaded(file.path(), backend);
    const Tokenizer& t = loaded.require_tokenizer();
    std::vector<float> logits(kRows, 0.0F);
    std::fill(logits.begin() + testing::kTinyBpeTokens, logits.end(), 50.0F);
    const SamplingOptions kinds[] = {
        {},
        {.temperature = 100, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 1},
        {.temperature = 1},
        {.repeat_penalty = 1.5F},
        {.temperature = 0, .grammar = "root ::= [a-z]+"},
        {.temperature = 100, .top_k = 0, .top_p = 1, .min_p = 0, .grammar = "root ::= [a-z]+"}};
    for (const SamplingOptions& options : kinds) {
        Sampler sampler(options, kRows, t.vocab());
        for (int i = 0; i < 200; ++i) {
            ASSERT_LT(sampler.pick(logits), static_cast<TokenId>(testing::kTinyBpeTokens));
        }
    }
}

TEST(FieldCases, E1_ListsOfEqualNumbersAreRead) {
    GgufBuilder f = tiny_llama();
    const ModelConfig plain = config_of(f);
    f.set_array("llama.attention.head_count", GGUF_TYPE_INT32, std::vector<int32_t>{2, 2});
    f.set_array("llama.attention.head_count_kv", GGUF_TYPE_UINT32, std::vector<uint32_t>{1, 1});
    f.set_array("llama.feed_forward_length", GGUF_TYPE_INT64, std::vector<int64_t>{48, 48});
    const ModelConfig c = config_of(f);
    EXPECT_EQ(c.n_head, plain.n_head);
    EXPECT_EQ(c.n_head_kv, plain.n_head_kv);
    EXPECT_EQ(c.n_ff, plain.n_ff);
}

TEST(FieldCases, E1_ListsOfOtherNumbersAreRefusedByName) {
    const std::string key = "llama.feed_forward_length";
    const auto with = [&](const std::vector<int32_t>& values) {
        GgufBuilder f = tiny_llama();
        return f.set_array(key, GGUF_TYPE_INT32, values);
    };
    expect_refused_model(with({48, 64}), ErrorCode::kUnsupported, key);
    expect_refused_model(with({48, 48, 48}), ErrorCode::kCorrupt, key);
    expect_refused_model(with({}), ErrorCode::kCorrupt, key);
    expect_refused_model(with({48, -48}), ErrorCode::kCorrupt, key);
}

/// A folder for one test, removed with the object.
class Folder {
 public:
    Folder() : path_(TemporaryFile("").path() + "-parts") { fs::create_directory(path_); }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    [[nodiscard]] std::string path(const std::string& name) const {
        return (path_ / name).string();
    }
    void write(const std::string& name, const std::string& bytes) const {
        std::ofstream(path(name), std::ios::binary) << bytes;
    }

 private:
    fs::path path_;
};

std::string part_name(int i) { return "m-0000" + std::to_string(i + 1) + "-of-00003.gguf"; }

void set_split(GgufBuilder& f, int number, size_t n_tensors) {
    f.set("split.no", GGUF_TYPE_UINT16, raw(static_cast<uint16_t>(number)));
    f.set("split.count", GGUF_TYPE_UINT16, raw(uint16_t{3}));
    f.set("split.tensors.count", static_cast<int32_t>(n_tensors));
}

/// A model in three parts: keys in the first, as llama.cpp's tool splits them.
std::vector<GgufBuilder> parts_of(const GgufBuilder& whole) {
    std::vector<GgufBuilder> parts(3);
    parts[0].keys = whole.keys;
    for (size_t i = 0; i < whole.tensors.size(); ++i) parts[i % 3].add(whole.tensors[i]);
    for (int i = 0; i < 3; ++i) {
        set_split(parts[static_cast<size_t>(i)], i, whole.tensors.size());
    }
    return parts;
}

void write(const Folder& folder, const std::vector<GgufBuilder>& parts) {
    for (int i = 0; i < 3; ++i) folder.write(part_name(i), parts[static_cast<size_t>(i)].bytes());
}

std::vector<float> logits_of(const std::string& path) {
    Backend backend(1);
    const LoadedModel loaded(path, backend);
    const Runtime runtime(loaded, backend);
    const auto session = runtime.make_session(runtime.make_cache());
    session->feed(testing::tiny_tokens(5));
    const auto logits = session->logits();
    return {logits.begin(), logits.end()};
}

GgufBuilder speaking_llama() {
    GgufBuilder f = tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    return f;
}

TEST(FieldCases, E2_SplitFilesAreLoadedFromTheirFirstPart) {
    const GgufBuilder whole = speaking_llama();
    const Folder folder;
    write(folder, parts_of(whole));
    const TemporaryFile file(whole.bytes(), ".gguf");
    EXPECT_EQ(logits_of(folder.path(part_name(0))), logits_of(file.path()));
    const GgufFile split = GgufFile::open(folder.path(part_name(0)));
    EXPECT_EQ(split.tensors().size(), whole.tensors.size());
    EXPECT_NE(Tokenizer::load(folder.path(part_name(0)), split), nullptr);
}

TEST(FieldCases, E2_AnotherPartIsRefusedWithTheNameOfTheFirst) {
    const Folder folder;
    write(folder, parts_of(speaking_llama()));
    for (const int i : {1, 2}) {
        expect_refusal([&] { logits_of(folder.path(part_name(i))); }, ErrorCode::kInvalidArgument,
                       part_name(0));
    }
    fs::rename(folder.path(part_name(0)), folder.path("first.gguf"));
    expect_refusal([&] { logits_of(folder.path("first.gguf")); }, ErrorCode::kInvalidArgument,
                   "-00001-of-00003.gguf");
}

TEST(FieldCases, E2_AMissingPartIsNamed) {
    const Folder folder;
    write(folder, parts_of(speaking_llama()));
    fs::remove(folder.path(part_name(2)));
    expect_refusal([&] { logits_of(folder.path(part_name(0))); }, ErrorCode::kNotFound,
                   part_name(2));
}

/// How many there are is said by the family, which names each that is missing or left over.
TEST(FieldCases, E2_AMissingTensorIsNamedWhateverTheFirstPartCounts) {
    const Folder folder;
    std::vector<GgufBuilder> parts = parts_of(speaking_llama());
    parts[0].set("split.tensors.count", int32_t{1});
    write(folder, parts);
    EXPECT_NO_THROW(logits_of(folder.path(part_name(0))));
    const std::string last = "blk.1.ffn_down.weight";
    for (GgufBuilder& part : parts) part.remove_tensor(last);
    write(folder, parts);
    expect_refusal([&] { logits_of(folder.path(part_name(0))); }, ErrorCode::kNotFound, last);
}

TEST(FieldCases, E2_PartsThatDoNotBelongTogetherAreRefused) {
    const auto expect = [](const std::function<void(std::vector<GgufBuilder>&)>& tell,
                           const char* says) {
        const Folder folder;
        std::vector<GgufBuilder> parts = parts_of(speaking_llama());
        tell(parts);
        write(folder, parts);
        expect_refusal([&] { logits_of(folder.path(part_name(0))); }, ErrorCode::kCorrupt, says);
    };
    expect([](auto& parts) { std::swap(parts[1], parts[2]); }, "part 2");
    expect([](auto& parts) { parts[1].add(parts[0].tensors[0]); }, "twice");
    expect([](auto& parts) { parts[1].remove("split.no"); }, "split.no");
    expect([](auto& parts) { parts[1].set("split.no", uint32_t{1}); }, "split.no");
}

TEST(FieldCases, E3_TheReasonOfAVocabularysRefusalIsSaid) {
    GgufBuilder f = speaking_llama();
    expect_refused_model(f.set_text("tokenizer.ggml.pre", "never-heard-of"),
                         ErrorCode::kUnsupported, "never-heard-of");
}

TEST(FieldCases, E4_YarnWithoutItsOriginalLengthTakesTheContext) {
    GgufBuilder f = tiny_llama();
    f.set_text("llama.rope.scaling.type", "yarn").set("llama.rope.scaling.factor", 4.0F);
    EXPECT_EQ(config_of(f).rope_scaling.n_ctx_original, config_of(tiny_llama()).n_ctx_train);
}

TEST(FieldCases, E4_AFactorWithoutATypeIsLinear) {
    for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
        GgufBuilder f = tiny_llama();
        const ModelConfig c = config_of(f.set(key, 4.0F));
        EXPECT_EQ(c.rope_scaling.type, "linear") << key;
        EXPECT_EQ(c.rope_scaling.factor, 4.0F) << key;
    }
}

}  // namespace
}  // namespace palimpsest
