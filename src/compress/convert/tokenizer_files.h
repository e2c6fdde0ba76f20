#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/gguf_writer.h"
#include "core/types.h"

namespace palimpsest {

/// A byte-level BPE vocabulary as a checkpoint has it in `tokenizer.json` and
/// `tokenizer_config.json`, of the kind that Qwen 2 and 3 use.
struct TokenizerFiles {
    struct Added {
        TokenId id = 0;
        std::string text;
        bool is_special = false;
    };
    std::vector<std::string> tokens;  // by id; empty: there is none
    std::vector<Added> added;         // of them, those that stand for themselves
    std::vector<std::string> merges;
    std::string chat_template, eos, pad;

    /// The id of an added token; nullopt if there is none.
    [[nodiscard]] std::optional<TokenId> added_token(std::string_view text) const;
    /// Sets the keys of a GGUF file whose token table has n_rows rows.
    void describe(GgufWriter& file, int64_t n_rows) const;
};

/// nullopt if the folder has no tokenizer files. Throws kCorrupt, kUnsupported, naming the file.
[[nodiscard]] std::optional<TokenizerFiles> read_tokenizer_files(const std::string& folder);

}  // namespace palimpsest
