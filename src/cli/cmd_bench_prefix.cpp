// palimpsest bench prefix: prefix memories beside their rivals, on generated tasks.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/prefix/prefix_demo.h"
#include "bench/process.h"
#include "cli/bench_commands.h"
#include "cli/file_flags.h"
#include "cli/results_file.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "core/error.h"
#include "prefix/prefix_records.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

struct PrefixBenchFlags {
    ModelFlags model;
    PrefixDemoOptions options;
    std::string out = "prefix.jsonl";
    std::string export_to;
    std::string asked = "tests";
    bool list = false;
};

ResultsFile::Known read_known(const std::string& text, const std::string& name) {
    ResultsFile::Known known;
    for (const PrefixResult& r : read_prefix_results(text, name, &known.whole_bytes)) {
        known.keys.push_back(r.key());
    }
    return known;
}

void list_methods() {
    std::string text;
    for (const PrefixMethodInfo& m : prefix_methods()) {
        text +=
            cat(m.name, std::string(16 - std::min<size_t>(15, m.name.size()), ' '), m.title, "\n");
    }
    write_listing(text);
}

/// The first seed's texts, as `prefix build` and `run` take them.
void export_task(const PrefixBenchFlags& f, const Tokenizer& tokenizer) {
    PrefixTaskOptions o = f.options.task;
    o.seed = f.options.seeds.front();
    const PrefixTask task = make_prefix_task(tokenizer, o);
    fs::create_directories(f.export_to);
    std::string traces;
    for (const TraceText& t : task.traces) traces += to_json_line(t);
    std::string tests;
    for (const PrefixTask::Item& t : task.tests) {
        const nlohmann::json line = {{"prompt", t.prompt},
                                     {"response", task.labels[static_cast<size_t>(t.label)]}};
        tests += json_text(line) + "\n";
    }
    const fs::path folder = f.export_to;
    std::vector<NamedFile> written;
    for (const char* name : {"prefix.txt", "traces.jsonl", "tests.jsonl"}) {
        written.push_back({"--export", (folder / name).string()});
    }
    require_apart(written, files_read(f.model));
    write_file((folder / "prefix.txt").string(), task.prefix());
    write_file((folder / "traces.jsonl").string(), traces);
    write_file((folder / "tests.jsonl").string(), tests);
    write_message(cat("wrote prefix.txt, traces.jsonl and tests.jsonl in '", f.export_to, "'\n"));
}

void measure(PrefixBenchFlags& f, const Engine& e) {
    f.options.model_name = model_name(model_path(f.model.engine), e.runtime().loaded().file());
    f.options.asks_validation = f.asked == "validation";
    const bool is_ours = f.options.work_folder.empty();
    if (is_ours) f.options.work_folder = f.out + ".work";
    ResultsFile file(f.out, read_known);
    catch_interrupts();
    ProgressBar bar("starting", "steps");
    const PrefixRuntime with = {.engine = e.runtime(),
                                .progress =
                                    [&](std::string_view phase, int64_t done, int64_t total) {
                                        bar.set_label(std::string(phase));
                                        bar.show(done, total);
                                        return !interrupted();
                                    },
                                .on_note = write_note};
    const PrefixDemoHooks hooks = {
        .is_known = [&](const std::string& key) { return file.has(key); },
        .on_result =
            [&](const PrefixResult& result) {
                PrefixResult whole = result;
                whole.commit = kCommit;
                whole.processor = processor_name();
                file.add(whole.key(), to_json_line(whole));
                bar.clear();
                write_message(dim(cat("seed ", whole.seed, ", ", whole.method, " ", whole.size,
                                      ": ", whole.n_right, " of ", whole.n, " right, ",
                                      whole.n_same, " as the full prefix\n")));
            },
        .on_left_out =
            [](const std::string& why) {
                write_message(printable_lines(cat("left out: ", why, "\n")));
            }};
    run_prefix_demo(with, f.options, hooks);
    if (is_ours) forget_folder(f.options.work_folder);
    write_message(cat("'", f.out, "' holds ", file.size(),
                      " results; read them with: palimpsest bench report ", f.out, "\n"));
}

void bench(PrefixBenchFlags& f) {
    if (f.list) return list_methods();
    const Engine e(f.model.engine);
    if (!f.export_to.empty()) return export_task(f, e.runtime().loaded().require_tokenizer());
    measure(f, e);
}

}  // namespace

void add_bench_prefix(CLI::App& bench_command) {
    auto f = std::make_shared<PrefixBenchFlags>();
    CLI::App& c = *bench_command.add_subcommand(
        "prefix", "prefix memories beside full, truncated, evicted and retrieved prefixes");
    PrefixDemoOptions& o = f->options;
    c.add_option("--task", o.task.name,
                 "intents: many-shot classification; rules: facts that few traces touch")
        ->check(CLI::IsMember(prefix_task_names()))
        ->capture_default_str();
    c.add_option("--seeds", o.seeds, "of the generated task")->delimiter(',');
    c.add_option("--cluster-seeds", o.cluster_seeds, "of memories: a build each")->delimiter(',');
    c.add_option("--length", o.task.n_prefix_tokens, "tokens of the prefix")
        ->check(CLI::Range(int64_t{64}, int64_t{1} << 24))
        ->capture_default_str();
    c.add_option("--traces", o.task.n_traces, "sample requests")
        ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
        ->capture_default_str();
    c.add_option("--traced", o.task.traced,
                 "share of intents or rules that traces come from; below 1, requests unlike them")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    c.add_option("--tests", o.task.n_tests, "requests that are answered")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    c.add_option("--ask", f->asked,
                 "tests, or as many other requests that choices of a memory's form are made by")
        ->check(CLI::IsMember({"tests", "validation"}))
        ->capture_default_str();
    c.add_option("--shares", o.shares, "bytes held, of the full prefix's keys and values")
        ->delimiter(',')
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    c.add_option("--methods", o.methods, "names, see --list-methods (default: all)")
        ->delimiter(',');
    c.add_flag("--list-methods", f->list, "list all methods and go");
    c.add_option("--export", f->export_to,
                 "write the first seed's prefix, traces and tests into this folder and go");
    writes_file(c.add_option("-o,--out", f->out,
                             "JSON lines; what stands there already is not computed again"))
        ->capture_default_str();
    c.add_option("--work", o.work_folder, "where records wait (default: beside the results)");
    add_model_flags(c, f->model);
    c.footer(
        "\nA run can be stopped and started again: it goes on where it was.\n"
        "Read results with: palimpsest bench report FILE...\n");
    c.callback([f] { bench(*f); });
}

}  // namespace palimpsest
