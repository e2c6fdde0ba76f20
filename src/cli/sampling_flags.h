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
    std::string schema_file;
    int64_t max_tokens = 512;
    std::vector<std::string> stop;
    std::string chat_template;
    std::string system;
};

void add_answer_flags(CLI::App& command, AnswerFlags& flags);
/// Reads the grammar, or makes it of the schema. Throws kNotFound, and as grammar_of_schema() does.
AnswerOptions answer_options(const AnswerFlags& flags);

}  // namespace palimpsest
