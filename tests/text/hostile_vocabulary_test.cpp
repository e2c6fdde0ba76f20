// Vocabularies that contradict themselves. libllama asserts on some, which would end the process.

#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/use_model.h"
#include "text/tokenizer.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::raw;

void load_and_use(const GgufBuilder& f) {
    const testing::TemporaryFile file(f.bytes(), ".gguf");
    const auto t = Tokenizer::load(file.path(), GgufFile::open(file.path()));
    if (t != nullptr) testing::use_tokenizer(*t);
}

GgufBuilder byte_pairs() {
    GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    return f;
}

GgufBuilder sentence_pieces() {
    GgufBuilder f = testing::tiny_llama(testing::kTinySpmTokens);
    testing::add_spm_vocabulary(f);
    return f;
}

struct Lie {
    const char* name;
    std::function<void(GgufBuilder&)> tell;
};

/// Refused with a sentence; no lie of these lists may pass.
void expect_refusal(GgufBuilder f, const Lie& lie) {
    lie.tell(f);
    try {
        load_and_use(f);
        FAIL() << "it was used";
    } catch (const Error& e) {
        EXPECT_TRUE(e.code() == ErrorCode::kCorrupt || e.code() == ErrorCode::kUnsupported)
            << e.what();
    }
}

std::vector<int32_t> zeros(uint64_t n) { return std::vector<int32_t>(n, 0); }

const std::string kKey = "tokenizer.ggml.";

const Lie kRefused[] = {
    {"no_tokens", [](GgufBuilder& f) { f.remove(kKey + "tokens"); }},
    {"zero_tokens", [](GgufBuilder& f) { f.set_texts(kKey + "tokens", {}); }},
    {"tokens_of_numbers",
     [](GgufBuilder& f) { f.set_array(kKey + "tokens", GGUF_TYPE_INT32, zeros(270)); }},
    {"tokens_a_text", [](GgufBuilder& f) { f.set_text(kKey + "tokens", "a"); }},
    {"duplicate_tokens",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {"a", "b", "a"});
     }},
    {"duplicate_of_an_empty_token",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {"", "[EMPTY_0]", "a"});
     }},
    {"duplicate_up_to_a_zero_byte",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {"a", std::string("a\0b", 3), "c"});
     }},
    {"empty_up_to_a_zero_byte",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {std::string("\0b", 2), "[EMPTY_0]", "c"});
     }},
    {"model_a_number", [](GgufBuilder& f) { f.set(kKey + "model", uint32_t{1}); }},
    {"model_unknown", [](GgufBuilder& f) { f.set_text(kKey + "model", "dice"); }},
    {"model_empty", [](GgufBuilder& f) { f.set_text(kKey + "model", ""); }},
    {"model_rwkv", [](GgufBuilder& f) { f.set_text(kKey + "model", "rwkv"); }},
    {"model_test", [](GgufBuilder& f) { f.set_text(kKey + "model", "test"); }},
    {"model_bert", [](GgufBuilder& f) { f.set_text(kKey + "model", "bert"); }},
    {"model_plamo2", [](GgufBuilder& f) { f.set_text(kKey + "model", "plamo2"); }},
    {"model_t5_with_a_bad_map",
     [](GgufBuilder& f) {
         f.set_text(kKey + "model", "t5");
         f.set_array(kKey + "precompiled_charsmap", GGUF_TYPE_UINT8, 8, std::string(8, '\xFF'));
     }},
    {"types_too_few",
     [](GgufBuilder& f) { f.set_array(kKey + "token_type", GGUF_TYPE_INT32, zeros(3)); }},
    {"types_of_another_width",
     [](GgufBuilder& f) {
         f.set_array(kKey + "token_type", GGUF_TYPE_UINT8, 300, std::string(300, '\1'));
     }},
    {"types_a_number", [](GgufBuilder& f) { f.set(kKey + "token_type", uint32_t{1}); }},
    {"types_texts",
     [](GgufBuilder& f) { f.set_texts(kKey + "token_type", std::vector<std::string>(300, "1")); }},
    {"scores_too_few",
     [](GgufBuilder& f) { f.set_array(kKey + "scores", GGUF_TYPE_INT32, zeros(3)); }},
    {"scores_of_another_width",
     [](GgufBuilder& f) {
         f.set_array(kKey + "scores", GGUF_TYPE_FLOAT64, 300, std::string(2400, '\0'));
     }},
    {"scores_texts",
     [](GgufBuilder& f) { f.set_texts(kKey + "scores", std::vector<std::string>(300, "1")); }},
    {"bos_a_text", [](GgufBuilder& f) { f.set_text(kKey + "bos_token_id", "1"); }},
    {"bos_negative", [](GgufBuilder& f) { f.set(kKey + "bos_token_id", int32_t{-1}); }},
    {"bos_an_array",
     [](GgufBuilder& f) { f.set_array(kKey + "bos_token_id", GGUF_TYPE_UINT32, zeros(1)); }},
    {"add_bos_a_number", [](GgufBuilder& f) { f.set(kKey + "add_bos_token", uint32_t{1}); }},
    {"template_a_number", [](GgufBuilder& f) { f.set("tokenizer.chat_template", uint32_t{1}); }},
    {"template_unknown",
     [](GgufBuilder& f) { f.set_text("tokenizer.chat_template", "{{ nonsense }}"); }},
};

const Lie kRefusedBytePairs[] = {
    {"no_merges", [](GgufBuilder& f) { f.remove(kKey + "merges"); }},
    {"merges_of_numbers",
     [](GgufBuilder& f) { f.set_array(kKey + "merges", GGUF_TYPE_INT32, zeros(4)); }},
    {"merges_a_text", [](GgufBuilder& f) { f.set_text(kKey + "merges", "h e"); }},
    {"unknown_pre_tokenizer", [](GgufBuilder& f) { f.set_text(kKey + "pre", "scissors"); }},
    {"pre_tokenizer_a_number", [](GgufBuilder& f) { f.set(kKey + "pre", uint32_t{1}); }},
};

/// Odd, but libllama copes: nothing may crash, and loading may or may not succeed.
const Lie kOdd[] = {
    {"special_ids_out_of_range",
     [](GgufBuilder& f) {
         for (const char* k : {"bos", "eos", "unknown", "padding", "eot", "eom", "seperator"}) {
             f.set(kKey + k + "_token_id", uint32_t{0xFFFFFFFF});
         }
     }},
    {"special_ids_just_out_of_range",
     [](GgufBuilder& f) {
         f.set(kKey + "bos_token_id", uint32_t{265}).set(kKey + "eos_token_id", uint32_t{265});
         f.set_bool(kKey + "add_bos_token", true);
     }},
    {"merges_without_a_space",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "merges", {"he", "", " ", "h  e", "\xFF \xFE"});
     }},
    {"no_merges_at_all", [](GgufBuilder& f) { f.set_texts(kKey + "merges", {}); }},
    {"token_types_out_of_range",
     [](GgufBuilder& f) {
         f.set_array(kKey + "token_type", GGUF_TYPE_INT32, std::vector<int32_t>(300, -7));
     }},
    {"all_tokens_control",
     [](GgufBuilder& f) {
         f.set_array(kKey + "token_type", GGUF_TYPE_INT32, std::vector<int32_t>(300, 3));
     }},
    {"all_tokens_bytes",
     [](GgufBuilder& f) {
         f.set_array(kKey + "token_type", GGUF_TYPE_INT32, std::vector<int32_t>(300, 6));
     }},
    {"all_tokens_user_defined",
     [](GgufBuilder& f) {
         f.set_array(kKey + "token_type", GGUF_TYPE_INT32, std::vector<int32_t>(300, 4));
     }},
    {"tokens_that_are_no_utf8",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {"\xFF", "\xC3", "\xED\xA0\x80", "a"});
     }},
    {"one_token", [](GgufBuilder& f) { f.set_texts(kKey + "tokens", {"a"}); }},
    {"tokens_with_zero_bytes",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {std::string("\0", 1), std::string("a\0b", 3), "", "<0x"});
     }},
    {"a_very_long_token",
     [](GgufBuilder& f) {
         f.set_texts(kKey + "tokens", {std::string(1 << 20, 'a'), "b"});
     }},
    {"scores_not_numbers",
     [](GgufBuilder& f) {
         f.set_array(kKey + "scores", GGUF_TYPE_FLOAT32, 300, std::string(1200, '\xFF'));
     }},
    {"template_with_a_zero_byte",
     [](GgufBuilder& f) {
         f.set_text("tokenizer.chat_template", std::string("<|im_start|>\0x", 14));
     }},
    {"claims_to_be_split_in_many",
     [](GgufBuilder& f) { f.set("split.count", GGUF_TYPE_UINT16, raw(uint16_t{9})); }},
    {"says_other_than_it_is",
     [](GgufBuilder& f) {
         f.set_text(kKey + "model",
                    f.header().find("merges") == std::string::npos ? "gpt2" : "llama");
     }},
};

class HostileVocabulary : public ::testing::TestWithParam<Lie> {};
TEST_P(HostileVocabulary, OfBytePairsIsRefused) { expect_refusal(byte_pairs(), GetParam()); }
TEST_P(HostileVocabulary, OfSentencePiecesIsRefused) {
    expect_refusal(sentence_pieces(), GetParam());
}

class HostileMerges : public ::testing::TestWithParam<Lie> {};
TEST_P(HostileMerges, AreRefused) { expect_refusal(byte_pairs(), GetParam()); }

class OddVocabulary : public ::testing::TestWithParam<Lie> {};
TEST_P(OddVocabulary, DoesNotCrash) {
    for (GgufBuilder f : {byte_pairs(), sentence_pieces()}) {
        GetParam().tell(f);
        try {
            load_and_use(f);
        } catch (const Error& e) {
            EXPECT_NE(e.code(), ErrorCode::kInternal) << e.what();
        }
    }
}

const auto kLieName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Any, HostileVocabulary, ::testing::ValuesIn(kRefused), kLieName);
INSTANTIATE_TEST_SUITE_P(Merges, HostileMerges, ::testing::ValuesIn(kRefusedBytePairs), kLieName);
INSTANTIATE_TEST_SUITE_P(Any, OddVocabulary, ::testing::ValuesIn(kOdd), kLieName);

}  // namespace
}  // namespace palimpsest
