// Latent context against golden vectors of the published reference: from region tokens to the
// decoder's logits, whole and streamed.

#include <gtest/gtest.h>

#include "compress/latent_encoder.h"
#include "compress/latent_regions.h"
#include "compress/latent_stream.h"
#include "engine/generate.h"
#include "engine/session.h"
#include "memory/cache/memories.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

constexpr double kStates = 1e-4, kLogits = 2e-3;  // the vectors' own

/// One variant's files, loaded.
struct Variant {
    std::filesystem::path folder, golden;
    nlohmann::json json;
    Backend backend{2};
    LoadedModel encoder, decoder;
    LatentAdapter adapter;
    LatentEncoder latent;

    Variant(const std::filesystem::path& oracles, const std::string& name)
        : folder(oracles / "lclm"),
          golden(folder / "golden" / name),
          json(testing::read_json(golden / "golden.json")),
          encoder((folder / "gguf" / "encoder.gguf").string(), backend),
          decoder((folder / "gguf" / "decoder.gguf").string(), backend),
          adapter((folder / "gguf" / ("adapter." + name + ".gguf")).string(), backend),
          latent(encoder, adapter, backend) {}

    [[nodiscard]] std::vector<float> values(const nlohmann::json& field) const {
        return testing::read_f32(golden / field["file"].get<std::string>());
    }
};

std::vector<std::vector<TokenId>> regions_of(const nlohmann::json& golden_case) {
    std::vector<std::vector<TokenId>> regions;
    for (const auto& part : golden_case["prompt"]) {
        if (part.contains("region")) regions.push_back(part["region"].get<std::vector<TokenId>>());
    }
    return regions;
}

void append(std::vector<float>& to, std::span<const float> more) {
    to.insert(to.end(), more.begin(), more.end());
}

class LatentGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(LatentGolden, StatesPooledAndLatents) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, GetParam());
    size_t n_cases = 0;
    for (const auto& c : v.json["cases"]) {
        if (!c.contains("latents")) continue;
        SCOPED_TRACE(c["name"].get<std::string>());
        std::vector<float> states;
        std::vector<float> pooled;
        std::vector<float> latents;
        std::vector<EncoderWindow> windows;
        for (const auto& region : regions_of(c)) {
            const auto of = windows_of(v.latent.form(), std::ssize(region));
            windows.insert(windows.end(), of.begin(), of.end());
            const auto some = v.latent.pool(
                region, of, [&](const EncoderWindow&, auto rows) { append(states, rows); });
            append(pooled, some);
            append(latents, v.latent.adapt(some));
        }
        ASSERT_EQ(windows.size(), c["windows"].size());
        for (size_t i = 0; i < windows.size(); ++i) {
            EXPECT_EQ(windows[i].first, c["windows"][i]["first_token"].get<int64_t>());
            EXPECT_EQ(windows[i].n_tokens, c["windows"][i]["tokens"].get<int64_t>());
            EXPECT_EQ(windows[i].pool_begin, c["windows"][i]["pool_start"].get<int64_t>());
            EXPECT_EQ(windows[i].n_pooled, c["windows"][i]["pool_length"].get<int64_t>());
        }
        EXPECT_LE(testing::max_difference(states, v.values(c["encoder_states"])), kStates);
        EXPECT_LE(testing::max_difference(pooled, v.values(c["pooled"])), kStates);
        EXPECT_LE(testing::max_difference(latents, v.values(c["latents"])), kStates);
        ++n_cases;
    }
    EXPECT_GE(n_cases, 4U);
}

/// The decoder after a case's prompt, and what it computed on the way.
struct CaseRun {
    std::vector<float> logits;
    std::unique_ptr<Session> session;
};

CaseRun read_case(Variant& v, const nlohmann::json& c, int64_t n_chunk) {
    LatentWork work;
    const LatentRegions regions(nullptr, {.encoder = v.latent, .work = work});
    std::vector<Segment> prompt;
    for (const auto& part : c["prompt"]) {
        if (part.contains("text")) {
            prompt.push_back({.tokens = part["text"].get<std::vector<TokenId>>()});
            continue;
        }
        for (Segment& s : regions.region_of(part["region"].get<std::vector<TokenId>>())) {
            prompt.push_back(std::move(s));
        }
    }
    CaseRun run;
    run.session =
        std::make_unique<Session>(v.decoder.model(), v.backend,
                                  make_memory("kv", v.backend, v.decoder.config().memory_shape(),
                                              {.n_ctx = 256, .entries = GGML_TYPE_F32}),
                                  SessionOptions{.n_chunk = n_chunk});
    run.session->feed(std::move(prompt), {.on_logits = [&](int64_t, std::span<const float> row) {
                          append(run.logits, row);
                      }});
    return run;
}

std::vector<TokenId> write(Session& session, int64_t n, std::vector<TokenId> never) {
    AnswerWriter writer(nullptr, std::ssize(session.logits()),
                        {.sampling = {.never = std::move(never)}, .max_tokens = n});
    while (writer.next(session.sequence())) session.step();
    return writer.result().tokens;
}

TEST_P(LatentGolden, LogitsAndGreedyRows) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, GetParam());
    for (const auto& c : v.json["cases"]) {
        SCOPED_TRACE(c["name"].get<std::string>());
        for (const int64_t chunk : {512, 5}) {
            CaseRun plain = read_case(v, c, chunk);
            EXPECT_LE(testing::max_difference(plain.logits, v.values(c["logits"])), kLogits);
            if (!c.contains("greedy")) continue;
            EXPECT_EQ(write(*plain.session, 16, {}), c["greedy"].get<std::vector<TokenId>>());
            const CompressionForm& f = v.latent.form();
            CaseRun masked = read_case(v, c, chunk);
            EXPECT_EQ(write(*masked.session, 16, {f.start, f.end, f.slot}),
                      c["greedy_masked"].get<std::vector<TokenId>>());
        }
    }
}

TEST_P(LatentGolden, StreamedIsWhole) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, GetParam());
    for (const auto& c : v.json["cases"]) {
        if (!c.contains("latents")) continue;
        SCOPED_TRACE(c["name"].get<std::string>());
        for (const size_t step : {size_t{1}, size_t{7}, size_t{1000}}) {
            std::vector<float> latents;
            for (const auto& region : regions_of(c)) {
                LatentStream stream(v.latent);
                for (size_t at = 0; at < region.size(); at += step) {
                    const auto rest = std::span(region).subspan(at);
                    append(latents, stream.add(rest.first(std::min(step, rest.size()))));
                    // What would end here may be asked for, and changes nothing.
                    if (at % 5 == 0) (void)stream.rest();
                }
                append(latents, stream.rest());
            }
            EXPECT_LE(testing::max_difference(latents, v.values(c["latents"])), kStates) << step;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Variants, LatentGolden, ::testing::Values("mlp", "attn", "concat"),
                         [](const auto& test) { return std::string(test.param); });

TEST(LatentGolden, LatentsAreFinalAfterTheirGroup) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, "mlp");
    const auto region = regions_of(v.json["cases"][0]).front();
    const auto whole = v.latent.encode(region);
    const auto width = v.latent.form().decoder_width;
    LatentStream stream(v.latent);
    std::vector<float> latents;
    for (size_t i = 0; i < region.size(); ++i) {
        append(latents, stream.add(std::span(region).subspan(i, 1)));
        ASSERT_EQ(std::ssize(latents) / width,
                  (static_cast<int64_t>(i) + 1) / v.latent.form().ratio);
    }
    const auto same = std::span(whole).first(latents.size());
    EXPECT_LE(testing::max_difference(latents, same), kStates);
}

TEST(LatentGolden, BatchesOfWindowsChangeNothing) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, "concat");
    LatentEncoder alone(v.encoder, v.adapter, v.backend, 1);
    const auto region = regions_of(v.json["cases"][0]).front();
    EXPECT_GT(v.latent.how_many_at_once(windows_of(v.latent.form(), std::ssize(region))), 1U);
    EXPECT_EQ(alone.how_many_at_once(windows_of(v.latent.form(), std::ssize(region))), 1U);
    EXPECT_LE(testing::max_difference(alone.encode(region), v.latent.encode(region)), kStates);
}

TEST(LatentGolden, TheEncodersMemoryIsFlat) {
    REQUIRE_ORACLES();
    Variant v(*oracle_folder, "mlp");
    std::vector<TokenId> region(64);
    for (size_t i = 0; i < region.size(); ++i) region[i] = static_cast<TokenId>(i * 7 % 290);
    (void)v.latent.encode(region);
    std::vector<TokenId> longer;
    for (int i = 0; i < 64; ++i) longer.insert(longer.end(), region.begin(), region.end());
    (void)v.latent.encode(longer);
    const size_t peak = v.latent.peak_bytes();
    for (int i = 0; i < 64; ++i) longer.insert(longer.end(), region.begin(), region.end());
    (void)v.latent.encode(longer);
    EXPECT_EQ(v.latent.peak_bytes(), peak);
}

}  // namespace
}  // namespace palimpsest
