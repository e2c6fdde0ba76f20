#include "cli/sampling_flags.h"

#include "cli/file_flags.h"
#include "cli/setup.h"
#include "core/error.h"
#include "text/chat_template.h"

namespace palimpsest {

namespace {

// CLI11 reads a number beyond int64_t as the largest one: only a range refuses it.
constexpr int64_t kMostTokens = int64_t{1} << 28;

}  // namespace

void add_answer_flags(CLI::App& command, AnswerFlags& flags) {
    SamplingOptions& s = flags.sampling;
    command.add_option("-n,--max-tokens", flags.max_tokens, "tokens the answer may have")
        ->check(CLI::Range(int64_t{1}, kMostTokens))
        ->capture_default_str();
    command
        .add_option("--temperature", s.temperature, "0: always the likeliest token; higher: freer")
        ->capture_default_str();
    command.add_option("--top-k", s.top_k, "draw from so many tokens; 0: all")
        ->capture_default_str();
    command.add_option("--top-p", s.top_p, "draw from the likeliest tokens of this total share")
        ->capture_default_str();
    command.add_option("--min-p", s.min_p, "drop tokens less likely than this share of the best")
        ->capture_default_str();
    command.add_option("--repeat-penalty", s.repeat_penalty, "above 1: repeat less")
        ->capture_default_str();
    command.add_option("--frequency-penalty", s.frequency_penalty, "per repetition; 0: none")
        ->capture_default_str();
    command
        .add_option("--presence-penalty", s.presence_penalty, "once for any repetition; 0: none")
        ->capture_default_str();
    command.add_option("--penalty-last-n", s.penalty_last_n, "tokens the penalties look back on")
        ->capture_default_str();
    command.add_option("--seed", s.seed, "the same seed gives the same text")
        ->capture_default_str();
    CLI::Option* grammar = reads_file(command.add_option("--grammar-file", flags.grammar_file,
                                                         "GBNF grammar the answer must follow"));
    reads_file(command.add_option("--json-schema", flags.schema_file,
                                  "JSON schema: the answer is JSON that fits it"))
        ->excludes(grammar);
    command.add_option("--stop", flags.stop, "end the answer before this text (repeatable)")
        ->allow_extra_args(false);
    command.add_option("--system", flags.system, "what the model is told before everything else");
    reads_file(command.add_option("--chat-template", flags.chat_template,
                                  "instead of the model's own: a name (chatml, llama3, ...), a "
                                  "file with a Jinja template, or its text"));
}

AnswerOptions answer_options(const AnswerFlags& flags) {
    AnswerOptions options = {
        .sampling = flags.sampling, .max_tokens = flags.max_tokens, .stop = flags.stop};
    std::string& grammar = options.sampling.grammar;
    if (!flags.schema_file.empty()) grammar = grammar_of_schema(read_file(flags.schema_file));
    if (flags.grammar_file.empty()) return options;
    grammar = read_file(flags.grammar_file);
    require(grammar.find_first_not_of(" \t\r\n") != std::string::npos, "the grammar '",
            flags.grammar_file, "' is empty, and would allow everything");
    return options;
}

}  // namespace palimpsest
