// palimpsest chat: a conversation in the terminal.

#include <editline/readline.h>
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/memory_flags.h"
#include "cli/sampling_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "engine/default_model.h"
#include "engine/memory_choice.h"
#include "memory/budget.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr const char* kHelp =
    "  /file PATH   read a document before the next question (repeatable)\n"
    "  /reset       forget the conversation\n"
    "  /stats       what the memory holds and what it let go\n"
    "  /save PATH   save the conversation; /load PATH goes on from it, with the same model and "
    "memory\n"
    "  /help        this list\n"
    "  /quit        leave (so does Ctrl-D)\n"
    "  Ctrl-C stops an answer. A line that ends in \\ goes on in the next.\n";

struct ChatFlags {
    ModelFlags model;
    TextFlags text;
    AnswerFlags answer;
};

/// The terminal's letters are UTF-8, whatever the locale says; its way of writing numbers and dates
/// is not asked for.
void take_utf8() {
    // NOLINTBEGIN(concurrency-mt-unsafe): there is no other thread yet.
    const bool is_set = std::setlocale(LC_CTYPE, "") != nullptr;
    if (is_set && std::string_view(nl_langinfo(CODESET)) == "UTF-8") return;
    if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "en_US.UTF-8");
    // NOLINTEND(concurrency-mt-unsafe)
}

/// Lines from a terminal, with editing and history; plain lines when input is no terminal.
class LineReader {
 public:
    LineReader() : is_terminal_(isatty(STDIN_FILENO) == 1 && output_is_terminal()) {
        if (!is_terminal_) return;
        take_utf8();
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
        if (!is_terminal_) {
            const bool is_there = static_cast<bool>(std::getline(std::cin, line));
            if (line.ends_with('\r')) line.pop_back();  // of a script from Windows
            return is_there;
        }
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
          options_(answer_options(f.answer)),
          engine_(open_engine(f.model)),
          tokenizer_(engine_.runtime().loaded().require_tokenizer()),
          latent_(open_latent(engine_, f.model)),
          conversation_(begin_conversation(engine_, f.model, f.answer, false,
                                           latent_ ? &*latent_ : nullptr)) {
        if (!conversation_.is_raw()) {
            write_notes(conversation_.notes());
            return;
        }
        require(f.model.memory.prefixes.empty(),
                "a prefix memory for a chat is what the system says, in the model's own template; "
                "build it without --raw");
        throw Error(ErrorCode::kUnsupported,
                    "this model has no chat template; name one with --chat-template, or use "
                    "'run --raw'");
    }

    void talk() {
        catch_interrupts();
        LineReader reader;
        if (reader.is_terminal()) {
            write_message(dim(
                cat(printable(engine_.model_name()), ", ", room(), ". /help lists commands.\n")));
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
                write_message(
                    cat(bold("palimpsest: "), printable_lines(e.what()), hint(e.code()), "\n"));
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
        return cat(human_count(conversation_.room()), " tokens of context");
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
            conversation_.reset();
            documents_.clear();
        } else if (text == "/stats") {
            write_message(printable_lines(conversation_.report_text(terminal_width())));
        } else if (text.starts_with("/save ")) {
            save(text.substr(6));
            write_message(dim("  saved; /load goes on from here\n"));
        } else if (text.starts_with("/load ")) {
            conversation_.load(text.substr(6));
            documents_.clear();
            write_message(dim(cat("  ", human_count(conversation_.position()), " tokens\n")));
        } else if (text.starts_with("/file ")) {
            documents_.push_back(
                {prepared(read_file(text.substr(6)), flags_.text, tokenizer_) + "\n\n", true});
            read_.push_back(text.substr(6));
            write_message(dim("  it will be read with your next question\n"));
        } else {
            write_message(cat("  no such command: ", printable(text), "; /help lists them\n"));
        }
        return true;
    }

    /// What the conversation reads must stay.
    void save(const std::string& path) {
        const NamedFile to = {"/save", path};
        std::vector<NamedFile> read = files_read(flags_.model);
        for (const std::string& file : read_) read.push_back({"/file", file});
        require_apart({&to, 1}, read);
        conversation_.save(path);
    }

    void answer(const std::string& text) {
        ProgressBar bar("reading");
        std::vector<TextPart> parts = documents_;
        parts.push_back({prepared(text, flags_.text, tokenizer_), false});
        Generation answer = conversation_.ask(parts, options_);
        const GenerateResult r = answer.run(
            [&](std::string_view piece) {
                bar.clear();
                write_answer(piece);
                return !interrupted();
            },
            [&](const Generation::Progress& p) {
                if (p.total > 0) bar.show(p.done, p.total);
                return !interrupted();
            });
        bar.clear();
        write_output("\n");
        documents_.clear();
        if (take_interrupt()) {
            write_message(dim("  (stopped)\n"));
            // A prompt half read cannot be taken back, and would puzzle the model later.
            if (r.tokens.empty()) conversation_.reset();
        }
        if (r.reason == StopReason::kLength) write_message(dim("  (cut at its length)\n"));
    }

    const ChatFlags& flags_;
    AnswerOptions options_;
    Engine engine_;
    const Tokenizer& tokenizer_;
    std::optional<LatentContext> latent_;
    Conversation conversation_;
    std::vector<TextPart> documents_;
    std::vector<std::string> read_;  // files of all documents so far
};

}  // namespace

void add_chat(CLI::App& command) {
    auto f = std::make_shared<ChatFlags>();
    f->answer.sampling.temperature = 0.7F;  // the likeliest token every time runs in circles
    add_model_flags(command, f->model);
    add_prefix_flags(command, f->model);
    add_latent_flags(command, f->model);
    add_memory_flags(command, f->model.memory);
    add_answer_flags(command, f->answer);
    add_text_flags(command, f->text);
    command.footer(cat("\nIn the conversation:\n", kHelp));
    command.callback([f] { Chat(*f).talk(); });
}

}  // namespace palimpsest
