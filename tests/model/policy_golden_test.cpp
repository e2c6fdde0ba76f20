// Every policy against golden vectors: which entries stay, and what the model says afterwards.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/load.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

/// How a golden case's policy is named and set here.
struct Named {
    const char* policy;
    const char* allocator = "";
    OptionMap settings = {};
};

const std::map<std::string, Named>& names() {
    static const std::map<std::string, Named> kNames = {
        {"streaming_llm", {"window"}},
        {"knorm", {"key-norm"}},
        {"keydiff", {"key-diff"}},
        {"lagkv", {"lag-kv"}},
        {"lagkv_lag32", {"lag-kv", "", {{"lag", "32"}}}},
        {"snapkv", {"snap-kv"}},
        {"snapkv_w32", {"snap-kv", "", {{"window", "32"}}}},
        {"pyramidkv", {"pyramid-kv"}},
        {"pyramidkv_w16", {"pyramid-kv", "", {{"window", "16"}}}},
        {"tova", {"tova"}},
        {"observed_attention", {"h2o"}},
        {"expected_attention", {"expected-attention"}},
        {"chunkkv_snapkv", {"chunk-kv"}},
        {"cur", {"cur"}},
        {"leverage", {"leverage"}},
        {"adakv_snapkv", {"snap-kv", "adaptive"}},
        {"criticalkv_snapkv", {"snap-kv", "critical"}},
        {"adakv_expected_attention", {"expected-attention", "adaptive", {{"epsilon", "0.01"}}}},
        {"adakv_expected_attention_eps0", {"expected-attention", "adaptive"}},
    };
    return kNames;
}

/// Entries that two choices do not share, and how far their scores lie from the cut at most.
void expect_same_kept(const std::vector<int32_t>& kept, const nlohmann::json& golden, size_t layer,
                      size_t head, std::span<const float> scores, int64_t n_context) {
    const auto expected = golden["kept"][layer][head].get<std::vector<int32_t>>();
    if (kept == expected) return;
    ASSERT_FALSE(golden["cut_is_clear"].get<bool>() || golden["ties_are_exact"].get<bool>())
        << "layer " << layer << ", head " << head;
    const auto score = [&](int32_t p) { return scores[static_cast<size_t>(p)]; };
    const auto tolerance = std::max(1e-5F, golden["tie_tolerance"].get<float>());
    std::vector<int32_t> apart;
    std::ranges::set_symmetric_difference(kept, expected, std::back_inserter(apart));
    float cut = score(expected.front());
    for (const int32_t p : expected) cut = std::min(cut, score(p));
    for (const int32_t p : apart) EXPECT_NEAR(score(p), cut, tolerance) << p << " of " << n_context;
}

struct GoldenCase {
    const char* model;
    AttentionPath path;
    int64_t chunk;
};

class PolicyGolden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(PolicyGolden, KeepsTheSameEntriesAndSaysTheSame) {
    REQUIRE_ORACLES();
    const auto folder = *oracle_folder / "policies" / GetParam().model;
    const nlohmann::json golden = testing::read_json(folder / "golden.json");
    Backend backend(2);
    const LoadedModel loaded(
        (*oracle_folder / "families" / GetParam().model / "model.gguf").string(), backend);
    const auto context = golden["context"].get<std::vector<TokenId>>();
    const auto question = golden["question"].get<std::vector<TokenId>>();
    for (const nlohmann::json& c : golden["cases"]) {
        SCOPED_TRACE(c["policy"].get<std::string>() + " at " + c["ratio"].dump());
        const Named& named = names().at(c["policy"]);
        std::vector<Cut> cuts;
        EvictionOptions eviction = {.policy = named.policy, .allocator = named.allocator};
        eviction.settings = named.settings;
        if (c.contains("sketch")) {
            eviction.settings["sketch"] = (folder / c["sketch"]["file"]).string();
        }
        eviction.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = c["ratio"]};
        eviction.one_shot = true;
        const KvCacheOptions options = {
            .n_ctx = 512,
            .entries = GGML_TYPE_F32,
            .path = GetParam().path,
            .eviction = eviction,
            .supplies = {.n_chunk = GetParam().chunk,
                         .output_weights =
                             [&](int64_t layer) { return loaded.output_projection(layer); }},
            .on_cut = [&](const Cut& cut) { cuts.push_back(cut); }};
        Session session(loaded.model(), backend,
                        make_memory("kv", backend, loaded.config().memory_shape(), options),
                        {.n_chunk = GetParam().chunk});
        session.feed(context);
        ASSERT_EQ(cuts.size(), 1);
        const std::vector<float> scores = testing::read_f32(folder / c["scores"]["file"]);
        const auto n_context = std::ssize(context);
        for (size_t l = 0; l < cuts[0].kept.size(); ++l) {
            for (size_t h = 0; h < cuts[0].kept[l].size(); ++h) {
                const size_t row = (l * cuts[0].kept[l].size() + h) * context.size();
                expect_same_kept(cuts[0].kept[l][h], c, l, h,
                                 std::span(scores).subspan(row, context.size()), n_context);
            }
        }
        const auto wanted = golden["question_logit_rows"].get<std::vector<int64_t>>();
        std::vector<float> logits;
        FeedHooks hooks;
        hooks.may_forget = false;
        hooks.on_logits = [&](int64_t position, std::span<const float> row) {
            if (std::ranges::find(wanted, position - n_context) == wanted.end()) return;
            logits.insert(logits.end(), row.begin(), row.end());
        };
        session.feed(question, hooks);
        // The vectors' own tolerance is 2e-3; f32 arithmetic lands near 5e-5, and so must we.
        EXPECT_LE(testing::max_difference(logits,
                                          testing::read_f32(folder / c["question_logits"]["file"])),
                  2e-4);
    }
}

INSTANTIATE_TEST_SUITE_P(Models, PolicyGolden,
                         ::testing::Values(GoldenCase{"llama", AttentionPath::kFused, 512},
                                           GoldenCase{"qwen3", AttentionPath::kFused, 512},
                                           GoldenCase{"llama", AttentionPath::kReference, 512},
                                           GoldenCase{"llama", AttentionPath::kFused, 37},
                                           GoldenCase{"qwen3", AttentionPath::kFused, 7}),
                         [](const auto& test) {
                             return std::string(test.param.model) +
                                    (test.param.path == AttentionPath::kFused ? "_fused_"
                                                                              : "_reference_") +
                                    std::to_string(test.param.chunk);
                         });

}  // namespace
}  // namespace palimpsest
