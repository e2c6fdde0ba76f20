#pragma once

#include <llama-cpp.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "support/gguf_builder.h"
#include "support/golden.h"
#include "text/tokenizer.h"

namespace palimpsest::testing {

/// A vocabulary, as ours and as libllama's.
class Vocabulary {
 public:
    /// `file`: a model's bytes.
    Vocabulary(std::string name, const std::string& file);

    [[nodiscard]] const std::string& name() const { return name_; }
    /// The model's file, as long as this object lives.
    [[nodiscard]] std::string path() const { return file_->path(); }
    [[nodiscard]] const Tokenizer& ours() const { return *ours_; }
    /// As libllama's programs tokenize prompts: special tokens in it are parsed.
    [[nodiscard]] std::vector<TokenId> prompt(const std::string& text) const {
        return theirs(text, true, true);
    }
    [[nodiscard]] std::vector<TokenId> theirs(const std::string& text, bool begins,
                                              bool parses) const;
    /// What libllama's programs make of a chat: rendered, then tokenized whole.
    [[nodiscard]] std::vector<TokenId> chat(const std::string& form,
                                            const std::vector<std::string>& texts) const;

 private:
    std::string name_;
    std::unique_ptr<TemporaryFile> file_;
    std::unique_ptr<Tokenizer> ours_;
    llama_model_ptr theirs_;
};

/// Tiny models with a vocabulary of each kind, and those of the field cases if they are there.
std::vector<Vocabulary> vocabularies();

/// Texts with what tells vocabularies apart: spaces, lines, scripts, merges.
extern const std::array<std::string, 12> kSeamTexts;

}  // namespace palimpsest::testing
