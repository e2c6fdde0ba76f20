// palimpsest bench prefix: prefix memories beside their rivals, on a generated task.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/prefix_demo.h"
#include "cli/bench_commands.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace palimpsest {

namespace {

struct PrefixBenchFlags {
    ModelFlags model;
    PrefixDemoOptions options;
    bool json = false;
};

nlohmann::json to_json(const PrefixResult& r) {
    return {{"method", r.method},
            {"size", r.size},
            {"seed", r.seed},
            {"cluster_seed", r.cluster_seed},
            {"held_bytes", r.held_bytes},
            {"moved_bytes", r.moved_bytes},
            {"n", r.n},
            {"right", r.n_right},
            {"as_full", r.n_same},
            {"only_full_right", r.n_only_full},
            {"only_this_right", r.n_only_this},
            {"divergence", r.divergence},
            {"request_s", r.first_answer_s},
            {"build_s", r.build_s},
            {"e_out", r.e_out},
            {"e_out_answer", r.e_out_answer}};
}

void bench(PrefixBenchFlags& f) {
    const Engine e = load_engine(f.model);
    catch_interrupts();
    const PrefixRuntime with = {
        .loaded = *e.loaded,
        .backend = *e.backend,
        .n_chunk = f.model.chunk,
        .progress = [](std::string_view, int64_t, int64_t) { return !interrupted(); }};
    const bool is_ours = f.options.work_folder.empty();
    if (is_ours) {
        f.options.work_folder =
            (std::filesystem::temp_directory_path() / "palimpsest_bench_prefix").string();
    }
    const auto told = [&](const PrefixResult& r) {
        if (f.json) return write_output(to_json(r).dump() + "\n");
        write_message(cat("  ", r.method, " ", r.size, ": ", r.n_right, " of ", r.n, " right\n"));
    };
    const auto results = run_prefix_demo(with, f.options, told);
    if (!f.json) write_output(prefix_table(results));
    std::error_code ignored;
    if (is_ours) std::filesystem::remove_all(f.options.work_folder, ignored);
}

}  // namespace

void add_bench_prefix(CLI::App& bench_command) {
    auto f = std::make_shared<PrefixBenchFlags>();
    CLI::App& c = *bench_command.add_subcommand(
        "prefix", "prefix memories beside full, truncated, evicted and retrieved prefixes");
    PrefixDemoOptions& o = f->options;
    c.add_option("--seeds", o.seeds, "of the generated tasks")->delimiter(',');
    c.add_option("--cluster-seeds", o.n_cluster_seeds, "builds of every memory")
        ->capture_default_str();
    c.add_option("--length", o.task.n_prefix_tokens, "tokens of demonstrations")
        ->capture_default_str();
    c.add_option("--traces", o.task.n_traces, "sample requests")->capture_default_str();
    c.add_option("--traced-intents", o.task.n_traced, "fewer than 16: requests unlike the traces")
        ->check(CLI::Range(int64_t{1}, int64_t{16}))
        ->capture_default_str();
    c.add_option("--tests", o.task.n_tests, "requests that are answered")->capture_default_str();
    c.add_option("--entries-per-head", o.entries, "of memories")->delimiter(',');
    c.add_option("--tokens", o.tokens, "of truncated and evicted prefixes")->delimiter(',');
    c.add_flag("--group", o.with_group, "keys of whole groups, too");
    c.add_flag("--kvzip", o.with_kvzip, "KVzip's eviction, too (slow)");
    c.add_flag("!--no-wrong", o.with_wrong, "leave out the wrong-prefix control");
    c.add_option("--work", o.work_folder, "where records wait (default: a temporary folder)");
    c.add_flag("--json", f->json, "print one JSON line a result");
    add_model_flags(c, f->model);
    c.callback([f] { bench(*f); });
}

}  // namespace palimpsest
