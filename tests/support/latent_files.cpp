#include "support/latent_files.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "compress/convert/thin_additions.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "support/tiny_model.h"

namespace palimpsest::testing {

namespace {

constexpr uint64_t kFeedForward = 48;

void add_attention_layer(GgufBuilder& f, uint64_t width, uint32_t i) {
    const auto add = [&](const char* name, std::vector<uint64_t> dims) {
        f.add_f32(cat("lclm.adapter.blk.", i, ".", name, ".weight"), dims);
    };
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
        add(name, {width, width});
    for (const char* name : {"attn_q_norm", "attn_k_norm"}) add(name, {16});
    for (const char* name : {"attn_norm", "ffn_norm"}) add(name, {width});
    for (const char* name : {"ffn_gate", "ffn_up"}) add(name, {width, kFeedForward});
    add("ffn_down", {kFeedForward, width});
}

using Dims = std::vector<int64_t>;

/// A safetensors file of small numbers that depend on their place.
std::string safetensors(const std::map<std::string, Dims>& tensors) {
    nlohmann::ordered_json header;
    std::string data;
    uint32_t state = 1;
    for (const auto& [name, shape] : tensors) {
        const size_t begin = data.size();
        int64_t n = 1;
        for (const int64_t d : shape) n *= d;
        for (int64_t i = 0; i < n; ++i) {
            state = state * 1664525U + 1013904223U;
            data += raw(0.2F * (static_cast<float>(state >> 16U) / 65536.0F - 0.5F));
        }
        header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    return raw(static_cast<uint64_t>(text.size())) + text + data;
}

std::map<std::string, Dims> model_tensors(const std::string& prefix, int64_t n_vocab) {
    constexpr int64_t kWidth = kTinyWidth;
    const std::string block = prefix + "layers.0.";
    return {{prefix + "embed_tokens.weight", {n_vocab, kWidth}},
            {prefix + "norm.weight", {kWidth}},
            {block + "self_attn.q_proj.weight", {32, kWidth}},
            {block + "self_attn.k_proj.weight", {16, kWidth}},
            {block + "self_attn.v_proj.weight", {16, kWidth}},
            {block + "self_attn.o_proj.weight", {kWidth, 32}},
            {block + "self_attn.q_norm.weight", {16}},
            {block + "self_attn.k_norm.weight", {16}},
            {block + "mlp.gate_proj.weight", {kFeedForward, kWidth}},
            {block + "mlp.up_proj.weight", {kFeedForward, kWidth}},
            {block + "mlp.down_proj.weight", {kWidth, kFeedForward}},
            {block + "input_layernorm.weight", {kWidth}},
            {block + "post_attention_layernorm.weight", {kWidth}}};
}

std::string model_config(int64_t n_vocab) {
    return nlohmann::json({{"model_type", "qwen3"},
                           {"hidden_size", kTinyWidth},
                           {"num_hidden_layers", 1},
                           {"num_attention_heads", 2},
                           {"num_key_value_heads", 1},
                           {"head_dim", 16},
                           {"intermediate_size", kFeedForward},
                           {"hidden_act", "silu"},
                           {"rms_norm_eps", 1e-6},
                           {"max_position_embeddings", 512},
                           {"rope_theta", 10000.0},
                           {"vocab_size", n_vocab}})
        .dump();
}

/// 256 bytes, two merges, and what stands for itself.
std::string tokenizer_json(const std::vector<std::string>& added) {
    nlohmann::json vocab;
    int id = 0;
    for (const std::string& s : byte_spellings()) vocab[s] = id++;
    vocab["he"] = id++;
    vocab["ll"] = id++;
    nlohmann::json list = nlohmann::json::array();
    for (const std::string& text : added) {
        list.push_back({{"id", id++}, {"content", text}, {"special", true}});
    }
    const char* words =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    return nlohmann::json(
               {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"h e", {"l", "l"}}}}},
                {"added_tokens", list},
                {"pre_tokenizer",
                 {{"type", "Sequence"},
                  {"pretokenizers",
                   {{{"type", "Split"}, {"pattern", {{"Regex", words}}}},
                    {{"type", "ByteLevel"}}}}}}})
        .dump();
}

constexpr const char* kTokenizerConfig = R"({
  "eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"},
  "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
})";

}  // namespace

GgufBuilder tiny_adapter(const TinyAdapterOptions& o) {
    const uint64_t width = kTinyWidth;
    const uint64_t pooled = o.pooling == "concat" ? o.ratio * width : width;
    GgufBuilder f;
    f.set_text("general.architecture", "lclm");
    f.set("lclm.version", uint32_t{1});
    f.set("lclm.compression_ratio", o.ratio);
    f.set("lclm.window", o.window);
    f.set("lclm.overlap", o.overlap);
    f.set("lclm.adapter_layers", o.n_layer);
    f.set("lclm.encoder_dim", static_cast<uint32_t>(width));
    f.set("lclm.decoder_dim", static_cast<uint32_t>(width));
    f.set_text("lclm.pooling", o.pooling).set_text("lclm.mask", o.mask);
    f.set_text("lclm.adapter_type", o.type);
    if (o.pooling == "eos") f.set("lclm.token.marker", uint32_t{259});
    if (o.has_tokens) {
        f.set("lclm.token.start", uint32_t{256}).set("lclm.token.end", uint32_t{257});
        f.set("lclm.token.slot", uint32_t{258});
    } else {
        f.add_f32("lclm.tag.start", {width}).add_f32("lclm.tag.end", {width});
    }
    f.add_f32("lclm.adapter.norm.weight", {pooled});
    f.add_f32("lclm.adapter.fc1.weight", {pooled, width}).add_f32("lclm.adapter.fc1.bias", {width});
    f.add_f32("lclm.adapter.fc2.weight", {width, width}).add_f32("lclm.adapter.fc2.bias", {width});
    if (o.n_layer == 0) return f;
    f.set("lclm.adapter.head_count", uint32_t{2}).set("lclm.adapter.head_count_kv", uint32_t{2});
    f.set("lclm.adapter.key_length", uint32_t{16});
    f.set("lclm.adapter.feed_forward_length", static_cast<uint32_t>(kFeedForward));
    f.set("lclm.adapter.rope_freq_base", 10000.0F).set("lclm.adapter.rms_epsilon", 1e-6F);
    for (uint32_t i = 0; i < o.n_layer; ++i) add_attention_layer(f, width, i);
    return f;
}

std::string tiny_additions_bytes(const std::string& model, int64_t n_layer,
                                 const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder f = tiny_adapter();
    f.set_text("general.architecture", kThinAdditions);
    f.set_text(kAdditionsModel, model_fingerprint(GgufFile::open(model)));
    f.set(kAdditionsLayers, uint32_t{1});
    constexpr uint64_t kRank = 2;
    const auto add = [&](const std::string& matrix, uint64_t n_out) {
        f.add_f32(matrix + ".down", {kTinyWidth, kRank});
        f.add_f32(matrix + ".up", {n_out, kRank});
    };
    add("encoder.blk.0.attn_q", 64);
    for (int64_t i = 0; i < n_layer; ++i) {
        add(cat("decoder.blk.", i, ".attn_q"), 64);
        add(cat("decoder.blk.", i, ".attn_k"), 32);
    }
    if (change) change(f);
    return f.bytes();
}

std::string write_tiny_checkpoint(TemporaryFolder& folder, const std::string& name) {
    const auto write = [&](const std::string& file, const std::string& content) {
        return folder.write(name + "/" + file, content);
    };
    const std::vector<std::string> common = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    std::vector<std::string> all = common;
    all.insert(all.end(), {"<|memory_start|>", "<|memory_end|>", "<|memory|>"});
    write("encoder/config.json", model_config(264));  // three rows that no token has
    write("encoder/model.safetensors", safetensors(model_tensors("", 264)));
    write("encoder/tokenizer.json", tokenizer_json(common));
    write("decoder/config.json", model_config(264));
    write("decoder/model.safetensors", safetensors(model_tensors("model.", 264)));
    write("decoder/tokenizer.json", tokenizer_json(all));
    write("decoder/tokenizer_config.json", kTokenizerConfig);
    constexpr int64_t kWidth = kTinyWidth;
    write("adapter/adapter.safetensors", safetensors({{"norm.weight", {kWidth}},
                                                      {"fc1.weight", {kWidth, kWidth}},
                                                      {"fc1.bias", {kWidth}},
                                                      {"fc2.weight", {kWidth, kWidth}},
                                                      {"fc2.bias", {kWidth}}}));
    const std::string config =
        write("model_config.json",
              R"({"compression_ratio": 4, "encoder_window_size": 32, "pooling": "mean",
            "encoder_mask_type": "causal", "boundary_overlap": 0, "adapter_type": "mlp"})");
    return config.substr(0, config.rfind('/'));
}

}  // namespace palimpsest::testing
