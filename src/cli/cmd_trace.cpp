// palimpsest trace: logits as JSON, for tests and research. docs/formats.md describes the output.

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/command.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int kInterrupted = 130;

struct TraceFlags {
    ModelFlags model;
    TextFlags text;
    std::string tokens_file, text_file, logits = "last", out = "-";
};

std::vector<TokenId> read_tokens(const TraceFlags& f, const LoadedModel& loaded) {
    require(f.tokens_file.empty() != f.text_file.empty(), "name --tokens or --file, one of them");
    if (!f.text_file.empty()) {
        const Tokenizer& t = loaded.require_tokenizer();
        std::vector<TokenId> tokens = t.beginning();
        const std::vector<TokenId> rest = t.encode(prepared(read_file(f.text_file), f.text, t));
        tokens.insert(tokens.end(), rest.begin(), rest.end());
        return tokens;
    }
    const std::string content = read_file(f.tokens_file);
    const nlohmann::json json = nlohmann::json::parse(content, nullptr, false);
    const auto refuse = [&](const std::string& why) {
        throw Error(ErrorCode::kCorrupt, cat("'", f.tokens_file, "' ", why));
    };
    if (!json.is_array()) refuse("is not a JSON array of token ids");
    std::vector<TokenId> tokens;
    for (const nlohmann::json& id : json) {
        if (!id.is_number_integer() || id < 0 || id >= loaded.config().n_vocab) {
            refuse(cat("holds ", id.dump(), " at place ", tokens.size(),
                       "; ids are whole numbers from 0 to ", loaded.config().n_vocab - 1));
        }
        tokens.push_back(id.get<TokenId>());
    }
    return tokens;
}

/// A file or standard output, written piece by piece; every failure is an OutputError.
class JsonOut {
 public:
    explicit JsonOut(const std::string& path) : path_(path) {
        if (path_ == "-") return;
        file_.open(path_, std::ios::binary | std::ios::trunc);
        if (!file_) fail();
    }
    void write(const std::string& text) {
        if (path_ == "-") return write_output(text);
        if (!file_.write(text.data(), std::ssize(text))) fail();
    }
    void close() {
        if (path_ == "-") return;
        file_.close();
        if (!file_) fail();
    }

 private:
    [[noreturn]] void fail() const {
        throw OutputError(cat("'", path_, "': ", std::generic_category().message(errno)));
    }
    std::string path_;
    std::ofstream file_;
};

/// Shortest decimal text that reads back as the same float.
std::string number(float x) { return nlohmann::json(x).dump(); }

void write_row(JsonOut& out, std::span<const float> row, bool first) {
    std::string line = first ? "\n[" : ",\n[";
    for (size_t i = 0; i < row.size(); ++i) line += (i == 0 ? "" : ",") + number(row[i]);
    out.write(line + "]");
}

void trace(const TraceFlags& f) {
    const Engine e = make_engine(f.model);
    const std::vector<TokenId> tokens = read_tokens(f, *e.loaded);
    require(!tokens.empty(), "there are no tokens to trace");
    const bool all = f.logits == "all";
    const int64_t n = std::ssize(tokens);
    catch_interrupts();
    JsonOut out(f.out);
    std::string positions;
    for (int64_t i = all ? 0 : n - 1; i < n; ++i) positions += cat(positions.empty() ? "" : ",", i);
    out.write(cat("{\"tokens\":", n, ",\"logits\":{\"positions\":[", positions, "],\"rows\":["));
    FeedHooks hooks;
    ProgressBar bar("tracing");
    hooks.on_progress = [&](int64_t done, int64_t total) {
        bar.show(done, total);
        return !interrupted();
    };
    if (all) {
        hooks.on_logits = [&](int64_t position, std::span<const float> row) {
            write_row(out, row, position == 0);
        };
    }
    if (!e.session->feed(tokens, hooks)) throw CLI::RuntimeError(kInterrupted);
    if (!all) write_row(out, e.session->logits(), true);
    out.write("\n]},\"compressions\":[]}\n");
    out.close();
}

}  // namespace

void add_trace(CLI::App& command) {
    auto f = std::make_shared<TraceFlags>();
    command.add_option("--tokens", f->tokens_file, "JSON array of token ids ('-': standard input)");
    command.add_option("-f,--file", f->text_file, "a text instead");
    command.add_option("--logits", f->logits, "of the last position, or of all")
        ->check(CLI::IsMember({"last", "all"}))
        ->capture_default_str();
    command.add_option("-o,--out", f->out, "where the JSON goes")->capture_default_str();
    add_model_flags(command, f->model);
    add_text_flags(command, f->text);
    command.callback([f] { trace(*f); });
}

}  // namespace palimpsest
