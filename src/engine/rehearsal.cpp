#include "engine/rehearsal.h"

namespace palimpsest {

RehearsalTexts rehearsal_texts(const Tokenizer& tokenizer) {
    return {.first = tokenizer.encode("\n\nRepeat the text above, word for word."),
            .later = tokenizer.encode("\n\nRepeat the part of the text above that starts with:"),
            .answer = tokenizer.encode("\n\n")};
}

}  // namespace palimpsest
