#include "train/linear/byte_vocabulary.h"

#include <string>
#include <vector>

#include "train/linear/linear_task.h"

namespace palimpsest {

namespace {

constexpr int32_t kNormal = 1, kControl = 3;  // kinds of tokens

void append_utf8(std::string& to, uint32_t code) {
    if (code < 0x80) {
        to += static_cast<char>(code);
        return;
    }
    to += static_cast<char>(0xC0U | (code >> 6U));
    to += static_cast<char>(0x80U | (code & 0x3FU));
}

/// Byte-level vocabularies spell a byte as itself if it prints, else as U+0100 and on.
std::vector<std::string> spelt_bytes() {
    std::vector<std::string> all;
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
        const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
        std::string piece;
        append_utf8(piece, prints ? b : next++);
        all.push_back(piece);
    }
    return all;
}

}  // namespace

void set_byte_vocabulary(GgufWriter& to) {
    std::vector<std::string> tokens = spelt_bytes();
    std::vector<int32_t> kinds(tokens.size(), kNormal);
    for (const char* special : {"<s>", "</s>", "<pad>"}) {
        tokens.emplace_back(special);
        kinds.push_back(kControl);
    }
    to.set_text("tokenizer.ggml.model", "gpt2");
    to.set_text("tokenizer.ggml.pre", "default");
    to.set_texts("tokenizer.ggml.tokens", tokens);
    to.set_integers("tokenizer.ggml.token_type", kinds);
    to.set_texts("tokenizer.ggml.merges", {});
    to.set_count("tokenizer.ggml.bos_token_id", 256);
    to.set_count("tokenizer.ggml.eos_token_id", 257);
    to.set_count("tokenizer.ggml.padding_token_id", 258);
    to.set_boolean("tokenizer.ggml.add_bos_token", false);
}

}  // namespace palimpsest
