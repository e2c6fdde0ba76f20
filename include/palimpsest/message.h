#pragma once

#include <string>
#include <vector>

#pragma GCC visibility push(default)

namespace palimpsest {

/// Part of a message: what somebody said, or a document they brought along.
struct TextPart {
    std::string text;
    bool is_context =
        false;          // a document: what may be compressed; false: a question, an instruction
    bool keep = false;  // must never be forgotten
};

/// One message of a conversation. Roles are "system", "user" and "assistant".
struct ChatMessage {
    std::string role;
    std::vector<TextPart> parts;
};

}  // namespace palimpsest

#pragma GCC visibility pop
