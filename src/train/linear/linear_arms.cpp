#include "train/linear/linear_arms.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "memory/option_reader.h"

namespace palimpsest {

namespace {

/// As many states as there may be, weighed by what the token says.
LinearArmSetup bank(const LinearArmInputs& in, std::string_view name) {
    LinearArmSetup s = {.shape = in.shape, .mixing = {}};
    s.mixing.bank = {.name = std::string(name), .n_states = in.n_states};
    s.mixing.learns_weights = true;
    return s;
}

LinearArmSetup single(const LinearArmInputs& in) { return {.shape = in.shape, .mixing = {}}; }

LinearArmSetup single_big(const LinearArmInputs& in) {
    LinearArmSetup s = single(in);
    s.shape.d_key *= in.n_states;
    return s;
}

LinearArmSetup dynamic(const LinearArmInputs& in) { return bank(in, "dla"); }

LinearArmSetup unweighed(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.learns_weights = false;
    return s;
}

LinearArmSetup dynamic_loose(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.bank.threshold = 1.0F;
    return s;
}

LinearArmSetup dynamic_first(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.bank.first_score = s.mixing.bank.threshold;
    return s;
}

LinearArmSetup dynamic_decaying(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.bank.closed = ClosedStates::kDecay;
    return s;
}

LinearArmSetup dynamic_quantile(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.boundary_rate = 0.125;
    return s;
}

LinearArmSetup ward(const LinearArmInputs& in) { return bank(in, "ward"); }

LinearArmSetup equal(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "equal");
    s.mixing.bank.block = (in.length + in.n_states - 1) / in.n_states;
    return s;
}

LinearArmSetup random(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "random");
    s.mixing.bank.rate = std::clamp(in.dynamic_rate, 0.0, 1.0);
    return s;
}

LinearArmSetup oracle(const LinearArmInputs& in) {
    LinearArmSetup s = bank(in, "dla");
    s.mixing.is_told = true;
    return s;
}

LinearArmSetup frozen(LinearArmSetup s) {
    s.mixing.bank.closed = ClosedStates::kNothing;
    return s;
}

LinearArmSetup dynamic_frozen(const LinearArmInputs& in) { return frozen(dynamic(in)); }

LinearArmSetup random_frozen(const LinearArmInputs& in) { return frozen(random(in)); }

LinearArmSetup equal_frozen(const LinearArmInputs& in) { return frozen(equal(in)); }

LinearArmSetup oracle_frozen(const LinearArmInputs& in) { return frozen(oracle(in)); }

LinearArmSetup log_linear(const LinearArmInputs& in) { return bank(in, "log-linear"); }

LinearArmSetup window(const LinearArmInputs& in) {
    LinearArmSetup s = single(in);
    const LinearShape& of = in.shape;
    s.mixing.window =
        std::max<int64_t>(1, in.n_states * of.d_key * of.d_value / (of.d_key + of.d_value));
    return s;
}

constexpr auto kArms = std::to_array<LinearArm>({
    {"single", "one state: the layer as it is, in a K-th of the bytes", single},
    {"dla", "K states, opened at a score of 0.6, the least informative neighbours merged", dynamic},
    {"single-big", "one state with K times as many rows", single_big},
    {"log-linear", "K levels of a Fenwick tree", log_linear},
    {"random", "as dla, boundaries by lot at its rate", random},
    {"equal", "as dla, a state for every K-th of the length", equal},
    {"window", "softmax over as many last positions as fit in the bytes", window},
    {"oracle", "as dla, boundaries where the task has them", oracle},
    {"ward", "as dla, neighbours merged whose means are nearest", ward},
    {"dla-unweighed", "as dla, every state counting 1: the single state, and must equal it",
     unweighed},
    {"dla-loose", "as dla, opened at a score of 1.0", dynamic_loose},
    {"dla-quantile", "as dla, every layer's score set so that an eighth of tokens open a state",
     dynamic_quantile},
    {"dla-frozen", "as dla, closed states stay as they are", dynamic_frozen},
    {"random-frozen", "as random, closed states stay as they are", random_frozen},
    {"equal-frozen", "as equal, closed states stay as they are", equal_frozen},
    {"oracle-frozen", "as oracle, closed states stay as they are", oracle_frozen},
    {"dla-decaying", "as dla, closed states decay and nothing is erased from them",
     dynamic_decaying},
    {"dla-first", "as dla, the first token's score at the threshold", dynamic_first},
});

}  // namespace

std::span<const LinearArm> linear_arms() { return kArms; }

const LinearArm& linear_arm(std::string_view name) {
    std::vector<std::string_view> names;
    for (const LinearArm& arm : kArms) {
        if (arm.name == name) return arm;
        names.push_back(arm.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("arm", name, names));
}

}  // namespace palimpsest
