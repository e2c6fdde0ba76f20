// palimpsest run: one question, over any number of documents, one answer.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/memory_flags.h"
#include "cli/sampling_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "engine/report.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr const char* kNoPrompt =
    "the prompt is empty; write a question after 'run', or pipe one in";

struct RunFlags {
    ModelFlags model;
    TextFlags text;
    AnswerFlags answer;
    std::vector<std::string> prompt;
    std::vector<std::string> files, keep_files, keep_texts;
    std::string report_file;
    bool raw = false, json = false, quiet = false, report = false;
};

/// `text` cut into parts, so that every occurrence of `marks` is one that must be kept.
std::vector<TextPart> marked(const std::string& text, const std::vector<std::string>& marks) {
    std::vector<TextPart> parts;
    size_t at = 0;
    while (at < text.size()) {
        size_t begin = std::string::npos;
        size_t length = 0;
        for (const std::string& mark : marks) {
            const size_t found = text.find(mark, at);
            if (found < begin || (found == begin && mark.size() > length)) {
                begin = found;
                length = mark.size();
            }
        }
        if (begin == std::string::npos) break;
        if (begin > at) parts.push_back({text.substr(at, begin - at), true});
        parts.push_back({text.substr(begin, length), true, true});
        at = begin + length;
    }
    if (at < text.size()) parts.push_back({text.substr(at), true});
    return parts;
}

void check_marks(const RunFlags& f, const std::vector<TextPart>& parts) {
    for (const std::string& mark : f.keep_texts) {
        require(!mark.empty(), "--keep-text is empty");
        bool found = false;
        for (const TextPart& p : parts) found = found || (p.keep && p.text == mark);
        require(found, "--keep-text '", mark, "' does not occur in the documents");
    }
    const bool marks = !f.keep_files.empty() || !f.keep_texts.empty();
    require(!marks || is_bounded(f.model.memory),
            "--keep-file and --keep-text protect from eviction, but nothing is evicted without "
            "--memory-budget");
}

/// Was nothing said, so that the question can only come from a pipe?
bool is_question_piped(const RunFlags& f) {
    return f.prompt.empty() && f.files.empty() && f.keep_files.empty() && isatty(STDIN_FILENO) == 0;
}

/// What cannot work, before a model is loaded in vain.
void check_run(const RunFlags& f) {
    const bool has_text = std::ranges::any_of(f.prompt, [](const std::string& word) {
        return word.find_first_not_of(" \t\r\n") != std::string::npos;
    });
    require(has_text || is_question_piped(f) || !f.files.empty() || !f.keep_files.empty(),
            kNoPrompt);
}

/// The documents, each under its name if there are several, then the question.
std::vector<TextPart> read_parts(const RunFlags& f, const Tokenizer& tokenizer) {
    std::vector<TextPart> parts;
    std::string question;
    for (const std::string& p : f.prompt) question += (question.empty() ? "" : " ") + p;
    std::vector<std::string> files = f.files;
    if (is_question_piped(f)) question = read_file("-");
    if (question == "-") question = read_file("-");
    const size_t n_files = files.size() + f.keep_files.size();
    const auto document = [&](const std::string& path) {
        const std::string title = n_files > 1 ? cat(path == "-" ? "input" : path, ":\n") : "";
        return title + prepared(read_file(path), f.text, tokenizer) + "\n\n";
    };
    for (const std::string& path : f.keep_files) parts.push_back({document(path), true, true});
    for (const std::string& path : files) {
        const std::vector<TextPart> cut = marked(document(path), f.keep_texts);
        parts.insert(parts.end(), cut.begin(), cut.end());
    }
    check_marks(f, parts);
    parts.push_back({prepared(std::move(question), f.text, tokenizer), false});
    bool empty = true;
    for (const TextPart& p : parts) {
        empty = empty && p.text.find_first_not_of(" \t\r\n") == std::string::npos;
    }
    require(!empty, kNoPrompt);
    return parts;
}

double rate(int64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0;
}

/// `n_read`: tokens of the prompt that were read; not all, if it was interrupted.
nlohmann::json to_json(const GenerateResult& r, int64_t n_read, const MemoryUsage& u) {
    return {{"text", r.text},
            {"stop_reason", to_string(r.reason)},
            {"prompt_tokens", r.n_prompt},
            {"prompt_tokens_read", n_read},
            {"generated_tokens", r.n_generated},
            {"time_to_first_token_s", r.prefill_s},
            {"prefill_tokens_per_s", rate(n_read, r.prefill_s)},
            {"decode_tokens_per_s", rate(r.n_generated, r.decode_s)},
            {"memory",
             {{"positions_seen", u.positions_seen},
              {"entries_held", u.entries_held},
              {"bytes", u.bytes}}}};
}

/// "1,024 entries a head of 4,081 tokens in 46 MB".
std::string held(const MemoryReport& r) {
    if (r.bytes.states == r.bytes.total()) {
        return cat("states of ", human_count(r.positions_seen), " tokens in ",
                   human_bytes(r.bytes.total()));
    }
    const auto mean = static_cast<int64_t>(std::llround(mean_held(r)));
    const bool holds_all = mean == r.positions_seen;
    return cat(holds_all ? cat("all ", human_count(r.positions_seen), " tokens")
                         : cat(human_count(mean), " entries a head of ",
                               human_count(r.positions_seen), " tokens"),
               " in ", human_bytes(r.bytes.total()));
}

/// "8,104 tokens of documents as 507 latents, encoded in 1.1 s; ".
std::string for_people(const LatentContext::Usage& u) {
    const int64_t n = u.tokens_encoded + u.tokens_found;
    if (n == 0) return "";
    return cat(human_count(n), " tokens of documents as ", human_count(u.latents), " latents, ",
               u.tokens_encoded == 0 ? "found in the cache"
                                     : cat("encoded in ", human_seconds(u.encoding_s)),
               "; ");
}

std::string for_people(const GenerateResult& r, const MemoryReport& report) {
    return cat(human_count(r.n_prompt), " tokens read, first token after ",
               human_seconds(r.prefill_s), " (",
               human_count(static_cast<int64_t>(rate(r.n_prompt, r.prefill_s))), " tokens/s); ",
               r.n_generated, " written at ",
               human_count(static_cast<int64_t>(rate(r.n_generated, r.decode_s))),
               " tokens/s; memory holds ", held(report),
               r.reason == StopReason::kLength ? "; cut at its length" : "", "\n");
}

void run(const RunFlags& f) {
    check_run(f);
    const AnswerOptions options = answer_options(f.answer);
    const Engine engine = open_engine(f.model);
    const Tokenizer& tokenizer = engine.runtime().loaded().require_tokenizer();
    const std::optional<LatentContext> latent = open_latent(engine, f.model);
    Conversation conversation =
        begin_conversation(engine, f.model, f.answer, f.raw, latent ? &*latent : nullptr);
    write_notes(conversation.notes());
    Generation answer = conversation.ask(read_parts(f, tokenizer), options);
    const int64_t start = conversation.position();

    catch_interrupts();
    ProgressBar bar("reading");
    const auto on_progress = [&](const Generation::Progress& p) {
        if (p.activity == Generation::Activity::kRepeating) bar.set_label("repeating");
        if (p.total > 0 && !f.quiet) bar.show(p.done, p.total);
        return !interrupted();
    };
    const auto on_text = [&](std::string_view piece) {
        bar.clear();
        if (!f.json) write_answer(piece);
        return !interrupted();
    };
    const GenerateResult result = answer.run(on_text, on_progress);
    bar.clear();
    const MemoryUsage usage = conversation.session().memory().usage();
    if (f.json) {
        const int64_t n_read = std::min(result.n_prompt, conversation.position() - start);
        nlohmann::json all = to_json(result, n_read, usage);
        if (latent) all["encoding"] = encoding_json(latent->usage());
        write_output(json_text(all, 2) + "\n");
    } else if (!result.text.ends_with('\n')) {
        write_output("\n");
    }
    if (result.reason == StopReason::kCancelled) {
        write_message(
            cat("palimpsest: stopped by Ctrl-C after ", usage.positions_seen, " tokens\n"));
        throw CLI::RuntimeError(kInterrupted);
    }
    if (!f.quiet && !f.json) {
        write_message(dim((latent ? for_people(latent->usage()) : "") +
                          for_people(result, conversation.report())));
    }
    if (f.report) write_message(printable_lines(conversation.report_text(terminal_width())));
    if (!f.report_file.empty()) write_file(f.report_file, conversation.report_json());
}

}  // namespace

void add_run(CLI::App& command) {
    auto f = std::make_shared<RunFlags>();
    command.add_option("prompt", f->prompt, "the question; '-' reads it from standard input");
    reads_file(command.add_option("-f,--file", f->files,
                                  "a document to read first (repeatable; '-' is standard input)"))
        ->allow_extra_args(false);
    reads_file(command.add_option("--keep-file", f->keep_files,
                                  "a document to read first and never to forget (repeatable)"))
        ->allow_extra_args(false);
    command
        .add_option("--keep-text", f->keep_texts,
                    "text that, wherever it stands in a document, is never forgotten (repeatable)")
        ->allow_extra_args(false);
    add_model_flags(command, f->model);
    add_prefix_flags(command, f->model);
    add_latent_flags(command, f->model);
    add_memory_flags(command, f->model.memory);
    add_answer_flags(command, f->answer);
    add_text_flags(command, f->text);
    command.add_flag("--raw", f->raw, "no chat template: continue the text as it is")
        ->excludes("--system")
        ->excludes("--chat-template");
    command.add_flag("--json", f->json, "print one JSON object with the answer and its figures");
    command.add_flag("--report", f->report, "say what the memory kept and what it let go");
    writes_file(command.add_option("--report-json", f->report_file,
                                   "the same as JSON, into a file ('-': standard output)"));
    command.add_flag("-q,--quiet", f->quiet, "print the answer and nothing else");
    command.footer(
        "\nExamples:\n"
        "  palimpsest run 'Name three rivers.'\n"
        "  palimpsest run -f report.txt -f notes.md 'Where do they disagree?'\n"
        "  git log -20 | palimpsest run -f - 'Write the release notes.'\n");
    command.callback([f] { run(*f); });
}

}  // namespace palimpsest
