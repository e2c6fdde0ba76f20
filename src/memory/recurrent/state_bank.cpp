#include "memory/recurrent/state_bank.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/finite.h"
#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

constexpr std::array<BankKind, 6> kKinds = {{
    {"single", "one state, as the model has it", make_single_bank},
    {"dla", "a state for every stretch alike in content; the least informative neighbours merge",
     make_dynamic_bank},
    {"ward", "the same boundaries; neighbours merge whose means are nearest", make_ward_bank},
    {"equal", "a state for every block of tokens; the least informative neighbours merge",
     make_equal_bank},
    {"random", "boundaries by lot; the least informative neighbours merge", make_random_bank},
    {"log-linear", "states of 1, 1, 2, 4, 8 ... tokens, as a Fenwick tree has them",
     make_log_linear_bank},
}};

const BankKind& find_kind(std::string_view name) {
    std::vector<std::string_view> names;
    for (const BankKind& kind : kKinds) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("bank of states", name, names));
}

constexpr std::array<std::string_view, 3> kClosed = {"transition", "decay", "nothing"};  // by value

}  // namespace

ClosedStates closed_states_named(std::string_view name) {
    const auto* const found = std::ranges::find(kClosed, name);
    if (found != kClosed.end()) return static_cast<ClosedStates>(found - kClosed.begin());
    throw Error(ErrorCode::kInvalidArgument,
                cat("closed states '", name, "'; there are: transition, decay, nothing"));
}

std::span<const BankKind> bank_kinds() { return kKinds; }

BankOptions read_bank_options(const OptionMap& settings) {
    OptionReader reader("a bank of states", settings);
    BankOptions o;
    o.name = reader.text("bank", o.name);
    static_cast<void>(find_kind(o.name));
    o.n_states = reader.integer("states", o.n_states, 1, 4096);
    if (o.name == "single") o.n_states = 1;
    o.threshold =
        static_cast<float>(reader.number("threshold", static_cast<double>(o.threshold), -1e6, 1e6));
    o.closed = closed_states_named(reader.text("closed", "transition"));
    o.first_score = static_cast<float>(reader.number("first-score", 0, 0, 1e6));
    o.block = reader.integer("block", o.block, 1, int64_t{1} << 30);
    o.rate = reader.number("rate", o.rate, 0, 1);
    o.seed = static_cast<uint64_t>(reader.integer("seed", 1, 0, int64_t{1} << 62));
    reader.finish();
    return o;
}

std::string to_string(const BankOptions& o) {
    return cat(o.name, ":states=", o.n_states, ";threshold=", o.threshold,
               ";closed=", kClosed.at(static_cast<size_t>(o.closed)),
               ";first-score=", o.first_score, ";block=", o.block, ";rate=", o.rate,
               ";seed=", o.seed);
}

std::unique_ptr<HeadBank> make_bank(const BankShape& shape, const BankOptions& options) {
    return find_kind(options.name).make(shape, options);
}

void refuse_states(const std::string& why) {
    throw Error(ErrorCode::kCorrupt, cat("the saved memory does not fit: it has ", why));
}

std::vector<float> take_states(std::istream& in, size_t n) {
    std::vector<float> values = take_all<float>(in, static_cast<int64_t>(n));
    if (values.size() != n) refuse_states(cat("states of ", values.size(), " values, not ", n));
    if (!is_finite(values)) refuse_states("a state that holds what is not a number");
    return values;
}

void pass_token(const BankShape& shape, float* state, const BankToken& token,
                const StatePass& pass) {
    const auto n = static_cast<size_t>(shape.n_columns);
    const bool moves = pass.moves != ClosedStates::kNothing;
    const bool erases = pass.moves == ClosedStates::kTransition;
    take_token(erases ? shape.rule : StateRule::kScalarDecay, state, shape.n_rows, shape.n_columns,
               {.q = token.q,
                .k = token.k,
                .v = pass.writes ? token.v : pass.scratch.data() + n,
                .stays = moves ? token.stays : 1.0F,
                .write = token.write,
                .out = pass.scratch.data()});
    for (size_t c = 0; c < n; ++c) token.out[c] += pass.weight * pass.scratch[c];
}

}  // namespace palimpsest
