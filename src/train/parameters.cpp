#include "train/parameters.h"

#include <algorithm>
#include <cmath>

namespace palimpsest {

size_t add_parameter(Parameters& to, const std::string& name, const Shape& shape,
                     ggml_type stored) {
    const auto n = static_cast<size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
    to.push_back({.name = name,
                  .shape = shape,
                  .stored = stored,
                  .value = std::vector<float>(n),
                  .gradient = std::vector<float>(n)});
    return to.size() - 1;
}

void clear_gradients(Parameters& of) {
    for (Parameter& p : of) std::ranges::fill(p.gradient, 0.0F);
}

double gradient_norm(const Parameters& of) {
    double sum = 0;
    for (const Parameter& p : of) {
        double part = 0;
        for (const float x : p.gradient) part += double{x} * double{x};
        sum += part;
    }
    return std::sqrt(sum);
}

}  // namespace palimpsest
