#pragma once

#include <CLI/CLI.hpp>

#include "train/linear/linear_training.h"

namespace palimpsest {

/// Flags of the task, the shape and the steps, which 'train linear' and 'bench linear' share.
void add_linear_flags(CLI::App& command, LinearTrainingOptions& o);

}  // namespace palimpsest
