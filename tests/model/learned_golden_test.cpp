// Learned eviction with latent memory against golden vectors: scores, what stays, the state after
// every cut, and what the model says.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/fingerprint.h"
#include "engine/session.h"
#include "memory/cache/memories.h"
#include "memory/policy/index_kernel.h"
#include "model/load.h"
#include "support/golden.h"
#include "support/simd_targets.h"

namespace palimpsest {
namespace {

using nlohmann::json;

constexpr double kImportance = 1e-4, kState = 1e-4, kLogits = 2e-4;

/// A cut, and what the latent memory held after it: [layer][KV head] joined.
struct Seen {
    Cut cut;
    std::vector<float> m, b;
};

void add_state(const Residue& residue, int64_t layer, int64_t head, Seen& seen) {
    for (const NamedState& part : residue.state(layer, head)) {
        auto& to = part.name == "M" ? seen.m : seen.b;
        to.insert(to.end(), part.values.begin(), part.values.end());
    }
}

EvictionOptions options_of(const json& scenario) {
    EvictionOptions o = {.policy = "indexer", .residue = "latent"};
    const int64_t window = scenario["w_loc"];
    o.one_shot = !scenario.contains("chunk");
    if (scenario.contains("ratio")) {
        o.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = scenario["ratio"]};
    } else {
        o.budget = {.kind = Budget::Kind::kEntries, .count = scenario["B_max"], .share = 0};
    }
    const bool writes = scenario.contains("tau");
    if (writes) o.interval = scenario["tau"];
    if (writes && o.one_shot) {
        o.n_writing = scenario["B_max"];
        o.n_recent_writing = window;
    } else {
        o.n_recent = window;
    }
    if (scenario["name"] == "oneshot_clip") o.settings["clip"] = "1";
    return o;
}

/// Notes every cut, and what the residue holds after it.
std::function<void(const Cut&)> noting(std::vector<Seen>& seen) {
    return [&seen](const Cut& cut) {
        Seen now = {.cut = cut, .m = {}, .b = {}};
        for (size_t l = 0; l < cut.kept.size(); ++l) {
            for (size_t h = 0; h < cut.kept[l].size(); ++h) {
                add_state(*cut.residue, static_cast<int64_t>(l), static_cast<int64_t>(h), now);
            }
        }
        seen.push_back(std::move(now));
    };
}

/// The sidecar with all features multiplied by `factor`.
std::string scaled_features(const std::filesystem::path& path, float factor) {
    std::string bytes = testing::read_text(path);
    const GgufFile file(std::as_bytes(std::span(bytes)));
    for (const GgufTensor& t : file.tensors()) {
        if (t.name.find("memory_phi") == std::string_view::npos) continue;
        char* at = bytes.data() + (reinterpret_cast<const char*>(t.data.data()) - bytes.data());
        std::vector<float> values(t.data.size() / sizeof(float));
        std::memcpy(values.data(), at, t.data.size());
        for (float& x : values) x *= factor;
        std::memcpy(at, values.data(), t.data.size());
    }
    return bytes;
}

struct LearnedCase {
    const char* model;
    const char* sidecar;
    AttentionPath path;
    int threads;
};

class LearnedGolden : public ::testing::TestWithParam<LearnedCase> {
 protected:
    void SetUp() override {
        const auto found = testing::oracles();
        if (!found) GTEST_SKIP() << "no golden vectors; set PALIMPSEST_ORACLES to their folder";
        folder = *found / "learned" / GetParam().model;
        golden = testing::read_json(folder / "golden.json");
        backend = std::make_unique<Backend>(GetParam().threads);
        loaded = std::make_unique<LoadedModel>(
            (*found / "families" / GetParam().model / "model.gguf").string(), *backend);
    }

    [[nodiscard]] Session session(const json& scenario, const EvictionOptions& eviction,
                                  std::function<void(const Cut&)> on_cut = {}) const {
        std::string path = (folder / GetParam().sidecar).string();
        std::optional<testing::TemporaryFile> scaled;
        if (scenario.contains("memory_phi_scale")) {
            scaled.emplace(scaled_features(path, scenario["memory_phi_scale"]));
            path = scaled->path();
        }
        const int64_t chunk = scenario.value("chunk", 512);
        const KvCacheOptions options = {
            .n_ctx = 512,
            .entries = GGML_TYPE_F32,
            .path = GetParam().path,
            .eviction = eviction,
            .supplies = {.n_chunk = chunk, .learned = load_sidecar(path, *loaded, *backend)},
            .on_cut = std::move(on_cut)};
        return {loaded->model(),
                *backend,
                make_memory("kv", *backend, loaded->config().memory_shape(), options),
                {.n_chunk = chunk}};
    }

    [[nodiscard]] std::vector<float> values(const json& array) const {
        return testing::read_f32(folder / array["file"]);
    }

    /// Feeds tokens; returns the rows of logits at `wanted`, counted from the first.
    static std::vector<float> feed(Session& s, const std::vector<TokenId>& tokens, bool may_forget,
                                   const std::vector<int64_t>& wanted) {
        std::vector<float> logits;
        const int64_t first = s.position();
        FeedHooks hooks;
        hooks.may_forget = may_forget;
        hooks.on_logits = [&](int64_t position, std::span<const float> row) {
            if (std::ranges::find(wanted, position - first) == wanted.end()) return;
            logits.insert(logits.end(), row.begin(), row.end());
        };
        s.feed(tokens, hooks);
        return logits;
    }

    static std::vector<float> decode(Session& s, const std::vector<TokenId>& tokens,
                                     const std::vector<int64_t>& wanted) {
        std::vector<float> logits;
        for (size_t i = 0; i < tokens.size(); ++i) {
            s.accept(tokens[i]);
            if (std::ranges::find(wanted, static_cast<int64_t>(i)) == wanted.end()) continue;
            logits.insert(logits.end(), s.logits().begin(), s.logits().end());
        }
        return logits;
    }

    void expect_logits(const json& scenario, const char* name,
                       std::span<const float> logits) const {
        if (!scenario["arrays"].contains(name)) return;
        EXPECT_LE(testing::max_difference(logits, values(scenario["arrays"][name])), kLogits)
            << name;
    }

    void expect_cut(const json& event, const Seen& seen) const {
        const std::vector<float> importance = values(event["importance"]);
        const auto n = event["n_rows"].get<size_t>();
        for (size_t l = 0; l < seen.cut.kept.size(); ++l) {
            const auto expected = std::span(importance).subspan(l * n, n);
            for (size_t h = 0; h < seen.cut.kept[l].size(); ++h) {
                EXPECT_EQ(seen.cut.kept[l][h], event["kept"][l].get<std::vector<int32_t>>())
                    << "layer " << l << ", head " << h;
                EXPECT_LE(testing::max_difference(seen.cut.scores[l][h], expected), kImportance)
                    << "layer " << l << ", head " << h;
            }
        }
    }

    /// Part `event` of an array of states, within kState of the largest entry.
    static void expect_state(std::span<const float> all, size_t event, std::span<const float> got) {
        const auto expected = all.subspan(event * got.size(), got.size());
        float largest = 0;
        for (const float x : expected) largest = std::max(largest, std::abs(x));
        EXPECT_LE(testing::max_difference(got, expected), kState * static_cast<double>(largest));
    }

    std::filesystem::path folder;
    json golden;
    std::unique_ptr<Backend> backend;
    std::unique_ptr<LoadedModel> loaded;
};

TEST_P(LearnedGolden, KeepsForgetsRemembersAndSaysTheSame) {
    const auto prompt = golden["prompt"].get<std::vector<TokenId>>();
    const auto question = golden["question"].get<std::vector<TokenId>>();
    const auto written = golden["decode_tokens"].get<std::vector<TokenId>>();
    const auto rows = [&](const char* name) { return golden[name].get<std::vector<int64_t>>(); };
    std::vector<int64_t> all_rows(question.size());
    for (size_t i = 0; i < all_rows.size(); ++i) all_rows[i] = static_cast<int64_t>(i);
    for (const json& scenario : golden["scenarios"]) {
        SCOPED_TRACE(scenario["name"].get<std::string>());
        std::vector<Seen> seen;
        Session s = session(scenario, options_of(scenario), noting(seen));
        expect_logits(scenario, "prompt_logits", feed(s, prompt, true, rows("prompt_logit_rows")));
        if (scenario["arrays"].contains("decode_logits")) {
            expect_logits(scenario, "decode_logits", decode(s, written, rows("decode_logit_rows")));
        } else {
            expect_logits(scenario, "question_logits", feed(s, question, false, all_rows));
        }
        ASSERT_EQ(seen.size(), scenario["events"].size());
        const std::vector<float> m = values(scenario["M"]);
        const std::vector<float> b = values(scenario["b"]);
        for (size_t i = 0; i < seen.size(); ++i) {
            SCOPED_TRACE("cut " + std::to_string(i));
            expect_cut(scenario["events"][i], seen[i]);
            expect_state(m, i, seen[i].m);
            expect_state(b, i, seen[i].b);
        }
    }
}

TEST_P(LearnedGolden, WithoutItsMemoryItIsEvictionAlone) {
    const auto prompt = golden["prompt"].get<std::vector<TokenId>>();
    const auto question = golden["question"].get<std::vector<TokenId>>();
    std::vector<int64_t> all_rows(question.size());
    for (size_t i = 0; i < all_rows.size(); ++i) all_rows[i] = static_cast<int64_t>(i);
    for (const json& scenario : golden["scenarios"]) {
        if (!scenario["arrays"].contains("question_logits_without_memory")) continue;
        SCOPED_TRACE(scenario["name"].get<std::string>());
        EvictionOptions o = options_of(scenario);
        o.residue = "none";
        Session s = session(scenario, o);
        feed(s, prompt, true, {});
        expect_logits(scenario, "question_logits_without_memory",
                      feed(s, question, false, all_rows));
    }
}

// The design paper's appendix C, checks 2 and 4.
TEST_P(LearnedGolden, WithRoomForAllItIsThePlainCache) {
    const auto prompt = golden["prompt"].get<std::vector<TokenId>>();
    const auto question = golden["question"].get<std::vector<TokenId>>();
    std::vector<Seen> seen;
    EvictionOptions o = options_of(golden["scenarios"][0]);
    o.budget = {.kind = Budget::Kind::kEntries, .count = std::ssize(prompt), .share = 0};
    Session with_room = session(golden["scenarios"][0], o, noting(seen));
    std::vector<int64_t> all_rows(question.size());
    for (size_t i = 0; i < all_rows.size(); ++i) all_rows[i] = static_cast<int64_t>(i);
    feed(with_room, prompt, true, {});
    const std::vector<float> said = feed(with_room, question, false, all_rows);
    EXPECT_LE(testing::max_difference(said, values(golden["full_cache_question_logits"])), kLogits);
    const KvCacheOptions plain = {
        .n_ctx = 512, .entries = GGML_TYPE_F32, .path = GetParam().path, .eviction = {}};
    Session full(loaded->model(), *backend,
                 make_memory("kv", *backend, loaded->config().memory_shape(), plain),
                 {.n_chunk = 512});
    feed(full, prompt, true, {});
    feed(full, question, false, {});
    EXPECT_TRUE(std::ranges::equal(with_room.logits(), full.logits()));
    EXPECT_TRUE(seen.empty());
}

TEST_P(LearnedGolden, ReadInOneChunkItIsCutAsAtOnce) {
    const auto prompt = golden["prompt"].get<std::vector<TokenId>>();
    for (const json& scenario : golden["scenarios"]) {
        if (scenario.contains("chunk") || scenario.contains("tau") ||
            scenario.contains("memory_phi_scale")) {
            continue;
        }
        SCOPED_TRACE(scenario["name"].get<std::string>());
        std::vector<Seen> seen;
        EvictionOptions o = options_of(scenario);
        o.one_shot = false;
        json in_one_chunk = scenario;
        in_one_chunk["chunk"] = 256;
        Session s = session(in_one_chunk, o, noting(seen));
        s.feed(prompt);  // for logits it would take smaller steps
        ASSERT_EQ(seen.size(), 1);
        expect_cut(scenario["events"].back(), seen.back());
        expect_state(values(scenario["M"]), 0, seen.back().m);
        expect_state(values(scenario["b"]), 0, seen.back().b);
    }
}

/// The kernel on golden queries, keys and weights of heads: the golden importance, and the same
/// bits however rows and queries are divided (appendix C, check 3).
TEST(IndexKernelGolden, ImportanceIsTheSameInAnyDivision) {
    const auto found = testing::oracles();
    if (!found) GTEST_SKIP() << "no golden vectors; set PALIMPSEST_ORACLES to their folder";
    for (const char* model : {"llama", "qwen3"}) {
        const std::filesystem::path folder = *found / "learned" / model;
        const json scenario = testing::read_json(folder / "golden.json")["scenarios"][0];
        const auto read = [&](const char* name) {
            return testing::read_f32(folder / scenario["arrays"][name]["file"]);
        };
        const std::vector<float> q = read("indexer_q");
        const std::vector<float> k = read("indexer_k");
        const std::vector<float> alpha = read("indexer_alpha");
        const auto shape = scenario["arrays"]["indexer_q"]["shape"].get<std::vector<int64_t>>();
        const int64_t n = shape[1];
        const int64_t n_head = shape[2];
        const int64_t d = shape[3];
        const std::vector<float> expected =
            testing::read_f32(folder / scenario["events"][0]["importance"]["file"]);
        for (int64_t layer = 0; layer < shape[0]; ++layer) {
            const IndexKeys keys = {
                .rows = reinterpret_cast<const std::byte*>(k.data() + layer * n * d),
                .is_f16 = false,
                .d = d};
            std::vector<IndexQuery> queries;
            for (int64_t t = 0; t < n; ++t) {
                const int64_t at = (layer * n + t) * n_head;
                queries.push_back(
                    {.q = q.data() + at * d, .alpha = alpha.data() + at, .n_visible = t + 1});
            }
            const auto importance = [&](int64_t rows_at_once, int64_t queries_at_once) {
                std::vector<float> out(static_cast<size_t>(n), -HUGE_VALF);
                for (int64_t i = 0; i < n; i += queries_at_once) {
                    const auto some = std::span(queries).subspan(
                        static_cast<size_t>(i),
                        static_cast<size_t>(std::min(queries_at_once, n - i)));
                    for (int64_t row = 0; row < n; row += rows_at_once) {
                        raise_importance(keys, some, {.n_head = n_head}, row,
                                         std::min(n, row + rows_at_once), out.data() + row);
                    }
                }
                return out;
            };
            testing::for_each_target([&] {
                const std::vector<float> whole = importance(n, n);
                const auto golden =
                    std::span(expected).subspan(static_cast<size_t>(layer * n), whole.size());
                EXPECT_LE(testing::max_difference(whole, golden), kImportance) << model;
                EXPECT_EQ(importance(1, n), whole);
                EXPECT_EQ(importance(7, 1), whole);
                EXPECT_EQ(importance(64, 33), whole);
            });
        }
    }
}

INSTANTIATE_TEST_SUITE_P(
    Models, LearnedGolden,
    ::testing::Values(LearnedCase{"llama", "sidecar.gguf", AttentionPath::kFused, 2},
                      LearnedCase{"llama", "sidecar.pairs.gguf", AttentionPath::kFused, 1},
                      LearnedCase{"llama", "sidecar.gguf", AttentionPath::kReference, 3},
                      LearnedCase{"qwen3", "sidecar.gguf", AttentionPath::kFused, 2}),
    [](const auto& test) {
        std::string name = std::string(test.param.model) + "_" + test.param.sidecar +
                           (test.param.path == AttentionPath::kFused ? "_fused" : "_reference");
        std::ranges::replace(name, '.', '_');
        return name;
    });

}  // namespace
}  // namespace palimpsest
