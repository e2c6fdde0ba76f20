#pragma once

#include <CLI/CLI.hpp>

namespace palimpsest {

/// Declares 'train latent-context'.
void add_train_latent_context(CLI::App& parent);

}  // namespace palimpsest
