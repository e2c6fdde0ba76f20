// palimpsest bench linear: banks of states, and what they are compared with, at equal bytes.

#include <memory>

#include "cli/bench_commands.h"
#include "cli/file_flags.h"
#include "cli/linear_flags.h"
#include "cli/results_file.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/graph.h"
#include "core/numbers.h"
#include "text/input_files.h"
#include "text/text_parts.h"
#include "train/linear/linear_bench.h"

namespace palimpsest {

namespace {

struct LinearBenchFlags {
    LinearBenchOptions options;
    std::string out = "linear.jsonl";
    int threads = 0;
    bool tables_only = false;
};

std::vector<LinearResult> read_results(const std::string& text, const std::string& name,
                                       size_t& whole_bytes) {
    std::vector<LinearResult> results;
    size_t at = 0;
    for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', at)) {
        results.push_back(linear_result(text.substr(at, end - at),
                                        cat("'", name, "', line ", results.size() + 1)));
        at = end + 1;
    }
    whole_bytes = at;
    return results;
}

void bench_linear(LinearBenchFlags f) {
    LinearBenchOptions& o = f.options;
    size_t whole_bytes = 0;
    if (f.tables_only) {
        return write_output(linear_tables(read_results(read_text_file(f.out), f.out, whole_bytes)));
    }
    o.training.n_threads = f.threads > 0 ? f.threads : Backend::available_threads();
    if (o.arms.empty()) {
        for (const LinearArm& arm : linear_arms()) o.arms.emplace_back(arm.name);
    }
    std::vector<LinearResult> results;
    ResultsFile file(f.out, [&](const std::string& text, const std::string& name) {
        ResultsFile::Known known;
        results = read_results(text, name, known.whole_bytes);
        for (const LinearResult& r : results) known.keys.push_back(key_of(r));
        return known;
    });
    catch_interrupts();
    ProgressBar bar("", "steps");
    const LinearBenchHooks hooks = {
        .on_result =
            [&](const LinearResult& r) {
                file.add(key_of(r), to_json_line(r));
                results.push_back(r);
                bar.clear();
                write_message(cat(r.base, ", ", r.arm, ", rate ", r.rate, ", seed ", r.seed,
                                  ": loss ", fixed(r.loss, 4), ", ", fixed(r.tokens_per_s, 0),
                                  " tokens/s\n"));
            },
        .on_step =
            [&](const std::string& run, const LinearStepReport& step) {
                bar.set_label(cat(run, ", loss ", fixed(step.loss, 3)));
                bar.show(step.step, step.n_steps);
                return !interrupted();
            }};
    const bool is_whole = run_linear_bench(o, results, hooks);
    bar.clear();
    write_output(linear_tables(results));
    if (is_whole) return;
    write_message("stopped; go on with the same flags\n");
    throw CLI::RuntimeError(kInterrupted);
}

std::string summaries_of_arms() {
    std::string text;
    for (const LinearArm& arm : linear_arms()) {
        text += cat(text.empty() ? "" : "; ", arm.name, ": ", arm.summary);
    }
    return text;
}

}  // namespace

void add_bench_linear(CLI::App& bench) {
    CLI::App& command = *bench.add_subcommand(
        "linear", "train small models with banks of states, and what they are compared with");
    auto f = std::make_shared<LinearBenchFlags>();
    LinearBenchOptions& o = f->options;
    std::vector<std::string> names;
    for (const LinearTaskKind& kind : linear_task_kinds()) names.emplace_back(kind.name);
    command.add_option("--task", o.training.task.name, "what is learnt")
        ->check(CLI::IsMember(names))
        ->capture_default_str();
    command
        .add_option("--arms", o.arms,
                    cat("what is compared (default: all), in this order. ", summaries_of_arms()))
        ->delimiter(',');
    command.add_option("--bases", o.bases, "gated-delta, mamba2")
        ->delimiter(',')
        ->check(CLI::IsMember({"gated-delta", "mamba2"}))
        ->capture_default_str();
    command.add_option("-K,--states", o.n_states, "states a head")
        ->check(CLI::Range(int64_t{2}, int64_t{64}))
        ->capture_default_str();
    command
        .add_option("--rates", o.rates,
                    "every arm learns at each of these with the first seed, at the best one with "
                    "the others")
        ->delimiter(',')
        ->check(CLI::Range(1e-9, 1.0))
        ->capture_default_str();
    command.add_option("--seeds", o.seeds, "of everything random")
        ->delimiter(',')
        ->capture_default_str();
    command.add_option("-t,--threads", f->threads, "threads (default: all processors)")
        ->check(CLI::Range(1, 512));
    writes_file(command.add_option("-o,--out", f->out,
                                   "results, a line a model; those that are there stay"))
        ->capture_default_str();
    command.add_flag("--tables", f->tables_only, "only print what is in the file of results");
    add_linear_flags(command, o.training);
    command.callback([f] { bench_linear(*f); });
}

}  // namespace palimpsest
