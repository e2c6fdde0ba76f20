#pragma once

#include <memory>
#include <string>
#include <vector>

#include "palimpsest/conversation.h"

#pragma GCC visibility push(default)

namespace palimpsest {

struct DocumentMemoryOptions {
    ConversationOptions conversation = {};
    /// What will be asked, if it is known: what is kept is chosen for it. Other questions can be
    /// asked all the same.
    std::string question = {};
};

/// Documents that are read once, within a memory's budget, and asked any number of questions. Each
/// finds the memory as reading left it: what a question and its answer added is dropped again.
///
///     DocumentMemory memory(engine, {{report}}, {.conversation = {.memory = {.budget = "1024"}}});
///     memory.read();
///     std::cout << memory.ask("Who signed it?").run().text;
class DocumentMemory {
 public:
    /// Reads nothing yet. `engine` must outlive it. Every part is a document, whatever it says of
    /// itself. Throws as Conversation does, and kInvalidArgument if there is nothing to read or the
    /// model has no words.
    DocumentMemory(const Engine& engine, const std::vector<TextPart>& documents,
                   const DocumentMemoryOptions& options = {});
    /// What save() wrote, of the same model and the same choice of a memory. Throws as
    /// Conversation::load() does.
    [[nodiscard]] static DocumentMemory load(const Engine& engine, const std::string& path,
                                             const ConversationOptions& options);
    ~DocumentMemory();
    DocumentMemory(DocumentMemory&&) noexcept;
    DocumentMemory& operator=(DocumentMemory&&) noexcept;
    DocumentMemory(const DocumentMemory&) = delete;
    DocumentMemory& operator=(const DocumentMemory&) = delete;

    /// Reads one chunk, or has one repeated. Returns false when all is read. Throws kExhausted for
    /// documents that do not fit.
    bool read_step();
    /// Steps to the end.
    void read();
    [[nodiscard]] bool is_read() const;
    [[nodiscard]] Generation::Progress progress() const;

    /// Begins an answer, which ends before the next one begins. Throws kInvalidArgument before all
    /// is read.
    [[nodiscard]] Generation ask(const std::string& question, const AnswerOptions& options = {});

    /// Another memory of the same, to be asked beside this one; and a file for later. Both of what
    /// reading left.
    [[nodiscard]] DocumentMemory fork() const;
    void save(const std::string& path) const;

    /// What is held of what was read, and of the last question until the next one begins.
    [[nodiscard]] const Conversation& conversation() const;
    /// Tokens of documents, with what the template puts before them.
    [[nodiscard]] int64_t n_read() const;

 private:
    struct Parts;
    explicit DocumentMemory(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

}  // namespace palimpsest

#pragma GCC visibility pop
