#pragma once

#include "engine/session.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// What asks a model to repeat what it has read, for policies that learn from that; in our words.
RehearsalTexts rehearsal_texts(const Tokenizer& tokenizer);

}  // namespace palimpsest
