#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "palimpsest/engine.h"
#include "palimpsest/generation.h"
#include "palimpsest/memory_choice.h"
#include "palimpsest/message.h"
#include "palimpsest/report.h"

#pragma GCC visibility push(default)

namespace palimpsest {

class Regions;
class Session;

struct ConversationOptions {
    MemoryChoice memory = {};
    std::string system = {};  // what the model is told before everything else
    /// A name that libllama knows, a file with a Jinja template, or its text; empty: the model's
    /// own.
    std::string chat_template = {};
    bool is_raw = false;  // no template: texts go in as they are
    /// What stands for documents, instead of their tokens: LatentContext::regions(). nullptr: they
    /// are read as text.
    std::shared_ptr<const Regions> regions = nullptr;
};

/// Turns with one model over one memory. It knows what was read, keeps within the memory that was
/// chosen, and says what of it is still held.
///
///     Engine engine({.model = "model.gguf"});
///     Conversation talk(engine, {.memory = {.budget = "1024"}});
///     const auto turn = {TextPart{document, true}, TextPart{"What was decided?"}};
///     std::cout << talk.ask(turn).run().text << talk.report_text();
class Conversation {
 public:
    /// `engine` must outlive the conversation. Throws Error: kInvalidArgument for options that
    /// contradict each other, kNotFound and kCorrupt for files.
    explicit Conversation(const Engine& engine, const ConversationOptions& options = {});
    ~Conversation();
    Conversation(Conversation&&) noexcept;
    Conversation& operator=(Conversation&&) noexcept;
    Conversation(const Conversation&) = delete;
    Conversation& operator=(const Conversation&) = delete;

    /// What a user should know of the memory, the model and the template; often nothing.
    [[nodiscard]] const std::vector<std::string>& notes() const;

    /// Begins a turn: documents and what is asked of them. Throws kInvalidArgument for a text that
    /// is no UTF-8 and for options that cannot work. Nothing is read before the first step, which
    /// throws kExhausted for a prompt that does not fit; the conversation is then as it was. One
    /// turn at a time.
    [[nodiscard]] Generation ask(const std::vector<TextPart>& parts,
                                 const AnswerOptions& options = {});
    [[nodiscard]] Generation ask(const std::string& question, const AnswerOptions& options = {});
    /// Begins an answer to a conversation that others had, from its first message on. Nothing may
    /// have been read before. Where it ends with the assistant's words, the answer goes on there.
    /// Throws kInvalidArgument otherwise, and where a prefix memory is what the system says and the
    /// messages have a system of their own.
    [[nodiscard]] Generation reply(const std::vector<ChatMessage>& messages,
                                   const AnswerOptions& options = {});
    /// The same in token ids, with no template: for models without words.
    [[nodiscard]] Generation go_on_from(const std::vector<int32_t>& tokens,
                                        const AnswerOptions& options = {});

    /// What the memory holds and what it let go.
    [[nodiscard]] MemoryReport report() const;
    /// The same for people, `width` columns wide; and as JSON (docs/formats.md).
    [[nodiscard]] std::string report_text(int width = 100) const;
    [[nodiscard]] std::string report_json() const;

    /// Positions in what was read of the entries that a KV head still holds, ascending; empty for a
    /// layer that keeps none. `layer` and `head` as in report().layers.
    [[nodiscard]] std::vector<int32_t> held_positions(int64_t layer, int64_t head) const;

    /// Do texts go in as they are, with no chat template around them?
    [[nodiscard]] bool is_raw() const;

    /// Tokens read so far, and how many more can be.
    [[nodiscard]] int64_t position() const;
    [[nodiscard]] int64_t room() const;

    /// Between two turns: the whole state as a file, written whole or not at all, and back. The
    /// same model and the same memory must be chosen. Throws kInvalidArgument for another model's
    /// or another template's, kCorrupt for what does not fit, kNotFound and kExhausted for the
    /// file.
    void save(const std::string& path) const;
    void load(const std::string& path);

    /// Forgets everything; the conversation is as new.
    void reset();

    /// What it runs in; for this project's own programs.
    [[nodiscard]] Session& session() const;

 private:
    friend class Generation;
    friend class DocumentMemory;
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace palimpsest

#pragma GCC visibility pop
