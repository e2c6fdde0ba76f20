#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "train/linear/linear_model.h"

namespace palimpsest {

/// What an arm may depend on.
struct LinearArmInputs {
    LinearShape shape;
    int64_t n_states = 8;
    int64_t length = 128;         // of sequences that are learnt
    double dynamic_rate = 0.125;  // at which "dla" opened states, as measured
};

struct LinearArmSetup {
    LinearShape shape;
    LinearMixing mixing;
};

/// Models that differ in what a head holds, in as many bytes each. A line an arm.
struct LinearArm {
    std::string_view name, summary;
    LinearArmSetup (*make)(const LinearArmInputs& in);
};
[[nodiscard]] std::span<const LinearArm> linear_arms();
/// Throws kNotFound, listing them.
[[nodiscard]] const LinearArm& linear_arm(std::string_view name);

}  // namespace palimpsest
