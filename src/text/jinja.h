#pragma once

#include <memory>
#include <string>

#include "text/chat_template.h"

namespace palimpsest {

// What libllama-common does for us. Its interface is internal to llama.cpp, so that nothing but
// jinja.cpp includes it.

/// Throws kUnsupported for a template that does not parse, or cannot be rendered safely.
[[nodiscard]] std::unique_ptr<const ChatTemplate> make_jinja_template(
    const std::string& text, const ChatTemplate::Tokens& tokens);

}  // namespace palimpsest
