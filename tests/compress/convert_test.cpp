// Conversion of published checkpoints, against a golden one and against hostile ones.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "compress/convert/convert_lclm.h"
#include "compress/latent_adapter.h"
#include "core/error.h"
#include "core/sha256.h"
#include "engine/session.h"
#include "palimpsest/conversation.h"
#include "palimpsest/latent_context.h"
#include "support/golden.h"
#include "support/latent_files.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

/// A checkpoint of a variant, complete, in a folder of its own.
class MadeCheckpoint {
 public:
    MadeCheckpoint(const fs::path& oracles, const std::string& variant) {
        const fs::path all = oracles / "lclm" / "checkpoints";
        for (const char* part : {"encoder", "decoder"}) {
            fs::copy(all / "mlp" / part, path() / part, fs::copy_options::recursive);
        }
        fs::copy(all / variant / "adapter", path() / "adapter", fs::copy_options::recursive);
        fs::copy(all / variant / "model_config.json", path());
        for (const auto& entry : fs::recursive_directory_iterator(path())) {
            fs::permissions(entry.path(), fs::perms::owner_all, fs::perm_options::add);
        }
    }
    [[nodiscard]] fs::path path() const { return folder_.path(); }
    [[nodiscard]] std::string out() const { return (fs::path(out_.path()) / "made").string(); }

    Converted convert(const std::string& type = "f32") const {
        return convert_lclm(path().string(), out(), {.type = type});
    }
    void write(const std::string& name, const std::string& text) const {
        std::ofstream(path() / name, std::ios::binary) << text;
    }
    [[nodiscard]] nlohmann::json json(const std::string& name) const {
        return testing::read_json(path() / name);
    }

 private:
    testing::TemporaryFolder folder_, out_;
};

/// Tensors of both files, bit by bit; and the metadata that the golden one has.
void expect_same_tensors(const std::string& made, const std::string& golden) {
    const GgufFile a = GgufFile::open(made);
    const GgufFile b = GgufFile::open(golden);
    ASSERT_EQ(a.tensors().size(), b.tensors().size());
    for (const GgufTensor& t : b.tensors()) {
        const GgufTensor* own = a.find_tensor(t.name);
        ASSERT_NE(own, nullptr) << t.name;
        EXPECT_EQ(own->type, t.type) << t.name;
        EXPECT_EQ(own->shape, t.shape) << t.name;
        EXPECT_TRUE(std::ranges::equal(own->data, t.data)) << t.name;
    }
    for (const std::string_view key : b.keys()) {
        if (key == "general.name" || key.ends_with("sha256")) continue;
        ASSERT_TRUE(a.has(key)) << key;
        EXPECT_TRUE(std::ranges::equal(a.find(key)->bytes, b.find(key)->bytes)) << key;
    }
}

class ConvertLclm : public ::testing::TestWithParam<const char*> {};

TEST_P(ConvertLclm, IsTheGoldenConversion) {
    REQUIRE_ORACLES();
    const MadeCheckpoint checkpoint(*oracle_folder, GetParam());
    const Converted made = checkpoint.convert();
    const fs::path golden = *oracle_folder / "lclm" / "gguf";
    expect_same_tensors(made.encoder, golden / "encoder.gguf");
    expect_same_tensors(made.decoder, golden / "decoder.gguf");
    expect_same_tensors(made.adapter, golden / (std::string("adapter.") + GetParam() + ".gguf"));
    const GgufFile adapter = GgufFile::open(made.adapter);
    EXPECT_EQ(adapter.text("lclm.encoder.sha256"), sha256_of_file(made.encoder));
    EXPECT_EQ(adapter.text("lclm.decoder.sha256"), sha256_of_file(made.decoder));
}

INSTANTIATE_TEST_SUITE_P(Variants, ConvertLclm, ::testing::Values("mlp", "attn", "concat"),
                         [](const auto& test) { return std::string(test.param); });

TEST(ConvertLclm, TakesTheOlderNamesToo) {
    REQUIRE_ORACLES();
    const MadeCheckpoint c(*oracle_folder, "concat");
    fs::rename(c.path() / "decoder", c.path() / "llm");
    fs::rename(c.path() / "encoder", c.path() / "embedder");
    fs::rename(c.path() / "adapter", c.path() / "projectors");
    fs::rename(c.path() / "projectors" / "adapter.safetensors",
               c.path() / "projectors" / "code_adapter.safetensors");
    c.write("model_config.json",
            R"({"chunk_size": 4, "batch_summary_tokens": 32, "pooling_token": "summary_concat",
                "embed_mask_type": "causal", "overlap_tokens": 12,
                "use_adapter_attention": false})");
    const Converted made = c.convert();
    expect_same_tensors(made.adapter, *oracle_folder / "lclm" / "gguf" / "adapter.concat.gguf");
}

TEST(ConvertLclm, ACheckpointWithAVocabularyTalks) {
    testing::TemporaryFolder folder;
    const std::string checkpoint = testing::write_tiny_checkpoint(folder, "checkpoint");
    const std::string out = (fs::path(folder.path()) / "made").string();
    const Converted made = convert_lclm(checkpoint + "/", out, {});
    EXPECT_EQ(made.form.start, 261);
    EXPECT_EQ(made.form.slot, 263);
    const Engine engine({.model = made.decoder, .threads = 1});
    EXPECT_EQ(engine.model_name(), "checkpoint decoder");
    const LatentContext latent(engine, {.adapter = made.adapter});
    Conversation talk(engine, {.regions = latent.regions()});
    EXPECT_TRUE(talk.notes().empty());
    const std::vector<TextPart> parts = {{"Hello hello <|memory_end|> hello.", true}, {"Well?"}};
    const GenerateResult r = talk.ask(parts, {.max_tokens = 200}).run();
    for (const int32_t t : r.tokens) EXPECT_TRUE(t < 261 || t > 263) << t;
    const auto ids = talk.session().tokens().ids();
    EXPECT_EQ(std::ranges::count(ids, 261), 1);  // the tag, and nothing that the text says
    EXPECT_EQ(std::ranges::count(ids, 262), 1);
    EXPECT_EQ(std::ranges::count(ids, -1), count_latents(made.form, latent.usage().tokens_encoded));
}

TEST(ConvertLclm, OtherVocabulariesAreRefused) {
    testing::TemporaryFolder folder;
    const std::string checkpoint = testing::write_tiny_checkpoint(folder, "checkpoint");
    const std::string words = testing::read_text(fs::path(checkpoint) / "decoder/tokenizer.json");
    const auto refused = [&](const std::string& tokenizer, ErrorCode code, const char* says) {
        folder.write("checkpoint/decoder/tokenizer.json", tokenizer);
        try {
            (void)convert_lclm(checkpoint, folder.path() + "/made", {});
            ADD_FAILURE() << "it was taken: " << says;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), code) << e.what();
            EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
        }
    };
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = words;
        return text.replace(text.find(from), from.size(), to);
    };
    refused("{", ErrorCode::kCorrupt, "not JSON");
    refused(with("BPE", "Unigram"), ErrorCode::kUnsupported, "no BPE vocabulary");
    refused(with("(?i:'s", "(?i:'x"), ErrorCode::kUnsupported, "otherwise than Qwen");
    refused(with("<|memory|>", "<|other|>"), ErrorCode::kNotFound, "'<|memory|>'");
    refused(with("\"id\":263", "\"id\":262"), ErrorCode::kCorrupt, "the same id, 262");
    refused(with("\"id\":263", "\"id\":264"), ErrorCode::kCorrupt, "265 tokens");
    refused(with("\"id\":263", "\"id\":-1"), ErrorCode::kCorrupt, "the id -1");
    fs::remove(fs::path(checkpoint) / "decoder/tokenizer.json");
    folder.write("checkpoint/decoder/vocab.json", "{}");
    EXPECT_THROW((void)convert_lclm(checkpoint, folder.path() + "/made", {}), Error);
}

TEST(ConvertLclm, StoresMatricesInSmallerTypes) {
    REQUIRE_ORACLES();
    const MadeCheckpoint c(*oracle_folder, "mlp");
    const GgufFile half = GgufFile::open(c.convert("f16").decoder);
    EXPECT_EQ(half.find_tensor("blk.0.attn_q.weight")->type, GGML_TYPE_F16);
    EXPECT_EQ(half.find_tensor("blk.0.attn_norm.weight")->type, GGML_TYPE_F32);
    const Converted made = c.convert("q8_0");
    EXPECT_EQ(GgufFile::open(made.decoder).find_tensor("blk.0.attn_q.weight")->type,
              GGML_TYPE_Q8_0);
    // 48 is no whole number of blocks of 32.
    EXPECT_EQ(GgufFile::open(made.encoder).find_tensor("blk.0.attn_q.weight")->type, GGML_TYPE_F16);
    EXPECT_EQ(GgufFile::open(made.adapter).find_tensor("lclm.adapter.fc1.weight")->type,
              GGML_TYPE_F32);
}

struct Hostile {
    const char* name;
    ErrorCode code;
    const char* says;
    std::function<void(const MadeCheckpoint&)> spoil;
};

void set_json(const MadeCheckpoint& c, const std::string& file, const std::string& key,
              const nlohmann::json& value) {
    nlohmann::json all = c.json(file);
    all[key] = value;
    c.write(file, all.dump());
}

/// Replaces bytes of a file.
void poke(const MadeCheckpoint& c, const std::string& file, size_t at, const std::string& bytes) {
    std::fstream f(c.path() / file, std::ios::binary | std::ios::in | std::ios::out);
    f.seekp(static_cast<std::streamoff>(at));
    f << bytes;
}

std::vector<Hostile> hostile_checkpoints() {
    using enum ErrorCode;
    const std::string adapter = "adapter/adapter.safetensors";
    return {
        {"no_config", kNotFound, "model_config.json",
         [](const auto& c) { fs::remove(c.path() / "model_config.json"); }},
        {"config_no_json", kCorrupt, "not JSON",
         [](const auto& c) { c.write("model_config.json", "[1"); }},
        {"no_ratio", kNotFound, "compression_ratio",
         [](const auto& c) { c.write("model_config.json", "{}"); }},
        {"ratio_0", kCorrupt, "0 tokens into one",
         [](const auto& c) { set_json(c, "model_config.json", "compression_ratio", 0); }},
        {"ratio_text", kCorrupt, "compression_ratio",
         [](const auto& c) { set_json(c, "model_config.json", "compression_ratio", "4x"); }},
        {"ratio_does_not_divide", kCorrupt, "no multiple",
         [](const auto& c) { set_json(c, "model_config.json", "compression_ratio", 5); }},
        {"pooling_unknown", kUnsupported, "pooling 'max'",
         [](const auto& c) { set_json(c, "model_config.json", "pooling", "max"); }},
        {"adapter_unknown", kUnsupported, "'mixer'",
         [](const auto& c) { set_json(c, "model_config.json", "adapter_type", "mixer"); }},
        {"no_encoder", kNotFound, "'encoder'",
         [](const auto& c) { fs::remove_all(c.path() / "encoder"); }},
        {"lora", kUnsupported, "LoRA",
         [](const auto& c) { c.write("decoder/adapter_config.json", "{}"); }},
        {"other_family", kUnsupported, "'gpt_neox'",
         [](const auto& c) { set_json(c, "decoder/config.json", "model_type", "gpt_neox"); }},
        {"scaled_rotation", kUnsupported, "rope_scaling",
         [](const auto& c) {
             set_json(c, "decoder/config.json", "rope_scaling", {{"type", "yarn"}, {"factor", 4}});
         }},
        {"layer_missing", kNotFound, "model.layers.3",
         [](const auto& c) { set_json(c, "decoder/config.json", "num_hidden_layers", 4); }},
        {"layer_too_many", kUnsupported, "no place",
         [](const auto& c) { set_json(c, "decoder/config.json", "num_hidden_layers", 2); }},
        {"layers_many", kCorrupt, "num_hidden_layers",
         [](const auto& c) { set_json(c, "decoder/config.json", "num_hidden_layers", 1e18); }},
        {"shard_missing", kNotFound, "model-00002-of-00002",
         [](const auto& c) { fs::remove(c.path() / "decoder/model-00002-of-00002.safetensors"); }},
        {"index_leaves_the_folder", kCorrupt, "as a file",
         [](const auto& c) {
             c.write("decoder/model.safetensors.index.json",
                     R"({"weight_map": {"a": "../encoder/model.safetensors"}})");
         }},
        {"index_empty", kCorrupt, "no files",
         [](const auto& c) {
             c.write("decoder/model.safetensors.index.json", R"({"weight_map": {}})");
         }},
        {"header_too_long", kCorrupt, "its header has",
         [adapter](const auto& c) { poke(c, adapter, 0, std::string(8, '\x7f')); }},
        {"header_no_json", kCorrupt, "no JSON object",
         [adapter](const auto& c) { poke(c, adapter, 8, "!!"); }},
        {"file_cut", kCorrupt, "bytes",
         [adapter](const auto& c) { fs::resize_file(c.path() / adapter, 1000); }},
        {"file_tiny", kCorrupt, "too short",
         [adapter](const auto& c) { fs::resize_file(c.path() / adapter, 5); }},
        {"weight_not_a_number", kCorrupt, "not a number",
         [adapter](const auto& c) {
             const auto size = fs::file_size(c.path() / adapter);
             poke(c, adapter, size - 4, std::string("\x00\x00\xc0\x7f", 4));
         }},
    };
}

TEST(ConvertLclm, HostileCheckpointsAreRefusedInWords) {
    REQUIRE_ORACLES();
    for (const Hostile& h : hostile_checkpoints()) {
        SCOPED_TRACE(h.name);
        const MadeCheckpoint checkpoint(*oracle_folder, "mlp");
        h.spoil(checkpoint);
        try {
            (void)checkpoint.convert();
            ADD_FAILURE() << "it was taken";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), h.code) << e.what();
            EXPECT_NE(std::string(e.what()).find(h.says), std::string::npos) << e.what();
        }
    }
}

TEST(ConvertLclm, AStoppedConversionLeavesWhatWasThere) {
    REQUIRE_ORACLES();
    const MadeCheckpoint c(*oracle_folder, "mlp");
    const Converted before = c.convert();
    const std::string sum = sha256_of_file(before.decoder);
    const auto stop = [](size_t, size_t) { return false; };
    EXPECT_THROW(
        (void)convert_lclm(c.path().string(), c.out(), {.type = "f16", .on_progress = stop}),
        Error);
    EXPECT_EQ(sha256_of_file(before.decoder), sum);
    size_t n = 0;
    for (const auto& entry : fs::directory_iterator(c.out())) {
        if (entry.is_regular_file()) ++n;
    }
    EXPECT_EQ(n, 3U);  // and no temporary
}

}  // namespace
}  // namespace palimpsest
