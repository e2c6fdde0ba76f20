#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/option_reader.h"
#include "memory/recurrent/state_kernel.h"

namespace palimpsest {

// A head that keeps several states of consecutive stretches of what it read, and reads a weighted
// sum of them ("Dynamic Linear Attention", arXiv:2606.10650; "Log-Linear Attention",
// arXiv:2506.04761).

/// What becomes of states that take in no tokens any more.
enum class ClosedStates {
    kTransition,  // the layer's whole rule, as the open one: all states add up to the single one
    kDecay,       // they decay, but nothing is erased from them
    kNothing,     // they stay as they are
};
[[nodiscard]] ClosedStates closed_states_named(std::string_view name);

struct BankOptions {
    std::string name = "dla";  // one of bank_kinds()
    int64_t n_states = 12;     // a head, at most
    float threshold = 0.6F;  // a token that is further than this from the open state opens another
    ClosedStates closed = ClosedStates::kTransition;
    float first_score = 0.0F;  // that the first token is given
    int64_t block = 64;        // equal blocks: tokens in one
    double rate = 0.125;       // random boundaries: how many tokens open a state
    uint64_t seed = 1;
};

/// What one token brings to a head.
struct BankToken {
    const float* q = nullptr;  // [n_rows]
    const float* k = nullptr;  // [n_rows]
    const float* v = nullptr;  // [n_columns]
    float stays = 1.0F;        // of every state
    float write = 1.0F;
    const float* weights = nullptr;  // of states, the open one first; nullptr: 1
    /// Does it open a state? nullptr: the bank decides. Banks by the clock do not ask.
    const bool* opens = nullptr;
    float* out = nullptr;  // [n_columns]
    /// The key of the next token, if that is known: what it reads is found in the same pass.
    const float* next_k = nullptr;
};

/// What a head decided for its last token.
struct BankDecision {
    float score = 0;      // how far the token was from the open state
    bool opens = false;   // a new state, or would have if there were more than one
    int64_t merged = -1;  // this state and the next became one before; -1: none did
};

/// One state as it is.
struct BankState {
    /// [n_rows][n_columns]. Of closed states that are held as their sum, the first has the sum, the
    /// others none.
    std::span<const float> values;
    int64_t n = 0;          // tokens
    float information = 0;  // their scores
};

/// The states of one head. Not thread-safe.
class HeadBank {
 public:
    HeadBank() = default;
    virtual ~HeadBank() = default;
    HeadBank(const HeadBank&) = delete;
    HeadBank& operator=(const HeadBank&) = delete;

    virtual void take_in(const BankToken& token) = 0;
    virtual void reset() = 0;
    /// Oldest first; of levels, the finest first.
    [[nodiscard]] virtual std::vector<BankState> states() const = 0;
    [[nodiscard]] virtual const BankDecision& decision() const = 0;
    [[nodiscard]] virtual size_t bytes() const = 0;

    /// All that what follows depends on.
    virtual void save(std::ostream& out) const = 0;
    /// Throws kCorrupt for what such a bank cannot have come to; it is then as new.
    virtual void load(std::istream& in) = 0;
};

struct BankShape {
    StateRule rule = StateRule::kScalarDecay;
    int64_t n_rows = 0, n_columns = 0;
    /// Will tokens weigh states? If not, closed ones that are read, and change, all in the same way
    /// are held as their sum: the answers are the same, in the bytes of two states.
    bool are_weighed = true;
    [[nodiscard]] size_t values() const { return static_cast<size_t>(n_rows * n_columns); }
};

/// A line a kind.
struct BankKind {
    std::string_view name, summary;
    /// Throws kInvalidArgument for options outside their range.
    std::unique_ptr<HeadBank> (*make)(const BankShape& shape, const BankOptions& options);
};
[[nodiscard]] std::span<const BankKind> bank_kinds();

/// "bank" (a name; "dla" where none is given), "states", "threshold", "closed", "first-score",
/// "block", "rate", "seed". Throws as OptionReader does.
[[nodiscard]] BankOptions read_bank_options(const OptionMap& settings);
/// The same as text: two that are equal make equal banks.
[[nodiscard]] std::string to_string(const BankOptions& options);

/// Throws kNotFound, listing the names, for an unknown one.
std::unique_ptr<HeadBank> make_bank(const BankShape& shape, const BankOptions& options);

// One a file.
std::unique_ptr<HeadBank> make_single_bank(const BankShape& shape, const BankOptions& options);
std::unique_ptr<HeadBank> make_dynamic_bank(const BankShape& shape, const BankOptions& options);
std::unique_ptr<HeadBank> make_ward_bank(const BankShape& shape, const BankOptions& options);
std::unique_ptr<HeadBank> make_equal_bank(const BankShape& shape, const BankOptions& options);
std::unique_ptr<HeadBank> make_random_bank(const BankShape& shape, const BankOptions& options);
std::unique_ptr<HeadBank> make_log_linear_bank(const BankShape& shape, const BankOptions& options);

// ---- what banks do with states [n_rows][n_columns] ----

/// What saved states are refused with. Throws kCorrupt.
[[noreturn]] void refuse_states(const std::string& why);
/// States of `n` values, all of them numbers.
[[nodiscard]] std::vector<float> take_states(std::istream& in, size_t n);

/// How one state takes part in a token.
struct StatePass {
    ClosedStates moves = ClosedStates::kTransition;  // what becomes of it
    bool writes = false;                             // then k v^T is written into it
    float weight = 1;                                // and so much of what is read of it counts
    std::span<float> scratch = {};                   // 2 n_columns values, the second half zeros
};
/// out += weight S^T q, of the state as the token left it.
void pass_token(const BankShape& shape, float* state, const BankToken& token,
                const StatePass& pass);

}  // namespace palimpsest
