// Tokens beside libllama's own: the same vocabularies, texts and ways in.

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/vocabularies.h"
#include "text/tokenizer.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::vocabularies;
using testing::Vocabulary;

std::vector<TokenId> joined(const std::vector<Segment>& segments) {
    std::vector<TokenId> all;
    for (const Segment& s : segments) all.insert(all.end(), s.tokens.begin(), s.tokens.end());
    return all;
}

TEST(Seams, TextsAreTokenizedAsLibllamaDoes) {
    for (const Vocabulary& v : vocabularies()) {
        for (const std::string& text : testing::kSeamTexts) {
            SCOPED_TRACE(v.name() + ": " + text);
            EXPECT_EQ(v.ours().encode(text), v.theirs(text, false, false));
            const std::vector<TextPart> whole = {{text}};
            EXPECT_EQ(joined(v.ours().encode_raw(whole)), v.prompt(text));
        }
    }
}

TEST(Seams, PartsOfARawTextAreOneText) {
    for (const Vocabulary& v : vocabularies()) {
        for (const std::string& first : testing::kSeamTexts) {
            for (const std::string& second : testing::kSeamTexts) {
                SCOPED_TRACE(v.name() + ": " + first + "|" + second);
                const std::vector<TextPart> parts = {
                    {.text = first, .is_context = true}, {.text = second, .keep = true}, {first}};
                EXPECT_EQ(joined(v.ours().encode_raw(parts)), v.prompt(first + second + first));
            }
        }
    }
}

// Field case B2: once, every part of a prompt began with a space.
TEST(Seams, B2_ChatsAreTokenizedAsLibllamaDoes) {
    for (const Vocabulary& v : vocabularies()) {
        for (const char* form : {"llama2", "chatml", "llama3", "gemma", "mistral-v7", "phi3",
                                 "vicuna", "zephyr", "deepseek"}) {
            const auto chat_template = ChatTemplate::named(form);
            for (const std::string& text : testing::kSeamTexts) {
                SCOPED_TRACE(v.name() + ", " + form + ": " + text);
                const std::vector<ChatMessage> one = {{"user", {{text}}}};
                EXPECT_EQ(joined(v.ours().encode_chat(one, *chat_template)), v.chat(form, {text}));
                const std::vector<ChatMessage> three = {
                    {"user", {{"Hello", true}, {text, false, true}}},
                    {"assistant", {{text}}},
                    {"user", {{text}, {"And?"}}}};
                EXPECT_EQ(joined(v.ours().encode_chat(three, *chat_template)),
                          v.chat(form, {"Hello" + text, text, text + "And?"}));
            }
        }
    }
}

TEST(Seams, RealChatsAreTokenizedAsLibllamaDoes) {
    REQUIRE_MODEL();
    const Vocabulary v("the default model", testing::read_text(*model_path));
    const auto chat_template = ChatTemplate::named("chatml");
    for (const std::string& text : testing::kSeamTexts) {
        SCOPED_TRACE(text);
        const std::vector<ChatMessage> one = {{"user", {{text}}}};
        EXPECT_EQ(joined(v.ours().encode_chat(one, *chat_template)), v.chat("chatml", {text}));
    }
}

// Field case B3: the default model's template puts a system text first where none is given.
TEST(Seams, B3_RealTemplatesAreTheFilesOwn) {
    REQUIRE_MODEL();
    if (!has_jinja()) GTEST_SKIP() << "this build has no Jinja";
    const Vocabulary v("the default model", testing::read_text(*model_path));
    const std::vector<ChatMessage> one = {{"user", {{"hello"}}}};
    const std::vector<Segment> segments = v.ours().encode_chat(one);
    EXPECT_EQ(joined(segments),
              v.prompt("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained "
                       "by Hugging Face<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
                       "<|im_start|>assistant\n"));
    EXPECT_TRUE(segments.front().keep);
    EXPECT_FALSE(segments.back().keep);
}

/// A part's tokens are the part's, but those that a neighbour begins.
TEST(Seams, DocumentsAreContextAndNothingElseIs) {
    for (const Vocabulary& v : vocabularies()) {
        const std::vector<TextPart> parts = {
            {.text = "Read. "}, {.text = "hello hello", .is_context = true}, {.text = "\nWhy?"}};
        std::string context;
        for (const Segment& s : v.ours().encode_raw(parts)) {
            if (s.is_context) context += v.ours().decode(s.tokens);
        }
        EXPECT_NE(context.find("hello"), std::string::npos) << v.name();
        EXPECT_EQ(context.find("Why"), std::string::npos) << v.name();
        EXPECT_EQ(context.find("Read"), std::string::npos) << v.name();
    }
}

// ---- field case B4 ------------------------------------------------------------------------------

/// A vocabulary of byte pairs in which a token is of this kind.
std::unique_ptr<Tokenizer> with_token(const std::string& text, int32_t type) {
    GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    const testing::TemporaryFile before(f.bytes(), ".gguf");
    const GgufFile file = GgufFile::open(before.path());
    std::vector<std::string> tokens;
    const auto known = file.texts("tokenizer.ggml.tokens");
    if (!known) return nullptr;
    for (const std::string_view t : *known) tokens.emplace_back(t);
    tokens.at(258) = text;
    std::vector<int32_t> types(tokens.size(), LLAMA_TOKEN_TYPE_NORMAL);
    std::fill(types.end() - 3, types.end(), LLAMA_TOKEN_TYPE_CONTROL);
    types.at(258) = type;
    f.set_texts("tokenizer.ggml.tokens", tokens);
    f.set_array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, types);
    f.set_texts("tokenizer.ggml.merges", {"h e", "l l"});
    const testing::TemporaryFile after(f.bytes(), ".gguf");
    return Tokenizer::load(after.path(), GgufFile::open(after.path()));
}

TEST(Seams, B4_TextsNeverComeToSpecialTokens) {
    for (const int32_t type : {LLAMA_TOKEN_TYPE_CONTROL, LLAMA_TOKEN_TYPE_USER_DEFINED}) {
        const auto t = with_token("<tool>", type);
        for (const std::string text : {"<tool>", "a<tool>b <tool><tool>", "<<tool>>"}) {
            const std::vector<TokenId> tokens = t->encode(text);
            EXPECT_EQ(std::ranges::count(tokens, 258), 0) << text;
            EXPECT_EQ(t->decode(tokens), text);
            const std::vector<ChatMessage> chat = {{"user", {{text}}}};
            EXPECT_EQ(std::ranges::count(joined(t->encode_chat(chat)), 258), 0) << text;
            EXPECT_EQ(std::ranges::count(joined(t->encode_raw(chat.front().parts)), 258), 0);
        }
        EXPECT_EQ(t->encode_template("<tool>"), std::vector<TokenId>{258});
    }
}

TEST(Seams, B4_WhiteSpaceThatIsATokenByItselfStaysOne) {
    const auto t = with_token("\n\n", LLAMA_TOKEN_TYPE_USER_DEFINED);
    const std::vector<TokenId> tokens = t->encode("a\n\nb");
    EXPECT_EQ(std::ranges::count(tokens, 258), 1);
    EXPECT_EQ(t->decode(tokens), "a\n\nb");
}

// Pieces are merged to a control token's letters, if they can be.
TEST(Seams, B4_PiecesAreNeverMergedToControlTokens) {
    const auto folder = testing::field_inputs();
    if (!folder) GTEST_SKIP() << "no inputs of field cases; set PALIMPSEST_FIELD to their folder";
    for (const char* name : {"spm_ctrl", "bpe_userdef"}) {
        const Vocabulary v(name, testing::read_text(*folder / (std::string(name) + ".gguf")));
        for (const std::string text :
             {"a <s> b</s>", "<|im_start|>system", "<s>", "</s></s> <unk>", "x<|im_end|>y"}) {
            const std::vector<TokenId> tokens = v.ours().encode(text);
            std::string shown = v.ours().decode(tokens);
            if (!shown.starts_with(text.front())) shown.erase(0, 1);
            EXPECT_EQ(shown, text) << name;
        }
    }
}

// Field case D5: a template with no room for a system text.
TEST(Seams, D5_NoRoomForASystemTextIsSaid) {
    for (const Vocabulary& v : vocabularies()) {
        const auto chat_template = ChatTemplate::named("yandex");
        const std::vector<ChatMessage> chat = {{"system", {{"x"}}}, {"user", {{"hi"}}}};
        try {
            (void)v.ours().encode_chat(chat, *chat_template);
            ADD_FAILURE() << "it was taken";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kUnsupported) << e.what();
            EXPECT_NE(std::string(e.what()).find("system"), std::string::npos) << e.what();
        }
    }
}

}  // namespace
}  // namespace palimpsest
