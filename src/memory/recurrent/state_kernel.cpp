// Recurrent states, token by token: a part of a state's columns stays in the nearest cache while
// all tokens of a run go through it.

#include "memory/recurrent/state_kernel.h"

#include <cmath>

#include "core/error.h"
#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/recurrent/state_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE StateToken token_at(const StateRun& run, int64_t t, int64_t column) {
    return {.q = run.q + t * run.key_step,
            .k = run.k + t * run.key_step,
            .v = run.v + t * run.value_step + column,
            .stays = run.decay == nullptr ? 1.0F : std::exp(run.decay[t * run.decay_step]),
            .write = run.write == nullptr ? 1.0F : run.write[t * run.write_step],
            .skip = run.skip,
            .out = run.out + t * run.out_step + column};
}

/// Takes a token into kVectors vectors of columns, and reads them.
template <int kVectors, class D>
HWY_INLINE void take_in(D d, StateRule rule, float* state, int64_t n_rows, int64_t row_step,
                        const StateToken& token) {
    using V = hn::Vec<D>;
    constexpr size_t kN = size_t{kVectors};
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    const V stays = hn::Set(d, token.stays);
    V written[kN];
    if (rule == StateRule::kGatedDelta) {
        // v - S^T k of the state as it decayed.
        V read[kN];
        for (size_t i = 0; i < kN; ++i) read[i] = hn::Zero(d);
        for (int64_t r = 0; r < n_rows; ++r) {
            const V k = hn::Set(d, token.k[r]);
            const float* row = state + r * row_step;
            for (size_t i = 0; i < kN; ++i) {
                read[i] =
                    hn::MulAdd(k, hn::LoadU(d, row + static_cast<int64_t>(i) * lanes), read[i]);
            }
        }
        for (size_t i = 0; i < kN; ++i) {
            const V v = hn::LoadU(d, token.v + static_cast<int64_t>(i) * lanes);
            written[i] = hn::Mul(hn::Set(d, token.write), hn::NegMulAdd(stays, read[i], v));
        }
    } else {
        for (size_t i = 0; i < kN; ++i) {
            written[i] = hn::Mul(hn::Set(d, token.write),
                                 hn::LoadU(d, token.v + static_cast<int64_t>(i) * lanes));
        }
    }
    V out[kN];
    for (size_t i = 0; i < kN; ++i) {
        out[i] = hn::Mul(hn::Set(d, token.skip),
                         hn::LoadU(d, token.v + static_cast<int64_t>(i) * lanes));
    }
    for (int64_t r = 0; r < n_rows; ++r) {
        const V k = hn::Set(d, token.k[r]);
        const V q = hn::Set(d, token.q[r]);
        float* row = state + r * row_step;
        for (size_t i = 0; i < kN; ++i) {
            float* at = row + static_cast<int64_t>(i) * lanes;
            const V s = hn::MulAdd(k, written[i], hn::Mul(stays, hn::LoadU(d, at)));
            hn::StoreU(s, d, at);
            out[i] = hn::MulAdd(q, s, out[i]);
        }
    }
    for (size_t i = 0; i < kN; ++i) {
        hn::StoreU(out[i], d, token.out + static_cast<int64_t>(i) * lanes);
    }
}

/// All tokens through columns [first, first + kVectors vectors) of a part.
template <int kVectors, class D>
void run_columns(D d, StateRule rule, const StatePart& part, const StateRun& run, int64_t first) {
    for (int64_t t = 0; t < run.n; ++t) {
        take_in<kVectors>(d, rule, part.state + first, part.n_rows, part.row_step,
                          token_at(run, t, part.first + first));
    }
}

/// The token as columns from `first` on see it.
HWY_INLINE StateToken from_column(const StateToken& token, int64_t first) {
    StateToken part = token;
    part.v += first;
    part.out += first;
    return part;
}

void TakeToken(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
               const StateToken& token) {
    const hn::ScalableTag<float> wide;
    const hn::FixedTag<float, 1> one;
    const auto lanes = static_cast<int64_t>(hn::Lanes(wide));
    int64_t c = 0;
    for (; c + 8 * lanes <= n_columns; c += 8 * lanes) {
        take_in<8>(wide, rule, state + c, n_rows, n_columns, from_column(token, c));
    }
    for (; c + 4 * lanes <= n_columns; c += 4 * lanes) {
        take_in<4>(wide, rule, state + c, n_rows, n_columns, from_column(token, c));
    }
    for (; c + lanes <= n_columns; c += lanes) {
        take_in<1>(wide, rule, state + c, n_rows, n_columns, from_column(token, c));
    }
    for (; c < n_columns; ++c) {
        take_in<1>(one, rule, state + c, n_rows, n_columns, from_column(token, c));
    }
}

template <int kVectors, class D>
HWY_INLINE void read_columns(D d, const float* state, int64_t n_rows, int64_t row_step,
                             const float* x, float* to) {
    using V = hn::Vec<D>;
    constexpr size_t kN = size_t{kVectors};
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    V sum[kN];
    for (size_t i = 0; i < kN; ++i) sum[i] = hn::Zero(d);
    for (int64_t r = 0; r < n_rows; ++r) {
        const V at = hn::Set(d, x[r]);
        const float* row = state + r * row_step;
        for (size_t i = 0; i < kN; ++i) {
            sum[i] = hn::MulAdd(at, hn::LoadU(d, row + static_cast<int64_t>(i) * lanes), sum[i]);
        }
    }
    for (size_t i = 0; i < kN; ++i) {
        hn::StoreU(sum[i], d, to + static_cast<int64_t>(i) * lanes);
    }
}

void ReadState(const float* state, int64_t n_rows, int64_t n_columns, const float* x, float* to) {
    const hn::ScalableTag<float> wide;
    const hn::FixedTag<float, 1> one;
    const auto lanes = static_cast<int64_t>(hn::Lanes(wide));
    int64_t c = 0;
    for (; c + 4 * lanes <= n_columns; c += 4 * lanes) {
        read_columns<4>(wide, state + c, n_rows, n_columns, x, to + c);
    }
    for (; c + lanes <= n_columns; c += lanes) {
        read_columns<1>(wide, state + c, n_rows, n_columns, x, to + c);
    }
    for (; c < n_columns; ++c) read_columns<1>(one, state + c, n_rows, n_columns, x, to + c);
}

float Dot(const float* a, const float* b, int64_t n) {
    const hn::ScalableTag<float> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    auto even = hn::Zero(d);
    auto odd = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
        even = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), even);
        odd = hn::MulAdd(hn::LoadU(d, a + i + lanes), hn::LoadU(d, b + i + lanes), odd);
    }
    float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    for (; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

/// What a step has of what it may have.
template <bool kWrites, bool kLooksOn, bool kHasMore>
struct StepKind {
    static constexpr bool writes = kWrites, looks_on = kLooksOn, has_more = kHasMore;
};

/// kVectors vectors of columns, from column `first` on.
template <int kVectors, class Kind, class D>
HWY_INLINE void step_columns(D d, Kind /*kind*/, StateRule rule, float* state, int64_t n_rows,
                             int64_t n_columns, const StateStep& step, int64_t first) {
    using V = hn::Vec<D>;
    constexpr size_t kN = size_t{kVectors};
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    const auto column = [&](size_t i) { return first + static_cast<int64_t>(i) * lanes; };
    const V stays = hn::Set(d, step.stays);
    V written[kN];
    V out[kN];
    V next[kN];
    for (size_t i = 0; i < kN; ++i) {
        V v = step.v == nullptr ? hn::Zero(d) : hn::LoadU(d, step.v + column(i));
        if (rule == StateRule::kGatedDelta) {
            v = hn::NegMulAdd(stays, hn::LoadU(d, step.read + column(i)), v);
        }
        written[i] = hn::Mul(hn::Set(d, step.write), v);
        out[i] = hn::LoadU(d, step.out + column(i));
        next[i] = hn::Zero(d);
    }
    for (int64_t r = 0; r < n_rows; ++r) {
        const V k = hn::Set(d, Kind::writes ? step.k[r] : 0.0F);
        const V q = hn::Set(d, step.q[r]);
        const V after = hn::Set(d, Kind::looks_on ? step.next_k[r] : 0.0F);
        const int64_t at = r * n_columns + first;
        for (size_t i = 0; i < kN; ++i) {
            const int64_t place = at + static_cast<int64_t>(i) * lanes;
            V s = hn::LoadU(d, state + place);
            if (Kind::has_more) s = hn::Add(s, hn::LoadU(d, step.more + place));
            s = hn::Mul(stays, s);
            if (Kind::writes) s = hn::MulAdd(k, written[i], s);
            hn::StoreU(s, d, state + place);
            out[i] = hn::MulAdd(q, s, out[i]);
            if (Kind::looks_on) next[i] = hn::MulAdd(after, s, next[i]);
        }
    }
    for (size_t i = 0; i < kN; ++i) {
        hn::StoreU(out[i], d, step.out + column(i));
        if (Kind::looks_on) hn::StoreU(next[i], d, step.next_read + column(i));
    }
}

template <class Kind>
void step_all(Kind kind, StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
              const StateStep& step) {
    const hn::ScalableTag<float> wide;
    const hn::FixedTag<float, 1> one;
    const auto lanes = static_cast<int64_t>(hn::Lanes(wide));
    int64_t c = 0;
    for (; c + 4 * lanes <= n_columns; c += 4 * lanes) {
        step_columns<4>(wide, kind, rule, state, n_rows, n_columns, step, c);
    }
    for (; c + lanes <= n_columns; c += lanes) {
        step_columns<1>(wide, kind, rule, state, n_rows, n_columns, step, c);
    }
    for (; c < n_columns; ++c) {
        step_columns<1>(one, kind, rule, state, n_rows, n_columns, step, c);
    }
}

void StepState(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
               const StateStep& step) {
    const auto run = [&](auto kind) { step_all(kind, rule, state, n_rows, n_columns, step); };
    const bool writes = step.v != nullptr || rule == StateRule::kGatedDelta;
    const bool looks_on = step.next_k != nullptr;
    if (step.more != nullptr) {
        // The sum of closed states: written into by the gated rule only.
        if (!writes) return run(StepKind<false, false, true>());
        return looks_on ? run(StepKind<true, true, true>()) : run(StepKind<true, false, true>());
    }
    if (!writes) return run(StepKind<false, false, false>());
    return looks_on ? run(StepKind<true, true, false>()) : run(StepKind<true, false, false>());
}

void RunState(StateRule rule, const StatePart& part, const StateRun& run) {
    const hn::ScalableTag<float> wide;
    const hn::FixedTag<float, 1> one;
    const auto lanes = static_cast<int64_t>(hn::Lanes(wide));
    int64_t c = 0;
    // One token reads a state once, from far away: in rows as long as there are registers for.
    for (; run.n == 1 && c + 8 * lanes <= part.n_columns; c += 8 * lanes) {
        run_columns<8>(wide, rule, part, run, c);
    }
    for (; run.n == 1 && c + 4 * lanes <= part.n_columns; c += 4 * lanes) {
        run_columns<4>(wide, rule, part, run, c);
    }
    for (; c + 2 * lanes <= part.n_columns; c += 2 * lanes) {
        run_columns<2>(wide, rule, part, run, c);
    }
    for (; c + lanes <= part.n_columns; c += lanes) run_columns<1>(wide, rule, part, run, c);
    for (; c < part.n_columns; ++c) run_columns<1>(one, rule, part, run, c);
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

namespace {

constexpr StateRule kRules[] = {StateRule::kScalarDecay, StateRule::kGatedDelta};

HWY_EXPORT(RunState);
HWY_EXPORT(TakeToken);
HWY_EXPORT(ReadState);
HWY_EXPORT(Dot);
HWY_EXPORT(StepState);

}  // namespace

std::string_view to_string(StateRule rule) {
    return rule == StateRule::kScalarDecay ? "scalar-decay" : "gated-delta";
}

StateRule state_rule_named(std::string_view name) {
    std::string names;
    for (const StateRule rule : kRules) {
        if (name == to_string(rule)) return rule;
        names += cat(names.empty() ? "" : ", ", to_string(rule));
    }
    throw Error(ErrorCode::kUnsupported,
                cat("no recurrence is called '", name, "'; there are: ", names));
}

void run_state(StateRule rule, const StatePart& part, const StateRun& run) {
    HWY_DYNAMIC_DISPATCH(RunState)(rule, part, run);
}

void take_token(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
                const StateToken& token) {
    HWY_DYNAMIC_DISPATCH(TakeToken)(rule, state, n_rows, n_columns, token);
}

void read_state(const float* state, int64_t n_rows, int64_t n_columns, const float* x, float* to) {
    HWY_DYNAMIC_DISPATCH(ReadState)(state, n_rows, n_columns, x, to);
}

float dot(const float* a, const float* b, int64_t n) { return HWY_DYNAMIC_DISPATCH(Dot)(a, b, n); }

void step_state(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
                const StateStep& step) {
    HWY_DYNAMIC_DISPATCH(StepState)(rule, state, n_rows, n_columns, step);
}

}  // namespace palimpsest
#endif
