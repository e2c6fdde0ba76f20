#include "support/vocabularies.h"

#include <algorithm>

#include "core/gguf.h"

namespace palimpsest::testing {

const std::array<std::string, 12> kSeamTexts = {"Hello world",
                                                " leading and trailing ",
                                                "two  spaces,\ttabs\n\nand lines\r\n",
                                                "na\xC3\xAFve \xE2\x82\xAC 5 \xF0\x9F\x98\x80",
                                                "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E",
                                                "hell",
                                                "helhello hehe",
                                                " ",
                                                "\n",
                                                "123 4567.89",
                                                "def f(x):\n    return x\n",
                                                "[INST] no token [/INST]"};

Vocabulary::Vocabulary(std::string name, const std::string& file)
    : name_(std::move(name)), file_(std::make_unique<TemporaryFile>(file, ".gguf")) {
    ours_ = Tokenizer::load(path(), GgufFile::open(path()));
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    theirs_.reset(llama_model_load_from_file(path().c_str(), params));
}

std::vector<TokenId> Vocabulary::theirs(const std::string& text, bool begins, bool parses) const {
    std::vector<TokenId> tokens(text.size() + 8);
    const int32_t n = llama_tokenize(llama_model_get_vocab(theirs_.get()), text.data(),
                                     static_cast<int32_t>(text.size()), tokens.data(),
                                     static_cast<int32_t>(tokens.size()), begins, parses);
    tokens.resize(static_cast<size_t>(std::max(n, 0)));
    return tokens;
}

std::vector<TokenId> Vocabulary::chat(const std::string& form,
                                      const std::vector<std::string>& texts) const {
    std::vector<llama_chat_message> messages;
    for (size_t i = 0; i < texts.size(); ++i) {
        messages.push_back({i % 2 == 0 ? "user" : "assistant", texts[i].c_str()});
    }
    std::string out(size_t{1} << 16U, '\0');
    const int32_t n = llama_chat_apply_template(form.c_str(), messages.data(), messages.size(),
                                                true, out.data(), static_cast<int32_t>(out.size()));
    out.resize(static_cast<size_t>(std::max(n, 0)));
    const bool has_bos = !ours_->beginning().empty() &&
                         theirs(out, false, true).front() == ours_->beginning().front();
    return theirs(out, !has_bos, true);
}

std::vector<Vocabulary> vocabularies() {
    std::vector<Vocabulary> all;
    GgufBuilder pairs = tiny_llama(kTinyBpeTokens);
    add_bpe_vocabulary(pairs);
    all.emplace_back("byte pairs", pairs.bytes());
    for (const bool has_space : {true, false}) {
        GgufBuilder pieces = tiny_llama(kTinySpmTokens);
        add_spm_vocabulary(pieces);
        pieces.set_bool("tokenizer.ggml.add_space_prefix", has_space);
        all.emplace_back(has_space ? "pieces" : "pieces without a space", pieces.bytes());
    }
    if (const auto folder = field_inputs()) {
        for (const char* name : {"bpe4k", "spm4k"}) {
            all.emplace_back(name, read_text(*folder / (std::string(name) + ".gguf")));
        }
    }
    return all;
}

}  // namespace palimpsest::testing
