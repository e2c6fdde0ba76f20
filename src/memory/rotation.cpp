#include "memory/rotation.h"

#include <cmath>

namespace palimpsest {

Turner::Turner(const Rotation& rotation)
    : rotation_(rotation), cos_(rotation.frequency.size(), 1.0F), sin_(cos_.size(), 0.0F) {}

void Turner::turn(float* row, int64_t positions) {
    if (positions == 0) return;
    if (positions != positions_) {
        for (size_t i = 0; i < cos_.size(); ++i) {
            const double angle =
                static_cast<double>(rotation_.frequency[i]) * static_cast<double>(positions);
            cos_[i] = static_cast<float>(std::cos(angle));
            sin_[i] = static_cast<float>(std::sin(angle));
        }
        positions_ = positions;
    }
    for (size_t i = 0; i < cos_.size(); ++i) {
        const auto pair = static_cast<int64_t>(i);
        float& a = row[rotation_.first(pair)];
        float& b = row[rotation_.second(pair)];
        const float x = a;
        a = x * cos_[i] - b * sin_[i];
        b = x * sin_[i] + b * cos_[i];
    }
}

MeanRotation mean_rotation(const Rotation& rotation, int64_t first, int64_t n) {
    const size_t pairs = rotation.frequency.size();
    MeanRotation mean = {.re = std::vector<double>(pairs), .im = std::vector<double>(pairs)};
    for (size_t i = 0; i < pairs; ++i) {
        const auto frequency = static_cast<double>(rotation.frequency[i]);
        for (int64_t p = first; p < first + n; ++p) {
            mean.re[i] += std::cos(frequency * static_cast<double>(p));
            mean.im[i] += std::sin(frequency * static_cast<double>(p));
        }
        mean.re[i] /= static_cast<double>(n);
        mean.im[i] /= static_cast<double>(n);
    }
    return mean;
}

}  // namespace palimpsest
