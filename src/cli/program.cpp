#include <array>
#include <csignal>
#include <filesystem>
#include <new>
#include <system_error>
#include <vector>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/last_words.h"
#include "cli/lost_files.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "core/error.h"
#include "memory/kernels/attention_kernel.h"
#include "memory/option_reader.h"
#include "model/dense_product.h"
#include "model/int8_kernel.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr int kOutputFailed = 74;
constexpr int kOutOfMemory = 6;
constexpr int kUnexpected = 70;

constexpr std::array<Command, 13> kCommands = {{
    {"run", "answer a question, over documents if you name some", add_run},
    {"chat", "talk with the model, turn by turn", add_chat},
    {"skim", "answer from documents read as latents, expanding what it needs", add_skim},
    {"serve", "serve a model: a page, and the APIs of OpenAI, Anthropic and Ollama", add_serve},
    {"inspect", "say what a model file holds and what fits into this machine", add_inspect},
    {"tokenize", "show a text as the model sees it", add_tokenize},
    {"bench", "measure speed, beside libllama if you like", add_bench},
    {"train", "train weights for what forgets, from any texts", add_train},
    {"prefix", "turn a long text that many requests share into a memory to look up", add_prefix},
    {"convert", "turn a published checkpoint into files that run here", add_convert},
    {"trace", "write logits as JSON, for tests and research", add_trace},
    {"train-data", "make documents to train eviction on", add_train_data},
    {"completion", "print a completion script for bash", add_completion},
}};

constexpr const char* kFooter =
    "\nRun 'palimpsest COMMAND --help' for the flags of a command.\n"
    "\n"
    "Models are GGUF files. Without --model, the one that set-up fetched is used, or the one in\n"
    "$PALIMPSEST_MODEL.\n"
    "\n"
    "Exit status: 0 done, 2 wrong flag or value, 3 file or name not found, 4 damaged file,\n"
    "5 not supported, 6 out of memory or context, 70 fault of ours, 74 output not writable,\n"
    "130 stopped by Ctrl-C.\n";

int fail(std::string_view message, int status) {
    write_message(cat(bold("palimpsest: "), printable_lines(message), "\n"));
    return status;
}

/// Where no command was named, or none that there is: how to say what was probably meant.
std::string what_to_type(int argc, const char* const* argv) {
    constexpr const char* kHow =
        "ask a question with: palimpsest run 'Name three rivers.'; talk with: palimpsest chat";
    if (argc < 2) return cat("what should be done? ", kHow);
    const std::string_view first = argv[1];
    if (first.starts_with('-')) return "";
    std::vector<std::string_view> names;
    for (const Command& c : kCommands) names.push_back(c.name);
    const std::string near = nearest_name(first, names);
    return cat("no command is called '", first, "'; ",
               near.empty() ? "" : cat("did you mean '", near, "'? Or "), kHow);
}

/// The help of the innermost command that was named.
std::string help_of(const CLI::App& program) {
    const CLI::App* shown = &program;
    for (auto next = program.get_subcommands(); !next.empty(); next = shown->get_subcommands()) {
        shown = next.front();
    }
    return shown->help();
}

/// Parses and runs. What it prints may fail, and must not do so inside a handler of run_program().
void parse(CLI::App& program, int argc, const char* const* argv) {
    try {
        program.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
        write_output(help_of(program));
    } catch (const CLI::CallForVersion& e) {
        write_output(cat(e.what(), "\n"));
    }
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

void add_commands(CLI::App& program) {
    program.name("palimpsest");
    program.footer(kFooter);
    const std::string products = DenseProduct::library();
    program.set_version_flag(
        "--version",
        cat(kVersionText, "\n", products.empty() ? "without oneDNN" : "with " + products,
            int8_obstacle().empty() ? cat("; products: int8 by ", int8_instructions()) : "",
            "; attention: ", attention_target(), has_bf16_attention() ? " with bf16" : ""));
    program.require_subcommand(1);
    program.parse_complete_callback([&program] { check_flags(program); });
    for (const Command& c : kCommands) {
        CLI::App* sub = program.add_subcommand(std::string(c.name), std::string(c.summary));
        c.add(*sub);
    }
}

int run_program(int argc, const char* const* argv) {
    limit_kernels();
    // A closed pipe is a failed write with a message, not a silent end; so is a file at its limit.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    // Until a command knows better: while a model loads, say, there is nothing to save.
    end_on_interrupts();
    end_on_lost_files();
    CLI::App program{"Runs language models over contexts larger than the memory they are given."};
    try {
        add_commands(program);
        parse(program, argc, argv);
        return 0;
    } catch (const CLI::RuntimeError& e) {
        return e.get_exit_code();
    } catch (const CLI::ParseError& e) {
        const std::string what = program.get_subcommands().empty() ? what_to_type(argc, argv) : "";
        return fail(cat(what.empty() ? e.what() : what, "; see --help"),
                    exit_code(ErrorCode::kInvalidArgument));
    } catch (const Error& e) {
        // Work that was asked to stop says so in words of its own.
        return fail(e.what(), interrupted() ? kInterrupted : exit_code(e.code()));
    } catch (const OutputError& e) {
        return fail(cat("cannot write the output: ", e.what()), kOutputFailed);
    } catch (const std::bad_alloc&) {
        return fail(kNoMemory, kOutOfMemory);
    } catch (const std::filesystem::filesystem_error& e) {
        return fail(cat("cannot use '", e.path1().string(), "': ", e.code().message()),
                    exit_code(ErrorCode::kNotFound));
    } catch (const std::system_error& e) {
        if (is_shortage(e)) return fail(kNoMemory, kOutOfMemory);
        return fail(cat("unexpected: ", e.what()), kUnexpected);
    } catch (const std::exception& e) {
        return fail(cat("unexpected: ", e.what()), kUnexpected);
    }
}

}  // namespace palimpsest
