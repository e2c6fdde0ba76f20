// palimpsest trace: logits as JSON, for tests and research. docs/formats.md describes the output.

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/memory_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/trace_bank.h"
#include "cli/trace_parts.h"
#include "core/error.h"
#include "core/output_file.h"
#include "engine/generate.h"
#include "engine/memory_choice.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

struct TraceFlags {
    ModelFlags model;
    TextFlags text;
    std::string tokens_file, text_file, question_file, logits = "last", out = "-";
    std::string decode_file, parts_file;
    int64_t n_greedy = 0;
    bool dump_latents = false, dump_states = false, mask_specials = false;
    double ratio = -1;  // share evicted
    int64_t local_window =
        -1;  // last positions that stay; in the one-shot protocol, once it writes
    bool dump_memory = false;
    std::string bank_inputs;
};

std::vector<TokenId> read_token_file(const std::string& path, int64_t n_vocab) {
    return token_ids(parse_json(read_file(path)), n_vocab, cat("'", path, "'"));
}

std::vector<TokenId> read_tokens(const TraceFlags& f, const LoadedModel& loaded) {
    require(f.tokens_file.empty() != f.text_file.empty(),
            "name --tokens, --file or --parts, one of them");
    require(f.tokens_file.empty() || !f.text.replace_invalid,
            "--replace-invalid-utf8 is for a text, and --tokens names ids");
    if (!f.text_file.empty()) {
        const Tokenizer& t = loaded.require_tokenizer();
        std::vector<TokenId> tokens = t.beginning();
        const std::vector<TokenId> rest = t.encode(prepared(read_file(f.text_file), f.text, t));
        tokens.insert(tokens.end(), rest.begin(), rest.end());
        return tokens;
    }
    return read_token_file(f.tokens_file, loaded.config().n_vocab);
}

/// A file or standard output, written piece by piece.
class JsonOut {
 public:
    explicit JsonOut(const std::string& path) {
        if (path != "-") file_.emplace(path);
    }
    void write(const std::string& text) { file_ ? file_->add(text) : write_output(text); }
    void close() {
        if (file_) file_->finish();
    }

 private:
    std::optional<OutputFile> file_;
};

/// Shortest decimal text that reads back as the same float.
std::string number(float x) { return json_text(nlohmann::json(x)); }

/// The memory's flags, and a ratio instead of a budget; or beside it, in the one-shot protocol,
/// where the budget is for what is written afterwards.
MemoryChoice trace_memory(const TraceFlags& f) {
    MemoryChoice choice = f.model.memory;
    const bool writes_within = f.ratio >= 0 && choice.one_shot && !choice.budget.empty();
    if (f.ratio >= 0) {
        require(choice.budget.empty() || writes_within,
                "--ratio and --memory-budget both say how much to keep; together they go with "
                "--one-shot, where the budget is for what --decode-tokens adds");
        require(!choice.policy.empty(), "--ratio needs --policy");
        choice.evicted = f.ratio;
        choice.budget.clear();
    }
    if (writes_within) {
        const Budget budget = parse_budget(f.model.memory.budget);
        require(budget.kind == Budget::Kind::kEntries,
                "beside --ratio, --memory-budget is a number of entries a head");
        choice.n_writing = budget.count;
    }
    if (f.local_window >= 0) {
        (writes_within ? choice.n_recent_writing : choice.n_recent) = f.local_window;
    }
    return choice;
}

/// A matrix as a list of its rows; anything else as it is.
nlohmann::json in_rows(const NamedState& part) {
    if (part.shape.size() != 2) return part.values;
    nlohmann::json rows = nlohmann::json::array();
    for (int64_t r = 0; r < part.shape[0]; ++r) {
        const auto first = part.values.begin() + r * part.shape[1];
        rows.push_back(std::vector<float>(first, first + part.shape[1]));
    }
    return rows;
}

/// The parts that a residue holds for a layer, [head]... each.
void add_state(const Residue& residue, int64_t layer, int64_t n_heads, nlohmann::json& to) {
    for (int64_t h = 0; h < n_heads; ++h) {
        for (const NamedState& part : residue.state(layer, h)) {
            to[std::string(part.name)].push_back(in_rows(part));
        }
    }
}

/// Every head's scores before the cut, and whose they are; once for a layer whose heads all agree.
void add_importance(const std::vector<std::vector<int32_t>>& held, const Scores& scores,
                    nlohmann::json& to) {
    if (scores.empty()) return;
    const auto numbers = [](const std::vector<float>& of) {
        nlohmann::json list = nlohmann::json::array();
        for (const float x : of) list.push_back(std::isfinite(x) ? nlohmann::json(x) : nullptr);
        return list;
    };
    const bool agree = std::ranges::all_of(held, [&](const auto& h) { return h == held[0]; }) &&
                       std::ranges::all_of(scores, [&](const auto& s) { return s == scores[0]; });
    if (agree) {
        to["rows"] = held[0];
        to["importance"] = numbers(scores[0]);
        return;
    }
    for (size_t h = 0; h < scores.size(); ++h) {
        to["heads"][h]["rows"] = held[h];
        to["heads"][h]["importance"] = numbers(scores[h]);
    }
}

nlohmann::json to_json(const Cut& cut, bool with_state) {
    nlohmann::json layers = nlohmann::json::array();
    for (size_t i = 0; i < cut.kept.size(); ++i) {
        nlohmann::json layer = {{"heads", nlohmann::json::array()}};
        for (const auto& kept : cut.kept[i]) layer["heads"].push_back({{"kept", kept}});
        add_importance(cut.held[i], cut.scores[i], layer);
        if (with_state && cut.residue != nullptr) {
            add_state(*cut.residue, static_cast<int64_t>(i), std::ssize(cut.kept[i]), layer);
        }
        layers.push_back(std::move(layer));
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

Wanted wanted_positions(const TraceFlags& f, int64_t n_prompt, int64_t n) {
    if (f.logits == "all") return {0, n};
    const bool rest = f.logits == "question" || f.logits == "decode";
    return {rest ? n_prompt : n - 1, n};
}

/// Reads a prompt and writes the rows of those positions that are wanted.
void feed(Session& session, std::vector<Segment> prompt, bool may_forget, Wanted wanted,
          JsonOut& out) {
    ProgressBar bar("tracing");
    FeedHooks hooks;
    hooks.may_forget = may_forget;
    hooks.on_progress = [&](int64_t done, int64_t total) {
        bar.show(done, total);
        return !interrupted();
    };
    const int64_t end = session.position() + length_of(prompt, session.sequence().row_width());
    const bool last_only = wanted.begin == end - 1;
    if (wanted.begin < end && !last_only) {
        hooks.on_logits = [&](int64_t position, std::span<const float> row) {
            write_row(out, row, position == wanted.begin);
        };
    }
    if (!session.feed(std::move(prompt), hooks)) throw CLI::RuntimeError(kInterrupted);
    if (last_only) write_row(out, session.logits(), true);
}

/// Forced tokens one by one, as if the model had written them.
void decode(Session& session, const std::vector<TokenId>& tokens, Wanted wanted, JsonOut& out) {
    ProgressBar bar("decoding");
    for (size_t i = 0; i < tokens.size(); ++i) {
        const int64_t position = session.position();
        session.accept(tokens[i]);
        if (position >= wanted.begin && position < wanted.end) {
            write_row(out, session.logits(), position == wanted.begin);
        }
        bar.show(static_cast<int64_t>(i) + 1, std::ssize(tokens));
        if (interrupted()) throw CLI::RuntimeError(kInterrupted);
    }
}

/// What is read, written and asked, in this order.
struct TraceTokens {
    std::vector<Segment> prompt;
    std::vector<std::vector<TokenId>> regions;  // of the prompt
    std::vector<TokenId> written, question;
};

TraceTokens read_all(const TraceFlags& f, const LoadedModel& loaded,
                     const std::optional<LatentContext>& latent) {
    const int64_t n_vocab = loaded.config().n_vocab;
    TraceTokens t;
    if (f.parts_file.empty()) {
        t.prompt.push_back({.tokens = read_tokens(f, loaded)});
    } else {
        require(f.tokens_file.empty() && f.text_file.empty(),
                "--parts, --tokens and --file: name one of them");
        TraceParts parts = read_trace_parts(f.parts_file, *latent->latent_regions(true), n_vocab);
        t.prompt = std::move(parts.prompt);
        t.regions = std::move(parts.regions);
    }
    require(length_of(t.prompt, loaded.config().n_embd) > 0, "there are no tokens to trace");
    if (!f.decode_file.empty()) t.written = read_token_file(f.decode_file, n_vocab);
    require(f.decode_file.empty() || !t.written.empty(), "there are no tokens to decode");
    if (!f.question_file.empty()) t.question = read_token_file(f.question_file, n_vocab);
    require(f.question_file.empty() || !t.question.empty(), "there are no tokens in the question");
    require(t.written.empty() || t.question.empty(),
            "--decode-tokens and --question-tokens: name one of them");
    return t;
}

/// The likeliest token, so many times; `never` are left out.
std::vector<TokenId> write_greedily(Session& session, int64_t n, std::vector<TokenId> never) {
    AnswerWriter writer(nullptr, std::ssize(session.logits()),
                        {.sampling = {.never = std::move(never)}, .max_tokens = n});
    while (writer.next(session.sequence())) session.step();
    return writer.result().tokens;
}

nlohmann::json latents_of(const TraceTokens& t, const LatentContext& latent) {
    LatentEncoder& encoder = latent.latent_regions(true)->encoder();
    const auto width = static_cast<size_t>(encoder.form().decoder_width);
    nlohmann::json rows = nlohmann::json::array();
    for (const std::vector<TokenId>& region : t.regions) {
        const std::vector<float> latents = encoder.encode(region);
        for (size_t at = 0; at < latents.size(); at += width) {
            const auto row = std::span(latents).subspan(at, width);
            rows.push_back(std::vector<float>(row.begin(), row.end()));
        }
    }
    return rows;
}

void check_trace(const TraceFlags& f) {
    require(!f.question_file.empty() || f.logits != "question",
            "--logits question needs --question-tokens");
    require(!f.decode_file.empty() || f.logits != "decode",
            "--logits decode needs --decode-tokens");
    require(!f.model.latent.adapter.empty() == !f.parts_file.empty(),
            "--parts and --latent go together: regions of the parts become latents");
    require(f.n_greedy == 0 || (f.decode_file.empty() && f.question_file.empty()),
            "--greedy goes on from the prompt; leave out --decode-tokens and --question-tokens");
}

/// [layer][head][key channel][value channel], heads as published checkpoints have them.
nlohmann::json states_of(const ContextMemory& memory, const MemoryShape& shape) {
    nlohmann::json layers = nlohmann::json::array();
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.attends(i)) continue;
        const auto l = std::get<RecurrentLayer>(shape.layer(i));
        const std::span<const float> all = memory.states(i);
        nlohmann::json heads(static_cast<size_t>(l.n_head), nlohmann::json::array());
        for (int64_t head = 0; head < l.n_head; ++head) {
            nlohmann::json& rows = heads[static_cast<size_t>(l.published_head(head))];
            for (int64_t row = 0; row < l.n_rows; ++row) {
                const auto at = static_cast<size_t>((head * l.n_rows + row) * l.n_columns);
                const auto values = all.subspan(at, static_cast<size_t>(l.n_columns));
                rows.push_back(std::vector<float>(values.begin(), values.end()));
            }
        }
        layers.push_back(std::move(heads));
    }
    require(!layers.empty(), "--dump-states: this model has no recurrent layers");
    return layers;
}

void trace(const TraceFlags& f) {
    if (!f.bank_inputs.empty()) {
        MemoryChoice choice = f.model.memory;
        if (choice.bank.empty()) choice.bank = BankOptions().name;
        require(!is_read_out(choice.bank), "--bank-inputs has a layer's arrays, not a model; name ",
                "a bank, not a trained one");
        const BankOptions bank = read_bank_options(bank_settings(choice));
        return write_file(f.out, json_text(trace_bank(f.bank_inputs, bank)) + "\n");
    }
    check_trace(f);
    std::string cuts;
    const MemoryChoice choice = trace_memory(f);
    ModelFlags model = f.model;
    model.memory = choice;
    const Engine opened = open_engine(model);
    const std::optional<LatentContext> latent = open_latent(opened, model);
    const Runtime& engine = opened.runtime();
    MemoryPlan plan = plan_memory(engine, choice);
    plan.options.on_cut = [&cuts, &f](const Cut& cut) {
        cuts += cat(cuts.empty() ? "\n" : ",\n", json_text(to_json(cut, f.dump_memory)));
    };
    const auto session = engine.make_session(engine.make_memory(plan));
    TraceTokens t = read_all(f, engine.loaded(), latent);
    const int64_t n_prompt = length_of(t.prompt, engine.config().n_embd);
    const int64_t n = n_prompt + std::ssize(t.written) + std::ssize(t.question);
    catch_interrupts();
    JsonOut out(f.out);
    const Wanted wanted = wanted_positions(f, n_prompt, n);
    std::string positions;
    for (int64_t i = wanted.begin; i < wanted.end; ++i) {
        positions += cat(positions.empty() ? "" : ",", i);
    }
    out.write(cat("{\"tokens\":", n, ",\"logits\":{\"positions\":[", positions, "],\"rows\":["));
    feed(*session, std::move(t.prompt), true, wanted, out);
    decode(*session, t.written, wanted, out);
    // Read on top of what is held: nothing goes for the question.
    if (!t.question.empty()) feed(*session, {{.tokens = t.question}}, false, wanted, out);
    out.write("\n]}");
    if (f.dump_latents) out.write(cat(",\"latents\":", json_text(latents_of(t, *latent))));
    if (f.n_greedy > 0) {
        std::vector<TokenId> never;
        if (f.mask_specials) never = latent->regions()->never_written();
        const nlohmann::json ids = write_greedily(*session, f.n_greedy, std::move(never));
        out.write(cat(",\"greedy\":", json_text(ids)));
    }
    if (f.dump_states) {
        out.write(cat(",\"states\":", json_text(states_of(session->memory(), engine.shape()))));
    }
    out.write(cat(",\"compressions\":[", cuts, "]}\n"));
    out.close();
}

}  // namespace

void add_trace(CLI::App& command) {
    auto f = std::make_shared<TraceFlags>();
    reads_file(command.add_option("--tokens", f->tokens_file,
                                  "JSON array of token ids ('-': standard input)"));
    reads_file(command.add_option("-f,--file", f->text_file, "a text instead"));
    reads_file(command.add_option(
        "--question-tokens", f->question_file,
        "JSON array of token ids read after the last eviction, which lets nothing "
        "more go"));
    reads_file(command.add_option(
        "--decode-tokens", f->decode_file,
        "JSON array of token ids read one by one after the prompt, as if the model "
        "had written them"));
    reads_file(command.add_option(
        "--parts", f->parts_file,
        "JSON array of {\"text\": [ids]} and {\"region\": [ids]}, which become latents"));
    command.add_flag("--dump-states", f->dump_states,
                     "write the states of recurrent layers at the end");
    command.add_flag("--dump-latents", f->dump_latents, "write the latents of all regions")
        ->needs("--parts");
    CLI::Option* greedy =
        command.add_option("--greedy", f->n_greedy, "and then the likeliest token, so many times")
            ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    command.add_flag("--mask-specials", f->mask_specials, "never one of the tags of latents")
        ->needs(greedy)
        ->needs("--parts");
    command
        .add_option("--ratio", f->ratio,
                    "share of what was read to evict, instead of a budget (with --one-shot, the "
                    "budget is then for what --decode-tokens adds)")
        ->check(CLI::Range(0.0, 0.9999999));
    command
        .add_option("--logits", f->logits,
                    "of the last position, of all, of the question's or of the decoded ones")
        ->check(CLI::IsMember({"last", "all", "question", "decode"}))
        ->capture_default_str();
    command
        .add_option("--tau", f->model.memory.interval,
                    "the same as --eviction-interval: cut after so "
                    "many decoded tokens")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}));
    command
        .add_option("--local-window", f->local_window,
                    "last tokens that no cut takes; with --one-shot and a budget, while decoding")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
    command.add_flag("--dump-memory", f->dump_memory,
                     "write what the residue holds after every compression");
    reads_file(command.add_option(
        "--bank-inputs", f->bank_inputs,
        "JSON file that names the inputs of one recurrent layer; what a bank of states (--bank; "
        "default: dla) makes of them is written instead of logits"));
    writes_file(command.add_option("-o,--out", f->out, "where the JSON goes"))
        ->capture_default_str();
    add_model_flags(command, f->model);
    add_prefix_flags(command, f->model);
    add_latent_flags(command, f->model);
    add_memory_flags(command, f->model.memory);
    add_text_flags(command, f->text);
    command.callback([f] { trace(*f); });
}

}  // namespace palimpsest
