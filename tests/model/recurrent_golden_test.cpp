// Families with recurrent layers against golden vectors: logits and states, however tokens come.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/runtime.h"
#include "memory/cache/memories.h"
#include "memory/recurrent/recurrent_memory.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

constexpr double kLogits = 2e-3, kStates = 1e-4;  // the vectors' own; states: of the largest entry

class RecurrentGolden : public ::testing::TestWithParam<std::tuple<const char*, int64_t>> {};

/// Largest difference of a layer's states from golden ones, as a share of the largest entry.
double state_difference(const RecurrentLayer& l, std::span<const float> ours,
                        std::span<const float> golden) {
    const auto size = static_cast<size_t>(l.n_rows * l.n_columns);
    double worst = 0;
    double largest = 0;
    for (int64_t h = 0; h < l.n_head; ++h) {
        const auto a = ours.subspan(static_cast<size_t>(h) * size, size);
        const auto b = golden.subspan(static_cast<size_t>(l.published_head(h)) * size, size);
        worst = std::max(worst, testing::max_difference(a, b));
        for (const float x : b) largest = std::max(largest, std::abs(static_cast<double>(x)));
    }
    return worst / largest;
}

/// The same of what a convolution remembers; golden ones have one input more.
double before_difference(const RecurrentLayer& l, std::span<const float> ours,
                         std::span<const float> golden) {
    double worst = 0;
    const int64_t n_keys = 2 * l.n_key_head * l.n_rows;
    for (int64_t channel = 0; channel < l.n_channels; ++channel) {
        int64_t theirs = channel;
        if (l.alternates && channel >= n_keys) {
            const int64_t head = (channel - n_keys) / l.n_columns;
            theirs =
                n_keys + l.published_head(head) * l.n_columns + (channel - n_keys) % l.n_columns;
        }
        for (int64_t t = 0; t < l.n_before; ++t) {
            const auto a = ours[static_cast<size_t>(t * l.n_channels + channel)];
            const auto b = golden[static_cast<size_t>(theirs * (l.n_before + 1) + t + 1)];
            worst = std::max(worst, std::abs(static_cast<double>(a) - static_cast<double>(b)));
        }
    }
    return worst;
}

TEST_P(RecurrentGolden, LogitsAndStates) {
    REQUIRE_ORACLES();
    const auto& [name, chunk] = GetParam();
    const auto folder = *oracle_folder / "linear" / name;
    const auto golden = testing::read_json(folder / "golden.json");
    Backend backend(2);
    const LoadedModel loaded((folder / "model.gguf").string(), backend);
    const Runtime runtime(loaded, backend, chunk);
    auto memory = std::make_unique<RecurrentMemory>(backend, runtime.shape());
    const RecurrentMemory& states = *memory;
    const auto session = runtime.make_session(std::move(memory));
    const auto values = [&](const char* field) {
        return testing::read_f32(folder / golden[field]["file"].get<std::string>());
    };
    const std::vector<float> golden_logits = values("logits");
    const std::vector<float> golden_states = values("states");
    const std::vector<float> golden_before = values("conv_states");
    const auto tokens = golden["tokens"].get<std::vector<TokenId>>();
    const auto ends = golden["state_after_tokens"].get<std::vector<int64_t>>();
    const int64_t n_layer = runtime.shape().n_layer;

    std::vector<float> logits;
    int64_t done = 0;
    for (size_t stop = 0; stop < ends.size(); ++stop) {
        session->feed(std::vector<TokenId>(tokens.begin() + done, tokens.begin() + ends[stop]),
                      {.on_logits = [&](int64_t, std::span<const float> row) {
                          logits.insert(logits.end(), row.begin(), row.end());
                      }});
        done = ends[stop];
        for (int64_t i = 0; i < n_layer; ++i) {
            SCOPED_TRACE(cat("after ", done, " tokens, layer ", i));
            const auto l = std::get<RecurrentLayer>(runtime.shape().layer(i));
            const auto n = static_cast<size_t>(l.n_head * l.n_rows * l.n_columns);
            const auto n_before = static_cast<size_t>(l.n_channels * (l.n_before + 1));
            const size_t at = stop * static_cast<size_t>(n_layer) + static_cast<size_t>(i);
            EXPECT_LT(
                state_difference(l, states.states(i), std::span(golden_states).subspan(at * n, n)),
                kStates);
            EXPECT_LT(before_difference(l, states.before(i),
                                        std::span(golden_before).subspan(at * n_before, n_before)),
                      kStates);
        }
    }
    EXPECT_LT(testing::max_difference(logits, golden_logits), kLogits);
}

INSTANTIATE_TEST_SUITE_P(Models, RecurrentGolden,
                         ::testing::Combine(::testing::Values("mamba2", "gdn"),
                                            ::testing::Values(1, 7, 32, 512)),
                         [](const auto& one) {
                             return cat(std::get<0>(one.param), "_", std::get<1>(one.param));
                         });

}  // namespace
}  // namespace palimpsest
