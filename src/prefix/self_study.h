#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/prefix_text.h"
#include "prefix/prefix_check.h"

namespace palimpsest {

/// Lets the model ask itself about a prefix and answer (cf. Cartridges, arXiv:2506.06266), n times.
/// They are kept as JSON lines in BESIDE.HASH.jsonl, the hash being of model, text and seed; what
/// is there already is taken from there. Throws kInvalidArgument for a raw prefix, and for one that
/// the model has nothing to ask about.
std::vector<TraceText> self_study(const PrefixRuntime& with, const PrefixText& text, int64_t n,
                                  uint64_t seed, const std::string& beside);

}  // namespace palimpsest
