#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "memory/recurrent/state_bank.h"

namespace palimpsest {

/// What a bank of states makes of one layer's inputs. The JSON file's "inputs" has q, k, v, g (the
/// logarithm of the decay), beta for the delta rule, and lambda_dla or lambda_levels: each a "file"
/// of f32 beside it and its "shape", [tokens][head][..]. Returns scores, boundaries, merges, n,
/// information and outputs; of log-linear attention counts and outputs. Throws kNotFound, kCorrupt.
[[nodiscard]] nlohmann::json trace_bank(const std::string& path, const BankOptions& options);

}  // namespace palimpsest
