// palimpsest tokenize: a text as the model sees it.

#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

struct TokenizeFlags {
    ModelFlags model;
    TextFlags text;
    std::optional<std::string> input;
    std::string file;
    bool json = false, count = false;
};

/// Throws kInvalidArgument if a terminal would have to be waited for.
std::string text_of(const TokenizeFlags& f) {
    require(!f.input || f.file.empty(), "name a text or a file, not both");
    if (f.input) return *f.input;
    require(!f.file.empty() || isatty(STDIN_FILENO) == 0,
            "there is no text; write one after 'tokenize', name a file with --file, or pipe it in");
    return read_file(f.file.empty() ? "-" : f.file);
}

void tokenize(const TokenizeFlags& f) {
    const std::string text = text_of(f);
    const std::string path = model_path(f.model.engine);
    const auto tokenizer = Tokenizer::load(path, GgufFile::open(path));
    if (tokenizer == nullptr) {
        throw Error(ErrorCode::kUnsupported, cat("'", path, "' has no vocabulary"));
    }
    const std::vector<TokenId> tokens = tokenizer->encode(prepared(text, f.text, *tokenizer));
    if (f.count) return write_output(cat(tokens.size(), "\n"));
    if (f.json) return write_output(json_text(nlohmann::json(tokens)) + "\n");
    std::string lines;
    for (const TokenId t : tokens) {
        const std::string id = std::to_string(t);
        lines += std::string(8 - std::min<size_t>(7, id.size()), ' ') + id + "  " +
                 printable(tokenizer->visible(t)) + "\n";
    }
    write_output(lines);
    write_message(dim(cat(human_count(std::ssize(tokens)), " tokens, ",
                          human_count(std::ssize(text)), " bytes\n")));
}

}  // namespace

void add_tokenize(CLI::App& command) {
    auto f = std::make_shared<TokenizeFlags>();
    command.add_option("text", f->input, "the text (default: standard input)");
    reads_file(command.add_option("-f,--file", f->file, "read the text from a file"));
    add_model_flag(command, f->model);
    add_text_flags(command, f->text);
    command.add_flag("--json", f->json, "print the ids as a JSON array, as 'trace' reads them");
    command.add_flag("--count", f->count, "print how many there are and nothing else")
        ->excludes("--json");
    command.callback([f] { tokenize(*f); });
}

}  // namespace palimpsest
