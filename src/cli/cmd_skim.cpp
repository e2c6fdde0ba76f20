// palimpsest skim: documents read as latents, and the original text of a few places.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/memory_flags.h"
#include "cli/sampling_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "compress/skim/skim.h"
#include "core/error.h"
#include "core/numbers.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

struct SkimFlags {
    ModelFlags model;
    TextFlags text;
    AnswerFlags answer;
    std::vector<std::string> question, files;
    std::string form = "chat", choose = "model", chunks = "lines";
    int64_t chunk_tokens = 512, rounds = 5;
    bool unconstrained = false, json = false, quiet = false;
};

SkimOptions skim_options(const SkimFlags& f) {
    SkimOptions o = {
        .conversation = {.memory = f.model.memory, .chat_template = f.answer.chat_template},
        .answer = answer_options(f.answer),
        .form = f.form == "chat" ? SkimForm::kChat : SkimForm::kRounds,
        .chooser = skim_chooser_named(f.choose),
        .rule = f.chunks == "lines" ? ChunkRule::kLines : ChunkRule::kSentences,
        .chunk_tokens = f.chunk_tokens,
        .n_rounds = f.rounds,
        .is_constrained = !f.unconstrained};
    require(o.answer.sampling.grammar.empty() || f.unconstrained,
            "--grammar and the agent's own lines contradict each other; add --unconstrained");
    return o;
}

std::vector<SkimDocument> read_documents(const SkimFlags& f, const Tokenizer& tokenizer) {
    std::vector<SkimDocument> all;
    for (const std::string& path : f.files) {
        all.push_back({.name = path == "-" ? "input" : path,
                       .text = prepared(read_file(path), f.text, tokenizer)});
    }
    return all;
}

std::string cited(const Skimmer& skimmer, const std::vector<int64_t>& chunks) {
    std::string text;
    for (const int64_t id : chunks) {
        text += cat(text.empty() ? "" : ", ", skimmer.citation(id));
    }
    return text.empty() ? "nothing" : text;
}

nlohmann::json to_json(const Skimmer& skimmer, const SkimResult& r, const LatentContext& latent) {
    nlohmann::json expanded = nlohmann::json::array();
    for (const int64_t id : r.expanded) {
        const SkimChunk& c = skimmer.chunks()[static_cast<size_t>(id) - 1];
        expanded.push_back({{"chunk", id},
                            {"document", skimmer.documents()[c.document].name},
                            {"first_line", c.first_line},
                            {"last_line", c.last_line}});
    }
    nlohmann::json rounds = nlohmann::json::array();
    for (const SkimRound& round : r.rounds) {
        rounds.push_back({{"written", round.written},
                          {"expanded", round.expanded},
                          {"forced", round.is_forced},
                          {"positions_read", round.positions_read},
                          {"tokens_written", round.tokens_written}});
    }
    return {{"answer", r.answer},
            {"as_asked", r.is_directive},
            {"expanded", std::move(expanded)},
            {"rounds", std::move(rounds)},
            {"chunks", skimmer.chunks().size()},
            {"source_tokens", r.n_source},
            {"latents", r.n_latents},
            {"positions_read", r.positions_read},
            {"memory_bytes", r.bytes_held},
            {"saved", r.saved},
            {"encoding", encoding_json(latent.usage())}};
}

std::string for_people(const Skimmer& skimmer, const SkimResult& r) {
    return cat("from ", cited(skimmer, r.expanded), "\n", human_count(r.n_source), " tokens in ",
               skimmer.chunks().size(), " chunks as ", human_count(r.n_latents), " latents; ",
               r.rounds.size(), " rounds, ", r.expanded.size(), " chunks expanded, ",
               human_count(r.positions_read), " positions read; memory holds ",
               human_bytes(r.bytes_held), "\n");
}

void skim(const SkimFlags& f) {
    std::string question;
    for (const std::string& p : f.question) question += (question.empty() ? "" : " ") + p;
    require(question.find_first_not_of(" \t\r\n") != std::string::npos,
            "write a question after 'skim'");
    const SkimOptions options = skim_options(f);
    const Engine engine = open_engine(f.model);
    const std::optional<LatentContext> latent = open_latent(engine, f.model);
    const Tokenizer& tokenizer = engine.runtime().loaded().require_tokenizer();
    Skimmer skimmer(engine, *latent, read_documents(f, tokenizer), options);
    catch_interrupts();
    ProgressBar bar("reading");
    const SkimResult r =
        skimmer.ask(prepared(question, f.text, tokenizer), [&](const Generation::Progress& p) {
            if (p.activity == Generation::Activity::kRepeating) bar.set_label("repeating");
            if (p.total > 0 && !f.quiet) bar.show(p.done, p.total);
            return !interrupted();
        });
    bar.clear();
    if (r.is_cancelled) {
        write_message(cat("palimpsest: stopped by Ctrl-C in round ", r.rounds.size(), "\n"));
        throw CLI::RuntimeError(kInterrupted);
    }
    if (f.json) return write_output(json_text(to_json(skimmer, r, *latent), 2) + "\n");
    write_answer(r.answer);
    write_output("\n");
    if (!f.quiet) write_message(dim(printable_lines(for_people(skimmer, r))));
}

}  // namespace

void add_skim(CLI::App& command) {
    auto f = std::make_shared<SkimFlags>();
    command.add_option("question", f->question, "what is asked of the documents")->required();
    reads_file(
        command.add_option("-f,--file", f->files, "a document (repeatable; '-' is standard input)"))
        ->required()
        ->allow_extra_args(false);
    command
        .add_option("--form", f->form,
                    "chat: one conversation, in which expanded chunks are turns; rounds: a fresh "
                    "prompt every time, as published")
        ->check(CLI::IsMember({"chat", "rounds"}))
        ->capture_default_str();
    command
        .add_option("--choose", f->choose,
                    "who picks the chunks to expand: the model, or the question's rare words, for "
                    "models that were not trained to")
        ->check(CLI::IsMember({"model", "words"}))
        ->capture_default_str();
    command
        .add_option("--chunks", f->chunks,
                    "where documents are cut: at lines, or behind sentences, as published")
        ->check(CLI::IsMember({"lines", "sentences"}))
        ->capture_default_str();
    command.add_option("--chunk-tokens", f->chunk_tokens, "most tokens in a chunk")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    command.add_option("--rounds", f->rounds, "most rounds of asking for chunks")
        ->check(CLI::Range(int64_t{1}, int64_t{100}))
        ->capture_default_str();
    command.add_flag("--unconstrained", f->unconstrained,
                     "let the model write what it likes, not only 'EXPAND:' and 'ANSWER:'");
    add_model_flags(command, f->model);
    add_latent_flags(command, f->model);
    command.get_option("--latent")->required();
    add_memory_flags(command, f->model.memory);
    add_answer_flags(command, f->answer);
    command.remove_option(command.get_option_no_throw("--system"));
    add_text_flags(command, f->text);
    command.add_flag("--json", f->json, "print one JSON object with the answer and its rounds");
    command.add_flag("-q,--quiet", f->quiet, "print the answer and nothing else");
    command.footer(
        "\nExample:\n"
        "  palimpsest skim --latent lclm-16x -f report.txt -f notes.md 'Who signed it?'\n");
    command.callback([f] { skim(*f); });
}

}  // namespace palimpsest
