#pragma once

#include <cstdint>
#include <string_view>

namespace palimpsest {

/// How a token changes a state S [n_rows][n_columns], with a = exp(decay) and w = write (1 where
/// there is none). The state is read after the change: o = S^T q.
enum class StateRule {
    kScalarDecay,  // S <- a S + w k v^T                                (Mamba-2)
    kGatedDelta,   // S <- a S;  S <- S + w k (v - S^T k)^T             (Gated DeltaNet)
};

/// "scalar-decay", "gated-delta". Throws kUnsupported, listing them, for another name.
[[nodiscard]] StateRule state_rule_named(std::string_view name);
[[nodiscard]] std::string_view to_string(StateRule rule);

/// Tokens that one head takes in, in order. Steps are counted in values, from token to token.
struct StateRun {
    int64_t n = 0;
    const float* q = nullptr;  // [n][n_rows]
    const float* k = nullptr;  // [n][n_rows]
    int64_t key_step = 0;
    const float* v = nullptr;  // [n][n_columns]
    int64_t value_step = 0;
    const float* decay = nullptr;  // [n]; nullptr: nothing goes
    const float* write = nullptr;  // [n]; nullptr: 1
    int64_t decay_step = 0, write_step = 0;
    float skip = 0;        // of v, in what is read
    float* out = nullptr;  // [n][n_columns]
    int64_t out_step = 0;
};

/// Columns of a state: those of another part depend on none of these, so parts may be run apart.
struct StatePart {
    float* state = nullptr;  // [n_rows][row_step], at the first of its columns
    int64_t n_rows = 0, row_step = 0;
    int64_t first = 0, n_columns = 0;
};

/// Columns that a part should have: their state stays in the nearest cache.
inline constexpr int64_t kPartColumns = 32;

/// One token, for a whole state [n_rows][n_columns]: of runs that must stop after each.
struct StateToken {
    const float *q = nullptr, *k = nullptr, *v = nullptr;
    float stays = 1, write = 1, skip = 0;
    float* out = nullptr;
};
void take_token(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
                const StateToken& token);
/// to = S^T x
void read_state(const float* state, int64_t n_rows, int64_t n_columns, const float* x, float* to);

/// a . b
[[nodiscard]] float dot(const float* a, const float* b, int64_t n);

/// One token through a state whose S^T k is known, and the same of the next token, in one pass.
struct StateStep {
    const float *q = nullptr, *k = nullptr;
    const float* v = nullptr;     // nullptr: nothing is written
    const float* read = nullptr;  // S^T k of the state as it was; only the gated rule needs it
    const float* more = nullptr;  // a state that is added to it first; `read` is of both
    float stays = 1, write = 1;   // stays 0: a state that begins with this token
    float* out = nullptr;         // S^T q of the state as it is then is added to this
    /// Where there is a next token; of no use to a state that is not written into.
    const float* next_k = nullptr;
    float* next_read = nullptr;  // S^T next_k
};
void step_state(StateRule rule, float* state, int64_t n_rows, int64_t n_columns,
                const StateStep& step);

/// A token's results are the same bits however tokens come in runs.
void run_state(StateRule rule, const StatePart& part, const StateRun& run);

}  // namespace palimpsest
