#pragma once

#include <memory>
#include <string>
#include <vector>

#include "palimpsest/message.h"
#include "server/api/answer_form.h"
#include "server/api/routes.h"
#include "server/scheduler/work.h"
#include "server/service.h"
#include "text/tool_calls.h"

namespace palimpsest {

/// What a request comes to, whatever API it speaks.
struct ChatTask {
    std::string id = {};  // of the response
    std::vector<ChatMessage> messages = {};
    ToolRequest tools = {};
    AnswerOptions answer = {};
    std::string schema = {};  // JSON schema that the answer must fit; empty: none
    int64_t n_answers = 1;
    MemoryChoice memory = {};
    MemoryDetail detail = MemoryDetail::kSummary;
    std::vector<std::string> keep = {};   // texts that must never be forgotten
    std::string session = {}, from = {};  // as Work has them
    bool is_private = false;              // not listed, not saved
    bool is_streamed = false;
    std::string messages_json = "[]";  // as they were sent
    int64_t n_messages = 0;            // in it
    /// A text instead of a conversation; then there are no messages.
    std::vector<TextPart> raw = {};
    /// Tokens instead; then there is neither.
    std::vector<TokenId> tokens = {};
};

/// With what a server assumes where a request says nothing.
[[nodiscard]] ChatTask new_task(const Service& service, std::string_view prefix);

/// Writes the prompt, hands it to the scheduler, and answers in a form.
void answer_task(Service& service, const Call& call, ChatTask task,
                 std::unique_ptr<AnswerForm> form);

/// Tokens of a prompt, as it would be read.
[[nodiscard]] std::vector<Segment> prompt_of(Service& service, const ChatTask& task);

// What several APIs have in common. Each throws ApiError with the field's name.

/// temperature, top_p, seed, penalties, ... by the names that OpenAI gives them.
void read_sampling(const Service& service, const Fields& fields, ChatTask& task);
/// Texts that end an answer, by a field of that name.
void read_stops(const Service& service, const Fields& fields, std::string_view name,
                ChatTask& task);
/// The object `memory`.
void read_memory(const Service& service, const Fields& fields, ChatTask& task);
/// The list `tools`, whatever is in it; empty: there are none.
[[nodiscard]] const RequestJson& tools_in(const Service& service, const Fields& fields);
/// `tool_choice`, as OpenAI's APIs have it, once the tools are known.
void read_tool_choice(const Fields& fields, ChatTask& task);
/// {"type": "text" | "json_object" | "json_schema", ...}, the schema in an object of the name
/// `nested`; empty: beside the type.
void read_format(const Service& service, const Fields& format, std::string_view nested,
                 ChatTask& task);
/// A JSON schema; checked, and no larger than it may be.
void set_schema(const Service& service, const RequestJson& schema, const std::string& path,
                ChatTask& task);
/// Has the model only this tool, and must it be called?
void force_tool(const std::string& name, const std::string& path, ChatTask& task);
/// The name that a client gives a conversation, in a header or in `prompt_cache_key`.
[[nodiscard]] std::string session_of(const Call& call, const Fields& fields);
/// Base64 or a data URL of UTF-8 text.
[[nodiscard]] std::string text_of_data(const std::string& data, const std::string& path);
/// Messages as OpenAI's chat completions have them.
[[nodiscard]] std::string chat_json(const std::vector<ChatMessage>& messages);
/// So that whoever comes back finds them.
void remember_messages(ChatTask& task);
/// A result names the tool it is of, which some templates want.
void name_results(std::vector<ChatMessage>& messages);
/// The first words of the first question, for people.
[[nodiscard]] std::string title_of(const std::vector<ChatMessage>& messages);

}  // namespace palimpsest
