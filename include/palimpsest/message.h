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

/// A tool that an assistant called.
struct MessageCall {
    std::string id, name;
    std::string arguments;  // JSON
};

/// One message of a conversation. Roles are "system", "user", "assistant" and "tool".
struct ChatMessage {
    std::string role;
    std::vector<TextPart> parts = {};
    std::string reasoning = {};           // an assistant's, before it spoke
    std::vector<MessageCall> calls = {};  // an assistant's
    std::string call_id = {}, name = {};  // of role "tool": what it answers, and of which tool
};

}  // namespace palimpsest

#pragma GCC visibility pop
