#pragma once

#include "model/load.h"

namespace palimpsest::testing {

/// Uses every part of a vocabulary. Throws Error if one of them cannot be used.
void use_tokenizer(const Tokenizer& tokenizer);

/// Reads four tokens with a model, and uses its vocabulary if it has one.
void use_model(const LoadedModel& loaded, Backend& backend);

}  // namespace palimpsest::testing
