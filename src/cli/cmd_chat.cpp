// palimpsest chat: a conversation in the terminal.

#include <editline/readline.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/command.h"
#include "cli/memory_flags.h"
#include "cli/sampling_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "engine/default_model.h"
#include "engine/generate.h"
#include "engine/memory_choice.h"
#include "engine/prefix_text.h"
#include "engine/report.h"

namespace palimpsest {

namespace {

constexpr const char* kHelp =
    "  /file PATH   read a document before the next question (repeatable)\n"
    "  /reset       forget the conversation\n"
    "  /stats       what the memory holds and what it let go\n"
    "  /help        this list\n"
    "  /quit        leave (so does Ctrl-D)\n"
    "  Ctrl-C stops an answer. A line that ends in \\ goes on in the next.\n";

struct ChatFlags {
    ModelFlags model;
    TextFlags text;
    AnswerFlags answer;
};

/// Lines from a terminal, with editing and history; plain lines when input is no terminal.
class LineReader {
 public:
    LineReader() : is_terminal_(isatty(STDIN_FILENO) == 1 && output_is_terminal()) {
        if (!is_terminal_) return;
        rl_initialize();
        using_history();
        const auto folder = std::filesystem::path(default_cache_folder());
        std::error_code ignored;
        std::filesystem::create_directories(folder, ignored);
        history_file_ = (folder / "chat_history").string();
        read_history(history_file_.c_str());
    }
    ~LineReader() {
        if (is_terminal_) write_history(history_file_.c_str());
    }
    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    /// False at the end of input. A line left by Ctrl-C comes back empty.
    bool read(const char* prompt, std::string& line) {
        line.clear();
        if (!is_terminal_) return static_cast<bool>(std::getline(std::cin, line));
        char* typed = readline(prompt);
        if (typed == nullptr && take_interrupt()) {
            write_output("\n");
            return true;
        }
        if (typed == nullptr) return false;
        line = typed;
        if (!line.empty()) add_history(typed);
        std::free(typed);  // NOLINT(cppcoreguidelines-no-malloc): readline's contract
        return true;
    }

    [[nodiscard]] bool is_terminal() const { return is_terminal_; }

 private:
    bool is_terminal_;
    std::string history_file_;
};

class Chat {
 public:
    explicit Chat(const ChatFlags& f)
        : flags_(f),
          options_(generate_options(f.answer)),
          engine_(open_session(f.model)),
          tokenizer_(engine_.engine.runtime().loaded().require_tokenizer()) {
        if (!f.answer.chat_template.empty()) {
            tokenizer_.set_chat_template(f.answer.chat_template);
        }
        for (const auto& d : engine_.prefixes) {
            require(
                !d->header().is_raw && f.answer.system.empty() && f.answer.chat_template.empty(),
                "a prefix memory for a chat is what the system says, in the model's own "
                "template; leave out --system and --chat-template, and build it without --raw");
        }
        if (!tokenizer_.has_chat_template()) {
            throw Error(ErrorCode::kUnsupported,
                        "this model has no chat template; name one with --chat-template, or use "
                        "'run --raw'");
        }
    }

    void talk() {
        catch_interrupts();
        LineReader reader;
        if (reader.is_terminal()) {
            write_message(
                dim(cat(engine_.engine.model_name(), ", ", room(), ". /help lists commands.\n")));
        }
        std::string text;
        while (read_message(reader, text)) {
            if (text.empty()) continue;
            try {
                if (text.front() != '/') {
                    answer(text);
                } else if (!command(text)) {
                    return;
                }
            } catch (const Error& e) {
                if (!reader.is_terminal()) throw;  // a script must notice
                write_message(cat(bold("palimpsest: "), e.what(), hint(e.code()), "\n"));
                // What could not be read once would stand in the way of every question.
                if (text.front() == '/' || documents_.empty()) continue;
                documents_.clear();
                write_message(dim("  (documents put aside)\n"));
            }
        }
        if (reader.is_terminal()) write_output("\n");
    }

 private:
    [[nodiscard]] std::string room() const {
        if (is_bounded(flags_.model.memory)) {
            return cat("a memory of ", to_string(parse_budget(flags_.model.memory.budget)));
        }
        return cat(human_count(engine_.session->room()), " tokens of context");
    }

    static std::string hint(ErrorCode code) {
        return code == ErrorCode::kExhausted ? " (/reset starts anew)" : "";
    }

    static bool read_message(LineReader& reader, std::string& text) {
        if (!reader.read("> ", text)) return false;
        std::string more;
        while (text.ends_with('\\')) {
            text.back() = '\n';
            if (!reader.read(". ", more)) break;
            text += more;
        }
        return true;
    }

    /// Runs a line that starts with '/'. False: leave.
    bool command(const std::string& text) {
        if (text == "/quit" || text == "/exit") return false;
        if (text == "/help") {
            write_message(kHelp);
        } else if (text == "/reset") {
            engine_.session->reset();
            documents_.clear();
            unread_.clear();
        } else if (text == "/stats") {
            const Session& session = *engine_.session;
            write_message(report_for_people(session.memory().report(),
                                            {&session.tokens(), &tokenizer_}, terminal_width()));
        } else if (text.starts_with("/file ")) {
            documents_.push_back(
                {prepared(read_file(text.substr(6)), flags_.text, tokenizer_) + "\n\n", true});
            write_message(dim("  it will be read with your next question\n"));
        } else {
            write_message(cat("  no such command: ", text, "; /help lists them\n"));
        }
        return true;
    }

    [[nodiscard]] std::vector<Segment> encode(const std::string& text) const {
        std::vector<TextPart> parts = documents_;
        parts.push_back({prepared(text, flags_.text, tokenizer_), false});
        if (engine_.session->position() > 0) {
            std::vector<Segment> next = tokenizer_.encode_next_turn({"user", parts});
            next.insert(next.begin(), {.tokens = unread_});
            return next;
        }
        if (!engine_.prefixes.empty()) {
            return request_after(*engine_.prefixes.front(), tokenizer_, parts);
        }
        std::vector<ChatMessage> messages;
        if (!flags_.answer.system.empty()) {
            messages.push_back({"system", {{flags_.answer.system, false}}});
        }
        messages.push_back({"user", std::move(parts)});
        return tokenizer_.encode_chat(messages);
    }

    void answer(const std::string& text) {
        ProgressBar bar("reading");
        options_.on_prefill = [&](int64_t done, int64_t total) {
            bar.show(done, total);
            return !interrupted();
        };
        const std::vector<Segment> prompt = encode(text);
        const GenerateResult r =
            generate(*engine_.session, tokenizer_, prompt, options_, [&](std::string_view piece) {
                bar.clear();
                write_output(piece);
                return !interrupted();
            });
        bar.clear();
        write_output("\n");
        documents_.clear();
        // The last token was picked but not read, unless the model ended the answer itself.
        unread_.clear();
        if (r.reason != StopReason::kEndToken && !r.tokens.empty()) {
            unread_.push_back(r.tokens.back());
        }
        if (take_interrupt()) {
            write_message(dim("  (stopped)\n"));
            // A prompt half read cannot be taken back, and would puzzle the model later.
            if (r.tokens.empty()) engine_.session->reset();
        }
        if (r.reason == StopReason::kLength) write_message(dim("  (cut at its length)\n"));
    }

    const ChatFlags& flags_;
    GenerateOptions options_;
    OpenedSession engine_;
    Tokenizer& tokenizer_;
    std::vector<TextPart> documents_;
    std::vector<TokenId> unread_;
};

}  // namespace

void add_chat(CLI::App& command) {
    auto f = std::make_shared<ChatFlags>();
    f->answer.sampling.temperature = 0.7F;  // the likeliest token every time runs in circles
    add_model_flags(command, f->model);
    add_prefix_flags(command, f->model);
    add_memory_flags(command, f->model.memory);
    add_answer_flags(command, f->answer);
    add_text_flags(command, f->text);
    command.footer(cat("\nIn the conversation:\n", kHelp));
    command.callback([f] { Chat(*f).talk(); });
}

}  // namespace palimpsest
