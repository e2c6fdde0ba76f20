#include "support/gguf_builder.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "support/tiny_model.h"

namespace palimpsest::testing {

namespace {

// Kinds of tokens, as files number them.
constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;

std::string padded(std::string bytes, uint64_t alignment) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return bytes;
}

std::string utf8(uint32_t code) {
    if (code < 0x80) return {static_cast<char>(code)};
    return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

}  // namespace

std::vector<std::string> byte_spellings() {
    std::vector<std::string> spellings;
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
        const bool prints =
            (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
        spellings.push_back(utf8(prints ? b : next++));
    }
    return spellings;
}

namespace {

/// Moves through a file that is known to be valid; std::string_view throws if it is not.
class Reader {
 public:
    explicit Reader(std::string_view file) : file_(file) {}

    [[nodiscard]] size_t at() const { return at_; }
    std::string take(size_t n) {
        at_ += n;
        return std::string(file_.substr(at_ - n, n));
    }
    template <typename T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }
    std::string text() { return take(number<uint64_t>()); }
    /// Type and value of a key, as they are written.
    std::string value() {
        const size_t begin = at_;
        auto type = number<uint32_t>();
        uint64_t count = 1;
        if (type == GGUF_TYPE_ARRAY) {
            type = number<uint32_t>();
            count = number<uint64_t>();
        }
        for (uint64_t i = 0; i < count; ++i) skip(type);
        return std::string(file_.substr(begin, at_ - begin));
    }

 private:
    void skip(uint32_t type) {
        constexpr std::array<size_t, 13> kSizes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        type == GGUF_TYPE_STRING ? text() : take(kSizes.at(type));
    }

    std::string_view file_;
    size_t at_ = 0;
};

}  // namespace

std::string raw_text(std::string_view text) {
    return raw(static_cast<uint64_t>(text.size())) + std::string(text);
}

GgufBuilder& GgufBuilder::set(std::string_view key, uint32_t type, const std::string& value) {
    const auto it = std::ranges::find(keys, key, &std::pair<std::string, std::string>::first);
    if (it == keys.end()) {
        keys.emplace_back(key, raw(type) + value);
    } else {
        it->second = raw(type) + value;
    }
    return *this;
}

GgufBuilder& GgufBuilder::set(std::string_view key, uint32_t value) {
    return set(key, GGUF_TYPE_UINT32, raw(value));
}

GgufBuilder& GgufBuilder::set(std::string_view key, int32_t value) {
    return set(key, GGUF_TYPE_INT32, raw(value));
}

GgufBuilder& GgufBuilder::set(std::string_view key, float value) {
    return set(key, GGUF_TYPE_FLOAT32, raw(value));
}

GgufBuilder& GgufBuilder::set_text(std::string_view key, std::string_view value) {
    return set(key, GGUF_TYPE_STRING, raw_text(value));
}

GgufBuilder& GgufBuilder::set_bool(std::string_view key, bool value) {
    return set(key, GGUF_TYPE_BOOL, raw(static_cast<uint8_t>(value ? 1 : 0)));
}

GgufBuilder& GgufBuilder::set_texts(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& v : values) bytes += raw_text(v);
    return set_array(key, GGUF_TYPE_STRING, values.size(), bytes);
}

GgufBuilder& GgufBuilder::set_array(std::string_view key, uint32_t element_type, uint64_t count,
                                    const std::string& values) {
    return set(key, GGUF_TYPE_ARRAY, raw(element_type) + raw(count) + values);
}

GgufBuilder& GgufBuilder::remove(std::string_view key) {
    std::erase_if(keys, [&](const auto& k) { return k.first == key; });
    return *this;
}

GgufBuilder& GgufBuilder::add(TensorField field) {
    tensors.push_back(std::move(field));
    return *this;
}

GgufBuilder& GgufBuilder::add_f32(const std::string& name, const std::vector<uint64_t>& dims) {
    uint64_t n = 1;
    for (const uint64_t d : dims) n *= d;
    uint32_t state = static_cast<uint32_t>(name.size() + 7 * tensors.size() + 1);
    std::string data;
    for (uint64_t i = 0; i < n; ++i) {
        state = state * 1664525U + 1013904223U;
        data += raw(static_cast<float>(state >> 16U) / 65536.0F - 0.5F);
    }
    return add({.name = name, .dims = dims, .data = data});
}

TensorField& GgufBuilder::tensor(std::string_view name) {
    const auto it = std::ranges::find(tensors, name, &TensorField::name);
    if (it == tensors.end()) throw std::out_of_range("no tensor " + std::string(name));
    return *it;
}

GgufBuilder& GgufBuilder::remove_tensor(std::string_view name) {
    std::erase_if(tensors, [&](const TensorField& t) { return t.name == name; });
    return *this;
}

std::string GgufBuilder::header() const {
    std::string out = magic + raw(version);
    out += raw(n_tensors.value_or(tensors.size())) + raw(n_keys.value_or(keys.size()));
    for (const auto& [name, value] : keys) out += raw_text(name) + value;
    uint64_t offset = 0;
    for (const TensorField& t : tensors) {
        out += raw(t.name_bytes.value_or(t.name.size())) + t.name;
        out += raw(t.n_dims.value_or(static_cast<uint32_t>(t.dims.size())));
        for (const uint64_t d : t.dims) out += raw(d);
        out += raw(t.type) + raw(t.offset.value_or(offset));
        offset += padded(t.data, alignment).size();
    }
    return out;
}

std::string GgufBuilder::bytes() const {
    std::string out = padded(header(), alignment);
    for (const TensorField& t : tensors) out += padded(t.data, alignment);
    return out;
}

GgufBuilder small_file() {
    GgufBuilder f;
    f.set_text("general.architecture", "llama");
    f.set("u8", GGUF_TYPE_UINT8, raw(uint8_t{200}));
    f.set("i8", GGUF_TYPE_INT8, raw(int8_t{-100}));
    f.set("u16", GGUF_TYPE_UINT16, raw(uint16_t{60000}));
    f.set("i16", GGUF_TYPE_INT16, raw(int16_t{-30000}));
    f.set("u32", uint32_t{4000000000U});
    f.set("i32", int32_t{-2000000000});
    f.set("f32", 1.5F);
    f.set_bool("bool", true);
    f.set_text("text", "hello");
    f.set_texts("texts", {"a", "", "bcd"});
    f.set_array("numbers", GGUF_TYPE_INT16, std::vector<int16_t>{1, -2, 3});
    f.set_array("floats", GGUF_TYPE_FLOAT32, std::vector<float>{0.5F, -1.0F});
    f.set("u64", GGUF_TYPE_UINT64, raw(uint64_t{1} << 40U));
    f.set("i64", GGUF_TYPE_INT64, raw(-(int64_t{1} << 40)));
    f.set("f64", GGUF_TYPE_FLOAT64, raw(0.25));
    return f.add_f32("first", {4, 2}).add_f32("second", {3});
}

GgufBuilder taken_apart(std::string_view file) {
    GgufBuilder f;
    Reader in(file);
    in.take(4);
    f.version = in.number<uint32_t>();
    const auto n_tensors = in.number<uint64_t>();
    const auto n_keys = in.number<uint64_t>();
    for (uint64_t i = 0; i < n_keys; ++i) {
        const std::string name = in.text();
        f.keys.emplace_back(name, in.value());
    }
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < n_tensors; ++i) {
        TensorField t = {.name = in.text(), .dims = {}};
        t.dims.resize(in.number<uint32_t>());
        for (uint64_t& d : t.dims) d = in.number<uint64_t>();
        t.type = in.number<uint32_t>();
        offsets.push_back(in.number<uint64_t>());
        f.tensors.push_back(std::move(t));
    }
    const std::string_view data = file.substr((in.at() + 31) / 32 * 32);
    for (size_t i = 0; i < f.tensors.size(); ++i) {
        const uint64_t end = i + 1 < offsets.size() ? offsets[i + 1] : data.size();
        f.tensors[i].data = data.substr(offsets[i], end - offsets[i]);
    }
    return f;
}

GgufBuilder tiny_llama(uint64_t n_vocab) {
    GgufBuilder f = taken_apart(tiny_model_bytes({.n_head = 2, .n_head_kv = 1}));
    if (n_vocab == static_cast<uint64_t>(kTinyVocab)) return f;
    for (const char* name : {"token_embd.weight", "output.weight"}) {
        f.remove_tensor(name).add_f32(name, {static_cast<uint64_t>(kTinyWidth), n_vocab});
    }
    return f;
}

std::string speaking_model_bytes(const TinyModelOptions& options) {
    GgufBuilder f = taken_apart(tiny_model_bytes(options));
    f.remove(options.architecture + ".vocab_size");
    for (const char* name : {"token_embd.weight", "output.weight"}) {
        f.remove_tensor(name).add_f32(name, {static_cast<uint64_t>(kTinyWidth), kTinyBpeTokens});
    }
    add_bpe_vocabulary(f);
    return f.bytes();
}

void add_bpe_vocabulary(GgufBuilder& f, std::string_view missing) {
    std::vector<std::string> tokens = byte_spellings();
    for (const char byte : missing) tokens[static_cast<unsigned char>(byte)] += " is missing";
    tokens.insert(tokens.end(),
                  {"he", "ll", "hell", "<|endoftext|>", "<|im_start|>", "<|im_end|>"});
    std::vector<int32_t> types(tokens.size(), kNormal);
    std::fill(types.end() - 3, types.end(), kControl);
    f.set_text("tokenizer.ggml.model", "gpt2").set_text("tokenizer.ggml.pre", "smollm");
    f.set_texts("tokenizer.ggml.tokens", tokens);
    f.set_array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, types);
    f.set_texts("tokenizer.ggml.merges", {"h e", "l l", "he ll"});
    f.set("tokenizer.ggml.bos_token_id", uint32_t{260});
    f.set("tokenizer.ggml.eos_token_id", uint32_t{261});
    f.set_bool("tokenizer.ggml.add_bos_token", false);
    f.set_text("tokenizer.chat_template",
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
               "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
               "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}");
}

void add_spm_vocabulary(GgufBuilder& f, std::string_view missing) {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
    std::vector<int32_t> types = {kUnknown, kControl, kControl};
    constexpr std::string_view kHex = "0123456789ABCDEF";
    for (size_t b = 0; b < 256; ++b) {
        tokens.push_back(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">");
        types.push_back(kByte);
    }
    for (const char byte : missing) tokens[3 + static_cast<unsigned char>(byte)] += " is missing";
    for (const char* piece : {"\xE2\x96\x81", "h", "e", "l", "o", "he"}) {
        tokens.emplace_back(piece);
        types.push_back(kNormal);
    }
    std::vector<float> scores(tokens.size(), 0.0F);
    scores.back() = 1.0F;
    f.set_text("tokenizer.ggml.model", "llama");
    f.set_texts("tokenizer.ggml.tokens", tokens);
    f.set_array("tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores);
    f.set_array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, types);
    f.set("tokenizer.ggml.bos_token_id", uint32_t{1});
    f.set("tokenizer.ggml.eos_token_id", uint32_t{2});
}

}  // namespace palimpsest::testing
