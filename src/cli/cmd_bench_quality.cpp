// palimpsest bench quality: what memories cost in quality, as a file of results that grows.

#include <chrono>
#include <memory>

#include "bench/process.h"
#include "bench/quality/quality.h"
#include "cli/bench_commands.h"
#include "cli/file_flags.h"
#include "cli/results_file.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "engine/memory_choice.h"
#include "engine/runtime.h"
#include "memory/prefix/prefix_file.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr double kMinute = 60;

struct QualityFlags {
    ModelFlags model;
    QualityOptions options;
    std::vector<std::string> tasks = {"niah_single_1"}, memories;
    std::vector<double> ratios;
    std::vector<std::string> budgets, questions = {"agnostic"}, skim;
    std::string out = "quality.jsonl";
    bool list = false;
};

ResultsFile::Known read_known(const std::string& text, const std::string& name) {
    ResultsFile::Known known;
    for (const QualityResult& r : read_quality_results(text, name, &known.whole_bytes)) {
        known.keys.push_back(r.key());
    }
    return known;
}

/// Tells how far it is: a bar on a terminal, a line a minute elsewhere.
class Progress {
 public:
    bool show(int64_t done, int64_t total, const std::string& what) {
        if (first_ < 0) first_ = done;
        bar_.set_label(what);
        bar_.show(done - first_, total - first_);
        const auto now = std::chrono::steady_clock::now();
        const auto since = [&](auto then) {
            return std::chrono::duration<double>(now - then).count();
        };
        if (!messages_are_terminal() && since(told_) >= kMinute) {
            told_ = now;
            const double each =
                since(start_) / static_cast<double>(std::max<int64_t>(1, done - first_));
            write_message(cat(human_count(done), " of ", human_count(total), " results, about ",
                              human_seconds(each * static_cast<double>(total - done)),
                              " left; now ", what, "\n"));
        }
        return !interrupted();
    }
    void clear() { bar_.clear(); }

 private:
    ProgressBar bar_{"", "results"};
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    std::chrono::steady_clock::time_point told_ = start_;
    int64_t first_ = -1;  // results there were when it began
};

/// Tasks that were named must be; those of a group, if their data are there.
void add_tasks(const std::vector<std::string>& names, QualityOptions& to) {
    for (const TaskKind* kind : find_tasks(names)) {
        const bool is_named = std::ranges::find(names, kind->name) != names.end();
        (is_named ? to.tasks : to.possible).push_back(kind);
    }
}

/// Parts that do not belong together are refused before any sample is made.
std::optional<LatentUse> latent_use(const LatentOptions& options, const LoadedModel& loaded,
                                    Backend& backend) {
    if (options.adapter.empty()) return std::nullopt;
    const Runtime runtime(loaded, backend);
    const LatentContext latent(runtime, options);
    return LatentUse{.options = options,
                     .ratio = latent.ratio(),
                     .fingerprint = model_fingerprint(GgufFile::open(latent.adapter_path()))};
}

QualityOptions quality_options(const QualityFlags& f) {
    QualityOptions o = f.options;
    add_tasks(f.tasks, o);
    for (const double evicted : f.ratios) {
        o.one_shot.push_back({.kind = Budget::Kind::kEvicted, .count = 0, .share = evicted});
    }
    for (const std::string& budget : f.budgets) o.streaming.push_back(parse_budget(budget));
    for (const std::string& chooser : f.skim) o.skim.push_back(skim_chooser_named(chooser));
    o.agnostic = std::ranges::find(f.questions, "agnostic") != f.questions.end();
    o.aware = std::ranges::find(f.questions, "aware") != f.questions.end();
    require(f.memories.empty() || !f.ratios.empty() || !f.budgets.empty(),
            "memories need --ratios (cut once) or --budgets (held to while reading)");
    return o;
}

void list_tasks() {
    std::string text;
    for (const TaskKind& kind : task_kinds()) {
        const std::string name(kind.name);
        text +=
            cat(name, std::string(name.size() < 28 ? 28 - name.size() : 1, ' '), kind.group,
                std::string(kind.group.size() < 12 ? 12 - kind.group.size() : 1, ' '),
                kind.metric->name,
                std::string(kind.metric->name.size() < 16 ? 16 - kind.metric->name.size() : 1, ' '),
                kind.summary, "\n");
    }
    write_listing(text);
}

void bench_quality(const QualityFlags& f) {
    if (f.list) return list_tasks();
    QualityOptions options = quality_options(f);
    const std::string path = model_path_of(f.model);
    options.n_threads = f.model.engine.threads > 0 ? f.model.engine.threads : 1;
    if (options.n_jobs == 0) {
        options.n_jobs = std::max(1, Backend::available_threads() / options.n_threads);
    }
    Backend backend(options.n_threads);
    const LoadedModel loaded(path, backend, reading_named(f.model.engine.reading));
    options.model_name = model_name(path, loaded.file());
    options.reading = loaded.reading().name;
    options.learned = load_sidecar(f.model.memory.sidecar, loaded, backend);
    options.memories = parse_memory_specs(f.memories, options.learned.get());
    options.prefix =
        prefix_use(f.model.memory, read_prefixes_for(loaded.file(), f.model.memory.prefixes));
    options.latent = latent_use(f.model.latent, loaded, backend);
    ResultsFile file(f.out, read_known);
    const size_t before = file.size();
    catch_interrupts();
    Progress progress;
    const QualityHooks hooks = {
        .is_known = [&](const std::string& key) { return file.has(key); },
        .on_result =
            [&](const QualityResult& result) {
                QualityResult whole = result;
                whole.commit = kCommit;
                whole.processor = processor_name();
                file.add(whole.key(), to_json_line(whole));
            },
        .on_left_out =
            [](const std::string& why) {
                write_message(printable_lines(cat("left out: ", why, "\n")));
            },
        .on_progress = [&](int64_t done, int64_t total,
                           const std::string& what) { return progress.show(done, total, what); }};
    const bool whole = measure_quality(options, loaded, hooks);
    progress.clear();
    write_message(cat(file.size() - before, " results added to '", f.out, "', which holds ",
                      file.size(), "; read them with: palimpsest bench report ", f.out, "\n"));
    if (!whole) throw CLI::RuntimeError(kInterrupted);
}

void add_data_flags(CLI::App& command, QualityFlags& f) {
    const char* const group = "Data";
    TaskSources& s = f.options.sources;
    reads_file(
        command.add_option("--haystack", s.haystack,
                           "any long text, in which needles are hidden (RULER's own are essays)"))
        ->group(group);
    reads_file(
        command.add_option("--ruler-samples", s.ready,
                           "folder of ready samples, LENGTH/TASK.jsonl, instead of generated ones"))
        ->group(group);
    reads_file(command.add_option("--squad", s.squad, "SQuAD's JSON file, for qa_1"))->group(group);
    reads_file(command.add_option("--hotpotqa", s.hotpotqa, "HotpotQA's JSON file, for qa_2"))
        ->group(group);
    reads_file(
        command.add_option("--longbench", s.longbench, "folder of LongBench's TASK.jsonl files"))
        ->group(group);
    reads_file(command.add_option("--many-icl", s.many_icl, "folder of ManyICLBench's files"))
        ->group(group);
    reads_file(command.add_option("--text", s.text, "any text, for the task 'text'"))->group(group);
}

void add_memory_list_flags(CLI::App& command, QualityFlags& f) {
    const char* const group = "Memories";
    command
        .add_option("-p,--memories", f.memories,
                    "POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE;...], or 'all' policies; the full "
                    "cache and 'window' always stand beside them; with --latent they are held over "
                    "latents")
        ->delimiter(',')
        ->group(group);
    command
        .add_option("--ratios", f.ratios,
                    "shares evicted in one cut, after the context was read: the papers' protocol")
        ->delimiter(',')
        ->check(CLI::Range(0.0, 0.9999999))
        ->group(group);
    command
        .add_option("--budgets", f.budgets,
                    "held to while the context is read: entries a head (512), bytes (16MiB) or a "
                    "share (25%)")
        ->delimiter(',')
        ->group(group);
    command
        .add_option("--questions", f.questions,
                    "agnostic: cut before the question is known; aware: after it was read")
        ->delimiter(',')
        ->check(CLI::IsMember({"agnostic", "aware"}))
        ->capture_default_str()
        ->group(group);
    command.add_option("--entries", f.options.entries, "how keys and values are stored")
        ->delimiter(',')
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str()
        ->group(group);
}

void add_skim_flags(CLI::App& command, QualityFlags& f) {
    const char* const group = "Latent context";
    CLI::Option* latent = command.get_option("--latent");
    command
        .add_option("--skim", f.skim,
                    "the agent of 'palimpsest skim' beside them, and who chooses what it expands: "
                    "model, words")
        ->delimiter(',')
        ->check(CLI::IsMember({"model", "words"}))
        ->needs(latent)
        ->group(group);
    command.add_option("--skim-chunk", f.options.skim_chunk, "most tokens of its chunks")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str()
        ->needs(latent)
        ->group(group);
}

}  // namespace

void add_bench_quality(CLI::App& bench) {
    CLI::App& command =
        *bench.add_subcommand("quality", "what memories cost in quality, over many tasks");
    auto f = std::make_shared<QualityFlags>();
    add_model_flag(command, f->model);
    add_reading_flag(command, f->model);
    f->options.n_jobs = 0;
    command
        .add_option("-j,--jobs", f->options.n_jobs,
                    "samples run at once (default: as many as there are processors)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    command.add_option("-t,--threads", f->model.engine.threads, "threads of each job (default: 1)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    command.add_option("--chunk", f->options.n_chunk, "tokens read in one step")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str();
    command
        .add_option(
            "--tasks", f->tasks,
            "names or groups (ruler, needle, many-shot, many-icl, longbench, longbench-e, text, "
            "all); what a group has no data for is left out")
        ->delimiter(',')
        ->capture_default_str();
    command.add_flag("--list-tasks", f->list, "list all tasks and go");
    command
        .add_option("--lengths", f->options.lengths, "tokens of a prompt, its answer's included")
        ->delimiter(',')
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 28))
        ->capture_default_str();
    command.add_option("-n,--samples", f->options.n_samples, "of every task, length and seed")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    command.add_option("--seeds", f->options.seeds, "of the samples' making")
        ->delimiter(',')
        ->capture_default_str();
    command
        .add_option("--depths", f->options.depths,
                    "of needles, 0 to 1, for the task 'needle' (default: 11, evenly)")
        ->delimiter(',')
        ->check(CLI::Range(0.0, 1.0));
    command.add_option("--lanes", f->options.n_lanes, "answers written at once")
        ->check(CLI::Range(int64_t{1}, int64_t{64}))
        ->capture_default_str();
    command.add_flag_callback(
        "--no-template", [f] { f->options.with_template = false; },
        "leave the model's chat template out");
    writes_file(command.add_option("-o,--out", f->out,
                                   "JSON lines; what stands there already is not computed again"))
        ->capture_default_str();
    add_memory_list_flags(command, *f);
    add_prefix_flags(command, f->model);
    add_latent_flags(command, f->model);
    add_skim_flags(command, *f);
    add_data_flags(command, *f);
    command.footer(
        "\nA run can be stopped and started again: it goes on where it was.\n"
        "Read results with: palimpsest bench report FILE...\n");
    command.callback([f] { bench_quality(*f); });
}

}  // namespace palimpsest
