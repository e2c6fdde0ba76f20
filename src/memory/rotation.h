#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

/// How rotary position embedding (Su et al., arXiv:2104.09864) turns the channels of a head: pair i
/// by frequency[i] radians a position.
struct Rotation {
    std::vector<float> frequency;  // [n_rot / 2]; empty: positions do not turn anything
    bool adjacent = false;         // pair i is channels 2i, 2i+1; else i, i + n_rot/2

    /// The two channels of a pair.
    [[nodiscard]] int64_t first(int64_t pair) const { return adjacent ? 2 * pair : pair; }
    [[nodiscard]] int64_t second(int64_t pair) const {
        return adjacent ? 2 * pair + 1 : pair + static_cast<int64_t>(frequency.size());
    }
};

/// Turns rows by numbers of positions: rotations compose, so a row stored for position p becomes,
/// turned by n, the row of position p + n. Keeps the angles of the last turn, which neighbours
/// often share.
class Turner {
 public:
    /// `rotation` must outlive the turner.
    explicit Turner(const Rotation& rotation);
    void turn(float* row, int64_t positions);

 private:
    const Rotation& rotation_;
    int64_t positions_ = 0;
    std::vector<float> cos_, sin_;
};

/// The mean of the rotations of positions [first, first + n), as a complex number for each pair.
struct MeanRotation {
    std::vector<double> re, im;
};
MeanRotation mean_rotation(const Rotation& rotation, int64_t first, int64_t n);

}  // namespace palimpsest
