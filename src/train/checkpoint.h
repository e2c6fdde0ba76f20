#pragma once

#include <string>

#include "train/optimizer.h"
#include "train/parameters.h"

namespace palimpsest {

/// Everything that a training goes on from: a GGUF file with every parameter and its two moments,
/// f32. What else there is follows from the number of steps and the settings: random numbers are
/// drawn anew for every step, and documents come in an order that the seed fixes.
///
/// Written whole or not at all. Throws as GgufWriter::write() does.
void write_checkpoint(const std::string& path, const Parameters& parameters,
                      const Optimizer& optimizer, const std::string& settings);

/// Throws kNotFound if there is none, kCorrupt for a damaged one, kInvalidArgument if it was
/// written with other settings. Changes nothing unless all of it is good.
void read_checkpoint(const std::string& path, Parameters& parameters, Optimizer& optimizer,
                     const std::string& settings);

}  // namespace palimpsest
