// The gate's network and loss against finite differences.

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "train/gate/gate_network.h"
#include "train/gate/objective_gate.h"
#include "train/product_kernel.h"

namespace palimpsest {
namespace {

std::vector<float> random_values(size_t n, Random& random, double scale = 1) {
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(scale * (2 * random.unit() - 1));
    return v;
}

/// One number of a product, added to what was there.
double plain_product(const StridedMatrix& of, const std::vector<float>& b, ProductSize size,
                     int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < size.inner; ++k) {
        sum += double{of.data[i * of.row + k * of.step]} *
               double{b[static_cast<size_t>(k * size.columns + j)]};
    }
    return sum;
}

TEST(Product, EqualsPlainLoopsAtEverySize) {
    Random random(3);
    for (const ProductSize size : {ProductSize{1, 1, 1}, ProductSize{7, 300, 33},
                                   ProductSize{13, 5, 64}, ProductSize{6, 513, 31}}) {
        const auto a = random_values(static_cast<size_t>(size.rows * size.inner), random);
        const auto b = random_values(static_cast<size_t>(size.inner * size.columns), random);
        const auto before = random_values(static_cast<size_t>(size.rows * size.columns), random);
        for (const bool is_transposed : {false, true}) {
            const StridedMatrix of = {a.data(), is_transposed ? 1 : size.inner,
                                      is_transposed ? size.rows : 1};
            std::vector<float> c = before;
            add_product(of, b.data(), c.data(), size);
            for (int64_t at = 0; at < size.rows * size.columns; ++at) {
                const double sum = double{before[static_cast<size_t>(at)]} +
                                   plain_product(of, b, size, at / size.columns, at % size.columns);
                EXPECT_NEAR(c[static_cast<size_t>(at)], sum, 2e-4)
                    << size.rows << 'x' << size.inner << 'x' << size.columns;
            }
        }
    }
}

/// Parameters of a small gate, and their gradients.
struct SmallGate {
    explicit SmallGate(Random& random) {
        const std::vector<size_t> sizes = {8, 8, 40, 5, 5, 10, 2};
        for (const size_t n : sizes) values.push_back(random_values(n, random));
        for (float& x : values[0]) x = 1 + 0.3F * x;
        for (float& x : values[3]) x = 1 + 0.3F * x;
        for (const size_t n : sizes) gradients.emplace_back(n);
    }
    static GateTensors tensors(std::vector<std::vector<float>>& of) {
        return {of[0], of[1], of[2], of[3], of[4], of[5], of[6]};
    }
    std::vector<std::vector<float>> values, gradients;
};

TEST(GateNetwork, GradientsAreFiniteDifferences) {
    Random random(7);
    SmallGate gate(random);
    const std::vector<float> hidden = random_values(size_t{3} * 8, random, 2);
    const std::vector<float> by = random_values(size_t{3} * 2, random);
    GateNetwork network({.n_embd = 8, .n_mid = 5, .n_head_kv = 2});
    const auto loss = [&] {
        double sum = 0;
        const auto scores = network.forward(SmallGate::tensors(gate.values), hidden);
        for (size_t i = 0; i < by.size(); ++i) sum += double{by[i]} * double{scores[i]};
        return sum;
    };
    loss();
    network.backward(SmallGate::tensors(gate.values), by, SmallGate::tensors(gate.gradients));
    constexpr float kStep = 5e-3F;
    for (size_t p = 0; p < gate.values.size(); ++p) {
        for (size_t i = 0; i < gate.values[p].size(); ++i) {
            const float x = gate.values[p][i];
            gate.values[p][i] = x + kStep;
            const double above = loss();
            gate.values[p][i] = x - kStep;
            const double below = loss();
            gate.values[p][i] = x;
            EXPECT_NEAR(gate.gradients[p][i], (above - below) / (2 * double{kStep}), 2e-3)
                << "tensor " << p << ", number " << i;
        }
    }
}

TEST(GateNetwork, GradientsAdd) {
    Random random(7);
    SmallGate gate(random);
    const std::vector<float> hidden = random_values(8, random);
    const std::vector<float> by = {1, -1};
    GateNetwork network({.n_embd = 8, .n_mid = 5, .n_head_kv = 2});
    network.forward(SmallGate::tensors(gate.values), hidden);
    network.backward(SmallGate::tensors(gate.values), by, SmallGate::tensors(gate.gradients));
    const auto once = gate.gradients;
    network.backward(SmallGate::tensors(gate.values), by, SmallGate::tensors(gate.gradients));
    for (size_t p = 0; p < once.size(); ++p) {
        for (size_t i = 0; i < once[p].size(); ++i) {
            EXPECT_NEAR(gate.gradients[p][i], 2 * once[p][i], 1e-5);
        }
    }
}

TEST(GateLoss, SlopeIsAFiniteDifference) {
    const std::vector<float> cuts = {-6, -4.5F, -2};
    for (const float y : {-9.0F, -5.0F, -1.0F}) {
        for (const float x : {-12.0F, -6.2F, -4.0F, 0.5F}) {
            const double above = double{gate_loss(x + 1e-2F, y, cuts).loss};
            const double below = double{gate_loss(x - 1e-2F, y, cuts).loss};
            EXPECT_NEAR(gate_loss(x, y, cuts).slope, (above - below) / 2e-2, 2e-3) << x << ' ' << y;
        }
    }
}

TEST(GateLoss, WrongSideOfACutCostsMore) {
    const std::vector<float> cuts = {-4};
    EXPECT_GT(gate_loss(-5, -3.5F, cuts).loss, gate_loss(-2, -3.5F, cuts).loss);
}

TEST(Recalls, CountsTheBestAmongTheBest) {
    std::vector<float> truth(20);
    for (size_t i = 0; i < truth.size(); ++i) truth[i] = static_cast<float>(i);
    EXPECT_EQ(recalls(truth, truth), (std::array<double, 3>{1, 1, 1}));
    std::vector<float> reversed(truth.rbegin(), truth.rend());
    EXPECT_EQ(recalls(truth, reversed), (std::array<double, 3>{0, 0, 0}));
    std::vector<float> shifted = truth;
    shifted[0] = 100;  // one that does not belong takes the last place among the best
    EXPECT_EQ(recalls(truth, shifted), (std::array<double, 3>{0.9, 0.8, 0.5}));
}

}  // namespace
}  // namespace palimpsest
