// Graphs of ggml's behind our owners.

#include "core/graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace palimpsest {
namespace {

enum class Last { kThree, kOneAndThree };

/// 6 x + 6 x, or 2 x + 6 x: equal nodes but for how long the first is needed.
std::vector<float> sum(Backend& backend, Last needs) {
    Graph g(16);
    ggml_context* c = g.ctx();
    Tensor x = g.input(GGML_TYPE_F32, {64, 1, 1, 1}, [](std::span<std::byte> out) {
        const std::vector<float> ones(64, 1.0F);
        std::memcpy(out.data(), ones.data(), out.size());
    });
    Tensor twice = ggml_scale(c, x, 2);
    Tensor six = ggml_scale(c, twice, 3);
    Tensor y = g.output(ggml_add(c, six, needs == Last::kThree ? six : twice));
    g.compute(backend);
    return Graph::read(y);
}

// ggml's allocator takes a graph of as many nodes and the same sizes for the one before.
TEST(WorkRanges, CoverAllWorkInOrder) {
    for (const int n_threads : {1, 2, 3, 16, 512}) {
        for (const int64_t n : {0, 1, 2, 7, 100, 12345}) {
            const WorkRanges ranges(n, n_threads);
            int64_t at = 0;
            for (int64_t i = 0; i < ranges.count(); ++i) {
                EXPECT_EQ(ranges[i].begin, at);
                EXPECT_GE(ranges[i].end, at);
                at = ranges[i].end;
            }
            EXPECT_EQ(at, n) << n_threads;
        }
    }
}

TEST(Graph, IsLaidOutForItsOwnValues) {
    Backend backend(1);
    for (const Last needs : {Last::kThree, Last::kOneAndThree, Last::kThree}) {
        const float expected = needs == Last::kThree ? 12 : 8;
        const std::vector<float> y = sum(backend, needs);
        EXPECT_TRUE(std::ranges::all_of(y, [&](float v) { return v == expected; })) << y[0];
    }
}

}  // namespace
}  // namespace palimpsest
