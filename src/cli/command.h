#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string_view>

namespace palimpsest {

/// One line a command. `add` declares its flags on a subcommand of the program and sets what runs.
struct Command {
    std::string_view name, summary;
    void (*add)(CLI::App& command);
};

[[nodiscard]] std::span<const Command> commands();

void add_run(CLI::App& command);
void add_chat(CLI::App& command);
void add_inspect(CLI::App& command);
void add_tokenize(CLI::App& command);
void add_bench(CLI::App& command);
void add_trace(CLI::App& command);
void add_train(CLI::App& command);
void add_train_data(CLI::App& command);
void add_prefix(CLI::App& command);
void add_convert(CLI::App& command);
void add_skim(CLI::App& command);
void add_serve(CLI::App& command);
void add_completion(CLI::App& command);

/// Declares the whole program: every command with its flags.
void add_commands(CLI::App& program);

/// Runs the program; returns its exit status. Messages go to stderr.
int run_program(int argc, const char* const* argv);

}  // namespace palimpsest
