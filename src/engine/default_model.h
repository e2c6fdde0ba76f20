#pragma once

#include <string>

namespace palimpsest {

/// Where set-up and programs keep what need not be made again: $PALIMPSEST_CACHE,
/// $XDG_CACHE_HOME/palimpsest or ~/.cache/palimpsest. The folder need not exist.
[[nodiscard]] std::string default_cache_folder();

/// Where a model is looked for when none is named: $PALIMPSEST_MODEL, else the model that set-up
/// fetched, in models/ of default_cache_folder(). The file need not exist.
[[nodiscard]] std::string default_model_path();

}  // namespace palimpsest
