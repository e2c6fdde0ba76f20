#pragma once

#include <CLI/CLI.hpp>

namespace palimpsest {

// Subcommands of `palimpsest train`, one file each.

void add_train_latent_context(CLI::App& parent);
void add_train_linear(CLI::App& parent);

}  // namespace palimpsest
