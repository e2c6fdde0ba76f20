#pragma once

#include "support/task_files.h"

namespace palimpsest::testing {

/// What commands can work on: a tiny model (m.gguf), texts, traces, token ids, results.
void fill_for_walk(TemporaryFolder& folder);

}  // namespace palimpsest::testing
