// Products of many rows against plain loops in double precision, and against ggml's own.

#include "model/linear.h"

#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "core/error.h"
#include "engine/evaluator.h"
#include "model/int8_kernels.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::TinyModel;

std::vector<float> random_values(uint32_t seed, int64_t n, float size = 1) {
    std::mt19937 engine(seed);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = size * (static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F);
    return values;
}

float to_bf16(float x) { return ggml_bf16_to_fp32(ggml_fp32_to_bf16(x)); }

std::vector<float> to_bf16(std::vector<float> values) {
    for (float& x : values) x = to_bf16(x);
    return values;
}

/// Every `n` numbers in 256 steps from the least to the greatest, zero being one of them.
std::vector<float> to_int8(std::vector<float> values, size_t n = 16) {
    for (size_t i = 0; i < values.size(); i += n) {
        const std::span group(values.data() + i, n);
        const float least = std::min(0.0F, std::ranges::min(group));
        const float range = std::max(0.0F, std::ranges::max(group)) - least;
        if (range == 0) continue;
        const float factor = 255 / range;
        const float zero = std::nearbyint(-least * factor);
        for (float& x : group) {
            const float number = std::min(std::nearbyint(x * factor) + zero, 255.0F);
            x = range / 255 * (number - zero);
        }
    }
    return values;
}

/// Rows, or weights, as products take them.
std::vector<float> rows_in(ProductKind kind, const std::vector<float>& x) {
    if (kind == ProductKind::kBf16) return to_bf16(x);
    return kind == ProductKind::kInt8 ? to_int8(x) : x;
}
std::vector<float> weights_in(ProductKind kind, const std::vector<float>& w) {
    return kind == ProductKind::kBf16 ? to_bf16(w) : w;
}

float from_bits(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16U); }

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
}

/// A matrix as a file has it, and the numbers that storing it left.
class Matrix {
 public:
    Matrix(const Backend& backend, ggml_type type, int64_t n_in, int64_t n_out, uint32_t seed)
        : storage_(2), n_in_(n_in), n_out_(n_out) {
        linear_.weight = storage_.add(type, {n_in, n_out, 1, 1});
        linear_.bias = storage_.add(GGML_TYPE_F32, {n_out, 1, 1, 1});
        storage_.commit(backend);
        const std::vector<float> values = random_values(seed, n_in * n_out);
        bias_ = random_values(seed + 1, n_out);
        ggml_quantize_chunk(type, values.data(), linear_.weight->data, 0, n_out, n_in, nullptr);
        std::memcpy(linear_.bias->data, bias_.data(), bias_.size() * sizeof(float));
        stored_ = values;
        decode();
    }

    /// Every number of a Q8_0 matrix; scales stay.
    void fill_q8_0(std::byte number) {
        constexpr int64_t kBlock = 32;
        constexpr int64_t kBytes = 34;
        auto* data = static_cast<std::byte*>(linear_.weight->data);
        for (int64_t i = 0; i < n_in_ * n_out_ / kBlock; ++i) {
            std::fill_n(data + i * kBytes + 2, kBlock, number);
        }
        decode();
    }

    [[nodiscard]] const Linear& linear() const { return linear_; }
    [[nodiscard]] Linear without_bias() const { return {.weight = linear_.weight}; }
    [[nodiscard]] int64_t n_out() const { return n_out_; }

    /// [n][n_out] of x [n][n_in].
    [[nodiscard]] std::vector<double> times(const std::vector<float>& x, ProductKind kind,
                                            bool adds) const {
        const std::vector<float> w = weights_in(kind, stored_);
        const std::vector<float> a = rows_in(kind, x);
        std::vector<double> out;
        for (size_t i = 0; i < x.size(); i += static_cast<size_t>(n_in_)) {
            for (size_t j = 0; j < static_cast<size_t>(n_out_); ++j) {
                double sum = adds ? static_cast<double>(bias_[j]) : 0.0;
                for (size_t k = 0; k < static_cast<size_t>(n_in_); ++k) {
                    sum += static_cast<double>(a[i + k]) *
                           static_cast<double>(w[j * static_cast<size_t>(n_in_) + k]);
                }
                out.push_back(sum);
            }
        }
        return out;
    }

 private:
    void decode() {
        const ggml_tensor* w = linear_.weight;
        const ggml_to_float_t to_float = ggml_get_type_traits(w->type)->to_float;
        if (to_float != nullptr) to_float(w->data, stored_.data(), n_in_ * n_out_);
    }

    Storage storage_;
    int64_t n_in_, n_out_;
    Linear linear_;
    std::vector<float> bias_, stored_;
};

using Build = std::function<std::vector<Tensor>(Graph& g, Tensor x)>;

/// What `build` makes of x [n][n_in], one vector a tensor.
std::vector<std::vector<float>> computed(const std::vector<float>& x, int64_t n_in, int n_threads,
                                         const Build& build) {
    Backend backend(n_threads);
    Graph g(64);
    const int64_t n = std::ssize(x) / n_in;
    Tensor input = g.input(GGML_TYPE_F32, {n_in, n, 1, 1}, [&](std::span<std::byte> to) {
        std::memcpy(to.data(), x.data(), to.size());
    });
    std::vector<Tensor> outputs;
    for (Tensor t : build(g, input)) outputs.push_back(g.output(ggml_cont(g.ctx(), t)));
    g.compute(backend);
    std::vector<std::vector<float>> values;
    values.reserve(outputs.size());
    for (Tensor t : outputs) values.push_back(Graph::read(t));
    return values;
}

std::vector<float> as_floats(const std::vector<double>& values) {
    return {values.begin(), values.end()};
}

ProductKind kind_of(Reading reading) {
    if (reading == Reading::kInt8) return ProductKind::kInt8;
    return reading == Reading::kBf16 ? ProductKind::kBf16 : ProductKind::kF32;
}

/// Why this machine cannot; empty: it can.
std::string obstacle_to(Reading reading) {
    if (reading == Reading::kInt8) return int8_obstacle();
    return DenseProduct::obstacle(reading == Reading::kBf16 ? Numbers::kBf16 : Numbers::kF32);
}

class ReadingIn : public ::testing::TestWithParam<Reading> {
 protected:
    void SetUp() override {
        const std::string obstacle = obstacle_to(GetParam());
        if (!obstacle.empty()) GTEST_SKIP() << obstacle;
    }
    [[nodiscard]] ProductKind kind() const { return kind_of(GetParam()); }
    [[nodiscard]] ggml_type weights() const {
        return GetParam() == Reading::kInt8 ? GGML_TYPE_Q8_0 : GGML_TYPE_F32;
    }
    [[nodiscard]] bool repeats_bits() const {
        return GetParam() == Reading::kInt8 || DenseProduct::repeats_bits();
    }
};

constexpr std::array kIntegerTypes = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0,
                                      GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K,
                                      GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};

// Sums of up to 640 products of numbers in [-1, 1], in f32.
constexpr double kTolerance = 1e-4;

TEST_P(ReadingIn, EqualsPlainLoopsForEveryType) {
    const Backend backend(1);
    const LinearProducts products(GetParam());
    std::vector<ggml_type> types(kIntegerTypes.begin(), kIntegerTypes.end());
    if (GetParam() != Reading::kInt8) {
        types.insert(types.end(), {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q3_K});
    }
    for (const ggml_type type : types) {
        SCOPED_TRACE(ggml_type_name(type));
        ASSERT_EQ(products.kind_for(type, true), kind());
        const Matrix m(backend, type, 256, 97, 1);
        const std::vector<float> x = random_values(7, 256 * products.many_rows());
        const auto got = computed(x, 256, 2, [&](Graph& g, Tensor in) {
            return std::vector{products.of(g, m.linear(), in, true)};
        });
        EXPECT_LE(max_difference(got[0], as_floats(m.times(x, kind(), true))), kTolerance);
    }
}

TEST_P(ReadingIn, EqualsPlainLoopsForEveryCountOfRows) {
    const Backend backend(1);
    const LinearProducts products(GetParam());
    const Matrix m(backend, GGML_TYPE_Q8_0, 64, 50, 1);
    for (const int64_t n : {24, 25, 32, 33, 255, 256, 257, 600}) {
        SCOPED_TRACE(n);
        const std::vector<float> x = random_values(7, 64 * n);
        const auto got = computed(x, 64, 3, [&](Graph& g, Tensor in) {
            return std::vector{products.of(g, m.without_bias(), in, true)};
        });
        EXPECT_LE(max_difference(got[0], as_floats(m.times(x, kind(), false))), kTolerance);
    }
}

TEST_P(ReadingIn, SeveralMatricesAreOneProduct) {
    const Backend backend(1);
    const LinearProducts products(GetParam());
    const std::array<Matrix, 3> m = {Matrix(backend, GGML_TYPE_Q4_1, 640, 576, 1),
                                     Matrix(backend, GGML_TYPE_Q8_0, 640, 192, 3),
                                     Matrix(backend, GGML_TYPE_Q4_1, 640, 8, 5)};
    const std::array<Linear, 3> linear = {m[0].linear(), m[1].without_bias(), m[2].linear()};
    const std::vector<float> x = random_values(7, int64_t{640} * 40);
    const auto got =
        computed(x, 640, 2, [&](Graph& g, Tensor in) { return products.of(g, linear, in, true); });
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_LE(max_difference(got[i], as_floats(m.at(i).times(x, kind(), i != 1))), kTolerance);
    }
}

TEST_P(ReadingIn, GatedEqualsPlainLoops) {
    const Backend backend(1);
    const LinearProducts products(GetParam());
    const Matrix gate(backend, GGML_TYPE_Q4_1, 64, 160, 1);
    const Matrix up(backend, GGML_TYPE_Q4_1, 64, 160, 3);
    const Matrix down(backend, GGML_TYPE_Q8_0, 160, 64, 5);
    const std::vector<float> x = random_values(7, int64_t{64} * 70);
    for (const Gating f : {Gating::kSilu, Gating::kGelu}) {
        const auto got = computed(x, 64, 2, [&](Graph& g, Tensor in) {
            return std::vector{products.gated(g,
                                              {.gate = gate.without_bias(),
                                               .up = up.without_bias(),
                                               .down = down.without_bias(),
                                               .gating = f},
                                              in, true)};
        });
        // A gate's rows are rounded in groups of 32.
        const bool is_int8 = kind() == ProductKind::kInt8;
        const std::vector<float> rows = is_int8 ? to_int8(x, 32) : x;
        const ProductKind rest = is_int8 ? ProductKind::kF32 : kind();
        const std::vector<double> g = gate.times(rows, rest, false);
        const std::vector<double> u = up.times(rows, rest, false);
        std::vector<float> between;
        for (size_t i = 0; i < g.size(); ++i) {
            between.push_back(
                static_cast<float>((f == Gating::kSilu ? silu(g[i]) : gelu(g[i])) * u[i]));
        }
        // A number beside the middle of two may be rounded to the other one.
        EXPECT_LE(max_difference(got[0], as_floats(down.times(between, kind(), false))),
                  kind() == ProductKind::kF32 ? 1e-3 : 0.1);
    }
}

TEST_P(ReadingIn, ARowHasTheSameBitsWhateverIsBesideItAndOnAnyNumberOfThreads) {
    if (!repeats_bits()) GTEST_SKIP() << "oneDNN sums in changing orders here";
    const Backend backend(1);
    const LinearProducts products(GetParam());
    const Matrix m(backend, GGML_TYPE_Q4_1, 576, 100, 1);
    const std::vector<float> x = random_values(7, int64_t{576} * 700);
    const auto all = [&](const std::vector<float>& rows, int n_threads) {
        return computed(rows, 576, n_threads, [&](Graph& g, Tensor in) {
            return std::vector{products.of(g, m.linear(), in, true)};
        })[0];
    };
    const std::vector<float> whole = all(x, 1);
    EXPECT_EQ(all(x, 2), whole);
    EXPECT_EQ(all(x, 3), whole);
    for (const int64_t cut : {32, 100, 256, 511, 668}) {
        std::vector<float> parts = all({x.begin(), x.begin() + 576 * cut}, 2);
        const std::vector<float> rest = all({x.begin() + 576 * cut, x.end()}, 2);
        parts.insert(parts.end(), rest.begin(), rest.end());
        EXPECT_EQ(parts, whole) << cut;
    }
}

TEST_P(ReadingIn, FewRowsAreMultipliedInOneWayWhateverReadsMany) {
    const Backend backend(1);
    const LinearProducts products(GetParam());
    const LinearProducts plain(Reading::kQuantised);
    const Matrix m(backend, GGML_TYPE_Q4_1, 64, 50, 1);
    const std::vector<float> x = random_values(7, int64_t{64} * 30);
    const auto by = [&](const LinearProducts& p, bool many) {
        return computed(x, 64, 2, [&](Graph& g, Tensor in) {
            return std::vector{p.of(g, m.linear(), in, many)};
        })[0];
    };
    const std::vector<float> few = by(products, false);
    const LinearProducts fastest(Reading::kAuto);
    EXPECT_EQ(few, by(fastest, false));
    EXPECT_EQ(few == by(plain, false), !int8_obstacle().empty());
    EXPECT_EQ(by(plain, true), by(plain, false));
    EXPECT_NE(by(products, true), by(plain, true));
}

TEST_P(ReadingIn, WhatALaneGetsDependsOnItsOwnRowsAlone) {
    if (!repeats_bits()) GTEST_SKIP() << "oneDNN sums in changing orders here";
    const testing::TinyModelOptions options = {.weights = weights(), .reading = GetParam()};
    TinyModel model(options, 2);
    const auto many = model.model().products().many_rows();
    // Two that read much, one of them all logits, one that reads little, one that writes.
    const std::vector<int64_t> lengths = {many + 7, many, many - 1, 1};
    std::vector<std::vector<TokenId>> texts;
    for (size_t i = 0; i < lengths.size(); ++i) {
        texts.push_back(testing::tiny_tokens(lengths[i], static_cast<uint32_t>(i) + 1));
    }
    const auto lane = [&](size_t i, ContextMemory& memory) {
        return Lane{.memory = &memory,
                    .step = {.n = lengths[i], .first_pos = 0},
                    .runs = {{.tokens = texts[i]}},
                    .n_logits = i == 0 ? lengths[i] : 1};
    };
    std::vector<std::vector<float>> alone;
    for (size_t i = 0; i < lengths.size(); ++i) {
        const auto memory = model.memory();
        const Lane one = lane(i, *memory);
        Evaluator evaluator(model.model(), model.backend(), 2);
        const auto logits = evaluator.evaluate(std::span(&one, 1));
        alone.emplace_back(logits.begin(), logits.end());
    }
    std::vector<std::unique_ptr<ContextMemory>> memories;
    std::vector<Lane> lanes;
    for (size_t i = 0; i < lengths.size(); ++i) {
        memories.push_back(model.memory());
        lanes.push_back(lane(i, *memories.back()));
    }
    Evaluator evaluator(model.model(), model.backend(), 2);
    const auto results = evaluator.step(lanes);
    for (size_t i = 0; i < lengths.size(); ++i) {
        EXPECT_EQ(std::vector<float>(results[i].logits.begin(), results[i].logits.end()), alone[i])
            << i;
    }
}

TEST_P(ReadingIn, APromptInAnyChunksGivesTheSameBits) {
    if (!repeats_bits()) GTEST_SKIP() << "oneDNN sums in changing orders here";
    const testing::TinyModelOptions options = {.weights = weights(), .reading = GetParam()};
    const std::vector<TokenId> tokens = testing::tiny_tokens(200);
    const auto logits = [&](int n_threads, int64_t n_chunk) {
        TinyModel model(options, n_threads);
        Session session = model.session(n_chunk);
        session.feed(tokens);
        const auto row = session.logits();
        return std::vector<float>(row.begin(), row.end());
    };
    const std::vector<float> whole = logits(1, 512);
    EXPECT_EQ(logits(2, 512), whole);
    EXPECT_EQ(logits(3, 512), whole);
    for (const int64_t chunk : {40, 50, 67, 100, 150}) EXPECT_EQ(logits(2, chunk), whole) << chunk;
}

INSTANTIATE_TEST_SUITE_P(Numbers, ReadingIn,
                         ::testing::Values(Reading::kF32, Reading::kBf16, Reading::kInt8),
                         [](const auto& test) {
                             if (test.param == Reading::kInt8) return "int8";
                             return test.param == Reading::kF32 ? "f32" : "bf16";
                         });

/// Integer products: what few rows and many have in common, and what few have of their own.
class Int8 : public ::testing::Test {
 protected:
    void SetUp() override {
        const std::string obstacle = int8_obstacle();
        if (!obstacle.empty()) GTEST_SKIP() << obstacle;
    }

    [[nodiscard]] std::vector<float> product(const Matrix& m, const std::vector<float>& x,
                                             int64_t n_in, int n_threads, bool many) const {
        return computed(x, n_in, n_threads, [&](Graph& g, Tensor in) {
            return std::vector{products.of(g, m.linear(), in, many)};
        })[0];
    }

    const Backend backend{1};
    const LinearProducts products{Reading::kInt8};
};

TEST_F(Int8, FewRowsEqualPlainLoopsForEveryType) {
    for (const ggml_type type : kIntegerTypes) {
        SCOPED_TRACE(ggml_type_name(type));
        const Matrix m(backend, type, 512, 97, 1);
        for (const int64_t n : {1, 2, 3, 4, 5, 23}) {
            SCOPED_TRACE(n);
            const std::vector<float> x = random_values(7, 512 * n);
            EXPECT_LE(max_difference(product(m, x, 512, 2, false),
                                     as_floats(m.times(x, ProductKind::kInt8, true))),
                      kTolerance);
        }
    }
}

TEST_F(Int8, WidthsThatAreNoWholeNumberOfPairsOfGroups) {
    for (const ggml_type type :
         {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0}) {
        SCOPED_TRACE(ggml_type_name(type));
        for (const int64_t n_in : {32, 96, 160}) {
            for (const int64_t n_out : {1, 7, 33}) {
                SCOPED_TRACE(n_in * 1000 + n_out);
                const Matrix m(backend, type, n_in, n_out, 1);
                const std::vector<float> x = random_values(7, n_in * 30);
                const auto wanted = as_floats(m.times(x, ProductKind::kInt8, true));
                for (const bool many : {false, true}) {
                    EXPECT_LE(max_difference(product(m, x, n_in, 2, many), wanted), kTolerance);
                }
            }
        }
    }
}

TEST_F(Int8, AFewRowsBitsDependNeitherOnTheOthersNorOnThreads) {
    const Matrix m(backend, GGML_TYPE_Q6_K, 512, 1000, 1);
    const std::vector<float> x = random_values(7, int64_t{512} * 11);
    const std::vector<float> all = product(m, x, 512, 1, false);
    for (const int n_threads : {2, 3, 7}) EXPECT_EQ(product(m, x, 512, n_threads, false), all);
    for (int64_t row = 0; row < 11; ++row) {
        const std::vector<float> one =
            product(m, {x.begin() + row * 512, x.begin() + (row + 1) * 512}, 512, 2, false);
        EXPECT_EQ(one, std::vector<float>(all.begin() + row * 1000, all.begin() + (row + 1) * 1000))
            << row;
    }
}

TEST_F(Int8, FewGatedRowsEqualPlainLoops) {
    const Matrix gate(backend, GGML_TYPE_Q4_1, 64, 352, 1);
    const Matrix up(backend, GGML_TYPE_Q8_0, 64, 352, 3);
    const Matrix down(backend, GGML_TYPE_Q5_0, 352, 64, 5);
    for (const int64_t n : {1, 6}) {
        const std::vector<float> x = random_values(7, 64 * n);
        const auto got = computed(x, 64, 2, [&](Graph& g, Tensor in) {
            return std::vector{products.gated(g,
                                              {.gate = gate.without_bias(),
                                               .up = up.without_bias(),
                                               .down = down.without_bias(),
                                               .gating = Gating::kSilu},
                                              in, false)};
        });
        const std::vector<double> g = gate.times(x, ProductKind::kInt8, false);
        const std::vector<double> u = up.times(x, ProductKind::kInt8, false);
        std::vector<float> between;
        for (size_t i = 0; i < g.size(); ++i) {
            between.push_back(static_cast<float>(silu(g[i]) * u[i]));
        }
        EXPECT_LE(max_difference(got[0], as_floats(down.times(between, ProductKind::kInt8, false))),
                  0.1);
    }
}

/// As it is with a copy of the norm's result between, which hides where it is from.
TEST_F(Int8, ANormIsTakenOnTheWay) {
    const Matrix m(backend, GGML_TYPE_Q4_1, 96, 33, 1);
    Storage storage(1);
    Tensor weight = storage.add(GGML_TYPE_F32, {96, 1, 1, 1});
    storage.commit(backend);
    const std::vector<float> values = random_values(3, 96);
    std::memcpy(weight->data, values.data(), values.size() * sizeof(float));
    for (const int64_t n : {1, 30}) {
        const std::vector<float> x = random_values(7, 96 * n, 5);
        const auto got = computed(x, 96, 2, [&](Graph& g, Tensor in) {
            Tensor normed = ggml_mul(g.ctx(), ggml_rms_norm(g.ctx(), in, 1e-5F), weight);
            return std::vector{products.of(g, m.linear(), normed, n > 1),
                               products.of(g, m.linear(), ggml_cont(g.ctx(), normed), n > 1)};
        });
        // A number beside the middle of two may be rounded to the other one.
        EXPECT_LE(max_difference(got[0], got[1]), 0.05);
    }
}

TEST_F(Int8, NoZeroesAndNoNumbersThatAreNoneAreHidden) {
    const Matrix m(backend, GGML_TYPE_Q4_1, 64, 33, 1);
    std::vector<float> x(size_t{64} * 40);
    x[0] = 1e-38F;  // too small to be scaled: nothing
    x[64 + 5] = std::numeric_limits<float>::quiet_NaN();
    x[128 + 63] = std::numeric_limits<float>::infinity();
    for (const bool many : {false, true}) {
        const std::vector<float> got = product(m, x, 64, 2, many);
        const auto bias = m.times(std::vector<float>(64), ProductKind::kInt8, true);
        for (size_t i = 0; i < 33; ++i) {
            EXPECT_EQ(static_cast<double>(got[i]), bias[i]);
            EXPECT_TRUE(std::isnan(got[33 + i]));
            EXPECT_TRUE(std::isnan(got[66 + i]));
            EXPECT_EQ(static_cast<double>(got[99 + i]), bias[i]);
        }
    }
}

/// What a set of instructions makes of a matrix and of rows: rounded rows, results for few rows and
/// for many, a norm.
struct MadeBy {
    std::vector<std::byte> rows;
    std::vector<float> few, many, normed;
};

MadeBy made_by(const Int8Kernels& k, const Matrix& m, const std::vector<float>& x,
               RowGroups groups = RowGroups::k16) {
    const ggml_tensor* w = m.linear().weight;
    const Int8TypeKernels* of_type = k.find(w->type);
    const int64_t inner = w->ne[0];
    const int64_t n = std::ssize(x) / inner;
    const auto row_bytes = static_cast<size_t>(int8_row_bytes(inner));
    MadeBy made;
    made.rows.resize(static_cast<size_t>(n) * row_bytes);
    for (int64_t i = 0; i < n; ++i) {
        k.round(x.data() + i * inner, 0, inner, inner, groups,
                made.rows.data() + static_cast<size_t>(i) * row_bytes);
    }
    const Int8Rows rows = {.data = made.rows.data(), .n = n, .inner = inner};
    const auto* from = static_cast<const std::byte*>(w->data);
    const auto w_bytes = static_cast<int64_t>(w->nb[1]);
    made.few.resize(static_cast<size_t>(n * m.n_out()));
    std::vector<std::byte> ordered(static_cast<size_t>(k.few_bytes(n, inner)));
    k.order_few(rows, ordered.data());
    of_type->few(from, w_bytes, m.n_out(), {.data = ordered.data(), .n = n, .inner = inner},
                 {.data = made.few.data(), .stride = m.n_out()});
    std::vector<std::byte> step(static_cast<size_t>(of_type->step_bytes(inner)));
    of_type->unpack(from, w_bytes, Int8Tile::kStep, inner, step.data());
    made.many.resize(static_cast<size_t>(n * Int8Tile::kStep));
    const auto multiply = groups == RowGroups::k16 ? of_type->multiply_16 : of_type->multiply_32;
    multiply(step.data(), rows, {.data = made.many.data(), .stride = Int8Tile::kStep});
    made.normed.resize(static_cast<size_t>(inner));
    k.rms_norm_row(x.data(), x.data() + inner, inner, 1e-5F, made.normed.data());
    return made;
}

TEST(Int8Kernels, EverySetOfInstructionsGivesTheSameBits) {
    const Backend backend(1);
    const Int8Kernels* first = nullptr;
    for (const Int8Kernels* k : all_int8_kernels()) {
        if (!processor_has(k->needs)) continue;
        if (first == nullptr) first = k;
        SCOPED_TRACE(name_of(k->needs));
        for (const ggml_type type : kIntegerTypes) {
            SCOPED_TRACE(ggml_type_name(type));
            for (const int64_t inner : {256, 768, 288, 448, 96}) {
                if (inner % ggml_blck_size(type) != 0) continue;
                const Matrix m(backend, type, inner, 33, 1);
                std::vector<float> x = random_values(7, inner * 11, 3);
                std::fill_n(x.begin(), inner, 5.0F);           // every number is the greatest
                std::fill_n(x.begin() + inner, inner, -5.0F);  // every number is the least
                x[static_cast<size_t>(2 * inner) + 3] = std::numeric_limits<float>::infinity();
                const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
                    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
                };
                for (const RowGroups groups : {RowGroups::k16, RowGroups::k32}) {
                    const MadeBy wanted = made_by(*first, m, x, groups);
                    const MadeBy got = made_by(*k, m, x, groups);
                    EXPECT_EQ(got.rows, wanted.rows);
                    EXPECT_EQ(got.normed, wanted.normed);
                    EXPECT_TRUE(same(got.few, wanted.few));
                    EXPECT_TRUE(same(got.many, wanted.many));
                }
            }
        }
    }
}

/// -128 is a number no quantiser leaves; products of two such numbers and 255 are the largest sums.
TEST(Int8Kernels, ExtremeNumbersFit) {
    const Backend backend(1);
    for (const int number : {0, 127, -128, -1}) {
        SCOPED_TRACE(number);
        Matrix m(backend, GGML_TYPE_Q8_0, 64, 32, 1);
        m.fill_q8_0(static_cast<std::byte>(number));
        const std::vector<float> x(size_t{2} * 64, 5.0F);
        const std::vector<float> wanted = as_floats(m.times(x, ProductKind::kInt8, false));
        for (const Int8Kernels* k : all_int8_kernels()) {
            if (!processor_has(k->needs)) continue;
            SCOPED_TRACE(name_of(k->needs));
            const MadeBy made = made_by(*k, m, x);
            EXPECT_LE(max_difference(made.few, wanted), 1e-2);
            EXPECT_LE(max_difference(made.many, wanted), 1e-2);
        }
    }
}

TEST(LinearKernel, RoundsToNearestTiesToEven) {
    std::vector<float> values = {
        0.0F,        -0.0F,         1.0F,  1.00390625F,
        1.01171875F, -1.00390625F,  3e38F, std::numeric_limits<float>::max(),
        1e-40F,      0x1.fffffep-1F};
    const std::vector<float> more = random_values(3, 1000, 100);
    values.insert(values.end(), more.begin(), more.end());
    std::vector<uint16_t> got(values.size());
    round_to_bf16(values.data(), std::ssize(values), got.data());
    for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(got[i], ggml_fp32_to_bf16(values[i]).bits) << values[i];
    }
    const std::array<float, 3> odd = {std::numeric_limits<float>::quiet_NaN(),
                                      std::numeric_limits<float>::infinity(),
                                      -std::numeric_limits<float>::infinity()};
    round_to_bf16(odd.data(), 3, got.data());
    EXPECT_TRUE(std::isnan(from_bits(got[0])));
    EXPECT_EQ(from_bits(got[1]), odd[1]);
    EXPECT_EQ(from_bits(got[2]), odd[2]);
}

TEST(LinearKernel, GatesEqualTheirFormulas) {
    std::vector<float> gate = random_values(3, 1003, 12);
    const std::vector<float> up = random_values(4, 1003, 2);
    gate[0] = 200;
    gate[1] = -200;
    gate[2] = 0;
    for (const Gating f : {Gating::kSilu, Gating::kGelu}) {
        std::vector<float> got(gate.size());
        std::vector<uint16_t> rounded(gate.size());
        gate_to_f32(f, gate.data(), up.data(), std::ssize(gate), got.data());
        gate_to_bf16(f, gate.data(), up.data(), std::ssize(gate), rounded.data());
        for (size_t i = 0; i < gate.size(); ++i) {
            const auto x = static_cast<double>(gate[i]);
            const double wanted =
                (f == Gating::kSilu ? silu(x) : gelu(x)) * static_cast<double>(up[i]);
            EXPECT_NEAR(static_cast<double>(got[i]), wanted, 1e-6 + 1e-6 * std::abs(wanted)) << x;
            EXPECT_EQ(rounded[i], ggml_fp32_to_bf16(got[i]).bits);
        }
    }
}

TEST(LinearProducts, WhatIsStoredExactlyStaysExact) {
    const LinearProducts products(Reading::kAuto);
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16}) {
        EXPECT_FALSE(products.reads_plain(type)) << ggml_type_name(type);
    }
    EXPECT_EQ(products.reads_plain(GGML_TYPE_Q4_1),
              int8_obstacle().empty() || DenseProduct::obstacle(Numbers::kBf16).empty());
    EXPECT_FALSE(LinearProducts(Reading::kQuantised).reads_plain(GGML_TYPE_Q4_1));
}

TEST(LinearProducts, WhatAMachineCannotDoIsRefusedWithTheReason) {
    for (const Reading reading : {Reading::kInt8, Reading::kBf16, Reading::kF32}) {
        const std::string obstacle = obstacle_to(reading);
        if (obstacle.empty()) continue;
        try {
            const LinearProducts products(reading);
            FAIL() << "nothing was refused";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
            EXPECT_NE(std::string(e.what()).find(obstacle), std::string::npos) << e.what();
        }
    }
}

TEST(LinearProducts, ReadingsHaveNames) {
    EXPECT_EQ(reading_named("bf16"), Reading::kBf16);
    EXPECT_THROW(static_cast<void>(reading_named("bf15")), Error);
}

}  // namespace
}  // namespace palimpsest
