#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "engine/generate.h"

namespace palimpsest {

/// Flags of commands that write answers.
struct AnswerFlags {
    SamplingOptions sampling;
    std::string grammar_file;
    int64_t max_tokens = 512;
    std::vector<std::string> stop;
    std::string chat_template;
    std::string system;
};

void add_answer_flags(CLI::App& command, AnswerFlags& flags);
/// Reads the grammar file. Throws kNotFound.
AnswerOptions answer_options(const AnswerFlags& flags);

}  // namespace palimpsest
