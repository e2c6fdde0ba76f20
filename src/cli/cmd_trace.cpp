// palimpsest trace: logits as JSON, for tests and research. docs/formats.md describes the output.

#include <cerrno>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/command.h"
#include "cli/memory_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int kInterrupted = 130;

struct TraceFlags {
    ModelFlags model;
    TextFlags text;
    MemoryFlags memory;
    std::string tokens_file, text_file, question_file, logits = "last", out = "-";
    double ratio = -1;  // share evicted
};

std::vector<TokenId> read_token_file(const std::string& path, int64_t n_vocab) {
    const nlohmann::json json = nlohmann::json::parse(read_file(path), nullptr, false);
    const auto refuse = [&](const std::string& why) {
        throw Error(ErrorCode::kCorrupt, cat("'", path, "' ", why));
    };
    if (!json.is_array()) refuse("is not a JSON array of token ids");
    std::vector<TokenId> tokens;
    for (const nlohmann::json& id : json) {
        if (!id.is_number_integer() || id < 0 || id >= n_vocab) {
            refuse(cat("holds ", id.dump(), " at place ", tokens.size(),
                       "; ids are whole numbers from 0 to ", n_vocab - 1));
        }
        tokens.push_back(id.get<TokenId>());
    }
    return tokens;
}

std::vector<TokenId> read_tokens(const TraceFlags& f, const LoadedModel& loaded) {
    require(f.tokens_file.empty() != f.text_file.empty(), "name --tokens or --file, one of them");
    if (!f.text_file.empty()) {
        const Tokenizer& t = loaded.require_tokenizer();
        std::vector<TokenId> tokens = t.beginning();
        const std::vector<TokenId> rest = t.encode(prepared(read_file(f.text_file), f.text, t));
        tokens.insert(tokens.end(), rest.begin(), rest.end());
        return tokens;
    }
    return read_token_file(f.tokens_file, loaded.config().n_vocab);
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

/// The memory's flags, and a ratio instead of a budget.
EvictionOptions trace_eviction(const TraceFlags& f) {
    if (f.ratio < 0) return eviction_options(f.memory);
    require(f.memory.budget.empty(), "--ratio and --memory-budget both say how much to keep");
    require(!f.memory.policy.empty(), "--ratio needs --policy");
    MemoryFlags flags = f.memory;
    flags.budget = "1";  // stands in for the ratio, which a budget's text cannot say
    EvictionOptions options = eviction_options(flags);
    options.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = f.ratio};
    return options;
}

nlohmann::json to_json(const Cut& cut) {
    nlohmann::json layers = nlohmann::json::array();
    for (const auto& layer : cut.kept) {
        nlohmann::json heads = nlohmann::json::array();
        for (const auto& kept : layer) heads.push_back({{"kept", kept}});
        layers.push_back({{"heads", std::move(heads)}});
    }
    return {{"at", cut.n_seen}, {"layers", std::move(layers)}};
}

void write_row(JsonOut& out, std::span<const float> row, bool first) {
    std::string line = first ? "\n[" : ",\n[";
    for (size_t i = 0; i < row.size(); ++i) line += (i == 0 ? "" : ",") + number(row[i]);
    out.write(line + "]");
}

/// Positions whose logits are wanted: [begin, end).
struct Wanted {
    int64_t begin = 0, end = 0;
};

Wanted wanted_positions(const TraceFlags& f, int64_t n_context, int64_t n) {
    if (f.logits == "all") return {0, n};
    return {f.logits == "question" ? n_context : n - 1, n};
}

/// Reads tokens and writes the rows of those that are wanted.
void feed(Session& session, const std::vector<TokenId>& tokens, bool may_forget, Wanted wanted,
          JsonOut& out) {
    ProgressBar bar("tracing");
    FeedHooks hooks;
    hooks.may_forget = may_forget;
    hooks.on_progress = [&](int64_t done, int64_t total) {
        bar.show(done, total);
        return !interrupted();
    };
    const int64_t end = session.position() + std::ssize(tokens);
    const bool last_only = wanted.begin == end - 1;
    if (wanted.begin < end && !last_only) {
        hooks.on_logits = [&](int64_t position, std::span<const float> row) {
            write_row(out, row, position == wanted.begin);
        };
    }
    if (!session.feed(tokens, hooks)) throw CLI::RuntimeError(kInterrupted);
    if (last_only) write_row(out, session.logits(), true);
}

void trace(const TraceFlags& f) {
    const bool asks = !f.question_file.empty();
    require(asks || f.logits != "question", "--logits question needs --question-tokens");
    std::string cuts;
    EvictionOptions eviction = trace_eviction(f);
    eviction.on_cut = [&cuts](const Cut& cut) {
        cuts += cat(cuts.empty() ? "\n" : ",\n", to_json(cut).dump());
    };
    const Engine e = make_engine(f.model, std::move(eviction));
    Session& session = *e.session;
    const std::vector<TokenId> tokens = read_tokens(f, *e.loaded);
    require(!tokens.empty(), "there are no tokens to trace");
    std::vector<TokenId> question;
    if (asks) question = read_token_file(f.question_file, e.loaded->config().n_vocab);
    require(!asks || !question.empty(), "there are no tokens in the question");
    const auto n = std::ssize(tokens) + std::ssize(question);
    catch_interrupts();
    JsonOut out(f.out);
    const Wanted wanted = wanted_positions(f, std::ssize(tokens), n);
    std::string positions;
    for (int64_t i = wanted.begin; i < wanted.end; ++i) {
        positions += cat(positions.empty() ? "" : ",", i);
    }
    out.write(cat("{\"tokens\":", n, ",\"logits\":{\"positions\":[", positions, "],\"rows\":["));
    feed(session, tokens, true, wanted, out);
    // Read on top of what is held: nothing goes for the question.
    if (asks) feed(session, question, false, wanted, out);
    out.write(cat("\n]},\"compressions\":[", cuts, "]}\n"));
    out.close();
}

}  // namespace

void add_trace(CLI::App& command) {
    auto f = std::make_shared<TraceFlags>();
    command.add_option("--tokens", f->tokens_file, "JSON array of token ids ('-': standard input)");
    command.add_option("-f,--file", f->text_file, "a text instead");
    command.add_option("--question-tokens", f->question_file,
                       "JSON array of token ids read after the last eviction, which lets nothing "
                       "more go");
    command.add_option("--ratio", f->ratio, "share of what was read to evict, instead of a budget")
        ->check(CLI::Range(0.0, 0.9999999));
    command
        .add_option("--logits", f->logits,
                    "of the last position, of all, or of the question's positions")
        ->check(CLI::IsMember({"last", "all", "question"}))
        ->capture_default_str();
    command.add_option("-o,--out", f->out, "where the JSON goes")->capture_default_str();
    add_model_flags(command, f->model);
    add_memory_flags(command, f->memory);
    add_text_flags(command, f->text);
    command.callback([f] { trace(*f); });
}

}  // namespace palimpsest
