#pragma once

#include <string>
#include <string_view>

#include "memory/policy/eviction_weights.h"
#include "train/objective.h"

namespace palimpsest {

/// Writes what was trained as a sidecar (docs/formats.md): `part` is the
/// ObjectiveKind's. Other
/// parts come from the sidecar at `keep_from`, unless that is empty; it must be this
/// model's, its channels in the model's order (else kUnsupported).
/// `unfinished` says how far a training is that goes on ("step 50 of 200"), else it is empty: such
/// a part is used only by who names it. Written whole or not at all, so `path` may be `keep_from`.
/// Throws as GgufFile::open() and GgufWriter do.
void write_sidecar(const std::string& path, const std::string& keep_from, std::string_view part,
                   Objective& trained, const MemoryShape& shape, const BaseModel& base,
                   const std::string& unfinished = {});

}  // namespace palimpsest
