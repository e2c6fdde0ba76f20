#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace palimpsest {

double Schedule::at(int64_t step) const {
    const int64_t left = n_steps - 1 - step;
    if (step < n_warm_up) {
        return rate * static_cast<double>(step + 1) / static_cast<double>(n_warm_up);
    }
    if (left >= n_decay) return rate;
    const double share = static_cast<double>(left) / static_cast<double>(n_decay);
    return rate * (last_share + (1 - last_share) * share);
}

Optimizer::Optimizer(const Parameters& of, const AdamRule& rule) : rule_(rule) {
    for (const Parameter& p : of) {
        first.emplace_back(p.value.size());
        second.emplace_back(p.value.size());
    }
}

double Optimizer::step(Parameters& to, double rate) {
    const double norm = gradient_norm(to);
    require(std::isfinite(norm), "the gradient of step ", n_done + 1,
            " is no number; try again with a lower learning rate");
    ++n_done;
    const auto scale = static_cast<float>(norm > rule_.most_norm ? rule_.most_norm / norm : 1.0);
    const auto n = static_cast<double>(n_done);
    const auto first_left = static_cast<float>(1 - std::pow(rule_.first, n));
    const auto second_left = static_cast<float>(1 - std::pow(rule_.second, n));
    const auto keep_first = static_cast<float>(rule_.first);
    const auto keep_second = static_cast<float>(rule_.second);
    const auto step_size = static_cast<float>(rate) / first_left;
    for (size_t i = 0; i < to.size(); ++i) {
        for (size_t j = 0; j < to[i].value.size(); ++j) {
            const float g = to[i].gradient[j] * scale;
            float& m = first[i][j];
            float& v = second[i][j];
            m = keep_first * m + (1 - keep_first) * g;
            v = keep_second * v + (1 - keep_second) * g * g;
            to[i].value[j] -= step_size * m / (std::sqrt(v / second_left) + rule_.epsilon);
        }
    }
    return norm;
}

}  // namespace palimpsest
