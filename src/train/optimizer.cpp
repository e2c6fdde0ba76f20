#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace palimpsest {

namespace {

constexpr double kBetaFirst = 0.9;
constexpr double kBetaSecond = 0.95;
constexpr float kEpsilon = 1e-8F;

}  // namespace

double Schedule::at(int64_t step) const {
    const int64_t left = n_steps - 1 - step;
    if (step < n_warm_up) {
        return rate * static_cast<double>(step + 1) / static_cast<double>(n_warm_up);
    }
    if (left >= n_decay) return rate;
    const double share = static_cast<double>(left) / static_cast<double>(n_decay);
    return rate * (last_share + (1 - last_share) * share);
}

Optimizer::Optimizer(const Parameters& of, double most_norm) : most_norm_(most_norm) {
    for (const Parameter& p : of) {
        first.emplace_back(p.value.size());
        second.emplace_back(p.value.size());
    }
}

double Optimizer::step(Parameters& to, double rate) {
    ++n_done;
    const double norm = gradient_norm(to);
    const auto scale = static_cast<float>(norm > most_norm_ ? most_norm_ / norm : 1.0);
    const auto n = static_cast<double>(n_done);
    const auto first_left = static_cast<float>(1 - std::pow(kBetaFirst, n));
    const auto second_left = static_cast<float>(1 - std::pow(kBetaSecond, n));
    constexpr auto kFirst = static_cast<float>(kBetaFirst);
    constexpr auto kSecond = static_cast<float>(kBetaSecond);
    const auto step_size = static_cast<float>(rate) / first_left;
    for (size_t i = 0; i < to.size(); ++i) {
        for (size_t j = 0; j < to[i].value.size(); ++j) {
            const float g = to[i].gradient[j] * scale;
            float& m = first[i][j];
            float& v = second[i][j];
            m = kFirst * m + (1 - kFirst) * g;
            v = kSecond * v + (1 - kSecond) * g * g;
            to[i].value[j] -= step_size * m / (std::sqrt(v / second_left) + kEpsilon);
        }
    }
    return norm;
}

}  // namespace palimpsest
