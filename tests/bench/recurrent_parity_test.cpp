// Families with recurrent layers against libllama on made files: every position's logits, and what
// is written greedily.

#include <gtest/gtest.h>

#include "bench/peer.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

struct Case {
    const char* name;
    testing::TinyModelOptions options;
};

class RecurrentParity : public ::testing::TestWithParam<Case> {};

TEST_P(RecurrentParity, LogitsAndGreedyTexts) {
    testing::TinyModelOptions o = GetParam().options;
    // libllama's own products: what is compared is everything else.
    o.reading = Reading::kQuantised;
    const testing::TemporaryFile file = testing::tiny_model_file(o);
    testing::TinyModel model(o);
    Peer peer(file.path(), {.n_ctx = o.n_ctx, .flash_attention = false, .f32_entries = true});
    const std::vector<TokenId> tokens = testing::tiny_tokens(100);
    Session session = model.session(32);
    EXPECT_LT(testing::max_difference(testing::all_logits(session, tokens),
                                      peer.feed_for_all_logits(tokens)),
              1e-4);
    for (int i = 0; i < 64; ++i) {
        const auto ours = session.logits();
        const auto theirs = peer.logits();
        const auto best = std::ranges::max_element(ours) - ours.begin();
        ASSERT_EQ(best, std::ranges::max_element(theirs) - theirs.begin()) << "token " << i;
        const auto token = static_cast<TokenId>(best);
        session.accept(token);
        peer.feed(std::span(&token, 1));
    }
}

INSTANTIATE_TEST_SUITE_P(
    Models, RecurrentParity,
    ::testing::Values(
        Case{"mamba2", {.architecture = "mamba2"}},
        Case{"mamba2_one_group",
             {.architecture = "mamba2", .n_layer = 3, .n_state = 6, .n_state_key = 1}},
        Case{"mamba2_unequal",
             {.architecture = "mamba2", .d_state_key = 32, .d_state = 8, .seed = 3}},
        Case{"qwen35", {.architecture = "qwen35"}},
        Case{"qwen35_deep", {.architecture = "qwen35", .n_layer = 6, .window_period = 3}},
        Case{"qwen35_one_key",
             {.architecture = "qwen35",
              .n_state = 3,
              .n_state_key = 1,
              .d_state_key = 32,
              .d_state = 32,
              .seed = 5}},
        Case{"qwen35moe", {.architecture = "qwen35moe"}},
        Case{"qwen3next", {.architecture = "qwen3next"}},
        Case{"qwen3next_first_converter",
             {.architecture = "qwen3next", .n_layer = 3, .n_state = 6, .is_legacy = true}},
        Case{"granitehybrid", {.architecture = "granitehybrid"}},
        Case{"granitehybrid_experts",
             {.architecture = "granitehybrid", .n_layer = 4, .n_expert = 6, .n_expert_used = 3}},
        Case{"granitehybrid_q8_0",
             {.architecture = "granitehybrid", .n_expert = 4, .weights = GGML_TYPE_Q8_0}},
        Case{"granite", {.architecture = "granite"}},
        Case{"granitemoe", {.architecture = "granitemoe"}},
        Case{"qwen3moe", {.architecture = "qwen3moe"}},
        Case{"qwen3moe_one", {.architecture = "qwen3moe", .n_expert = 3, .n_expert_used = 1}},
        // Another seed than most: with 1 an activation lies on the edge between two of its 255
        // steps at position 69, and a last bit decides.
        Case{"qwen3moe_q8_0", {.architecture = "qwen3moe", .seed = 2, .weights = GGML_TYPE_Q8_0}},
        Case{"qwen35_q8_0", {.architecture = "qwen35", .weights = GGML_TYPE_Q8_0}}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace palimpsest
