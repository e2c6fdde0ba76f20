// palimpsest bench: measurements. `speed` is here, its siblings in files of their own.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/process.h"
#include "bench/speed.h"
#include "cli/bench_commands.h"
#include "cli/command.h"
#include "cli/memory_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "memory/kernels/attention_kernel.h"
#include "memory/recurrent/bank_read_out.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

// CLI11 reads a number beyond int64_t as the largest one: only a range refuses it.
constexpr int64_t kMostTokens = int64_t{1} << 28;

struct BenchFlags {
    ModelFlags model;
    SpeedOptions options;
    EvictionOptions eviction;  // what the memory comes to
    std::string peer;
    bool json = false;
};

/// Results travel; where a file lay on this machine does not.
std::string file_name(const std::string& path) {
    return std::filesystem::path(path).filename().string();
}

std::string padded(const std::string& text, size_t width) {
    return std::string(width - std::min(width, text.size()), ' ') + text;
}

/// Rows of a Markdown table, columns right-aligned.
std::string table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<size_t> widths(rows.front().size(), 0);
    for (const auto& row : rows) {
        for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string out;
    for (size_t r = 0; r < rows.size(); ++r) {
        for (size_t i = 0; i < rows[r].size(); ++i)
            out += "| " + padded(rows[r][i], widths[i]) + " ";
        out += "|\n";
        if (r > 0) continue;
        for (const size_t w : widths) out += "|" + std::string(w + 1, '-') + ":";
        out += "|\n";
    }
    return out;
}

std::string ratio(double ours, double peer, int digits = 2) {
    return ours > 0 && peer > 0 ? fixed(ours / peer, digits) + "x" : "-";
}

/// "bank dla:states=12;..., ", or nothing where there is none.
std::string bank_name(const MemoryChoice& choice) {
    if (is_read_out(choice.bank)) return cat("bank '", file_name(choice.bank), "', ");
    const OptionMap bank = bank_settings(choice);
    return bank.empty() ? "" : cat("bank ", to_string(read_bank_options(bank)), ", ");
}

/// "full", or "snap-kv, 1024 entries a head".
std::string memory_name(const BenchFlags& f) {
    const EvictionOptions& e = f.eviction;
    const size_t n = f.model.memory.prefixes.size();
    const std::string behind =
        n == 0 ? "" : cat(n, n == 1 ? " prefix memory, " : " prefix memories, ");
    const LatentOptions& latent = f.options.latent;
    const std::string over =
        latent.adapter.empty() ? "" : cat("latents of '", file_name(latent.adapter), "', ");
    const std::string states = bank_name(f.model.memory);
    if (e.policy == "full") return cat(behind, over, states, e.policy);
    return cat(behind, over, states, e.policy, e.allocator.empty() ? "" : "/" + e.allocator,
               e.residue == "none" ? "" : "+" + e.residue, ", ", to_string(e.budget),
               e.one_shot ? ", one-shot" : "");
}

std::string past_training(const SpeedReport& report) {
    int64_t deepest = 0;
    for (const SpeedResult& r : report.results) deepest = std::max(deepest, r.depth);
    if (deepest <= report.n_ctx_train) return "";
    return cat("\ndepths past ", report.n_ctx_train,
               " are beyond what the model was trained for: speed only");
}

std::string heading(const BenchFlags& f, const SpeedReport& report) {
    const SpeedOptions& o = f.options;
    return cat(processor_name(), ", ", o.n_threads, " threads, kernel ", attention_target(),
               ", reading ", to_string(report.reading), ", entries ", o.memory.entries, ", commit ",
               kCommit, "\nmodel ", file_name(o.model_path), "\nprefill of ", o.n_prefill,
               " tokens, decode of ", o.n_decode, ", medians of ", o.n_repeat,
               " interleaved repeats; memory ", memory_name(f), past_training(report), "\n\n");
}

/// How much of the last whole prompt's time went into deciding what stays.
std::string eviction_shares(const SpeedReport& report) {
    const auto found = std::find_if(report.results.rbegin(), report.results.rend(),
                                    [](const SpeedResult& r) { return r.phase == "prompt"; });
    if (found == report.results.rend() || report.memory.n_cuts == 0) return "";
    const SpeedResult& last = *found;
    const double taken = static_cast<double>(last.depth) / last.ours_all.back();
    return cat("\nof the last prompt's time: scoring ",
               fixed(100 * report.memory.scoring_s / taken, 1), " %, evicting ",
               fixed(100 * report.memory.cutting_s / taken, 1), " %, in ", report.memory.n_cuts,
               " cuts\n");
}

/// What a request behind a prefix waits for.
std::string first_token(const BenchFlags& f, const SpeedReport& report) {
    const SpeedResult& prefix = report.results.back();
    if (prefix.phase != "prefix" || f.options.depths.empty()) return "";
    const SpeedResult& request = report.results.front();
    const auto n = static_cast<double>(f.options.n_prefill);
    const auto n_prefix = static_cast<double>(prefix.depth);
    const auto ms = [](double s) { return fixed(1000 * s, s < 0.1 ? 1 : 0) + " ms"; };
    const double ours = n / request.ours;
    std::string text = cat("\na request of ", f.options.n_prefill, " tokens behind a prefix of ",
                           prefix.depth, ": first token after ", ms(ours), "; the memory holds ",
                           human_bytes(report.memory.prefix.held_bytes), ", a token reads ",
                           human_bytes(report.memory.prefix.moved_bytes), "\n");
    const auto beside = [&](std::string_view who, double s) {
        text += cat("  ", who, ": ", ms(s), " (", ratio(s, ours, 1), ")\n");
    };
    if (request.full > 0 && prefix.full > 0) {
        beside("ours, reading prefix and request", n_prefix / prefix.full + n / request.full);
        beside("ours, the prefix's entries in memory", n / request.full);
    }
    if (request.peer > 0 && prefix.peer > 0) {
        beside("libllama, reading both", n_prefix / prefix.peer + n / request.peer);
        beside("libllama, the prefix in its cache", n / request.peer);
    }
    return text;
}

void print_table(const BenchFlags& f, const SpeedReport& report) {
    const SpeedOptions& o = f.options;
    std::vector<std::vector<std::string>> rows = {{"phase", "depth", "ours tok/s", "full tok/s",
                                                   "libllama flash", "libllama plain", "ratio"}};
    for (const SpeedResult& r : report.results) {
        const auto cell = [](double x) { return x > 0 ? fixed(x, 1) : std::string("-"); };
        rows.push_back({r.phase, std::to_string(r.depth), cell(r.ours), cell(r.full),
                        cell(r.peer_flash), cell(r.peer_plain),
                        ratio(r.ours, r.peer > 0 ? r.peer : r.full)});
    }
    const std::string shares = eviction_shares(report) + first_token(f, report);
    if (!o.with_footprint) {
        return write_listing(cat(heading(f, report), table(rows), shares));
    }
    const auto mb = [](size_t bytes) { return bytes > 0 ? human_bytes(bytes) : std::string("-"); };
    const std::vector<std::vector<std::string>> footprint = {
        {"", "ours", "libllama", "ratio"},
        {"load time", fixed(report.ours.load_s, 3) + " s",
         report.peer.load_s > 0 ? fixed(report.peer.load_s, 3) + " s" : "-",
         ratio(report.ours.load_s, report.peer.load_s)},
        {"peak resident memory", mb(report.ours.peak_rss_bytes), mb(report.peer.peak_rss_bytes),
         ratio(static_cast<double>(report.ours.peak_rss_bytes),
               static_cast<double>(report.peer.peak_rss_bytes))}};
    write_listing(cat(heading(f, report), table(rows), shares, "\n", table(footprint)));
}

void print_json(const BenchFlags& f, const SpeedReport& report) {
    for (const SpeedResult& r : report.results) {
        nlohmann::json line = {{"phase", r.phase},
                               {"depth", r.depth},
                               {"memory", memory_name(f)},
                               {"beyond_training", r.depth > report.n_ctx_train},
                               {"ours", r.ours},
                               {"ours_all", r.ours_all},
                               {"ours_peak_rss_bytes", report.ours.peak_rss_bytes},
                               {"ours_load_s", report.ours.load_s},
                               {"threads", f.options.n_threads},
                               {"entries", f.options.memory.entries},
                               {"tokens", r.phase == "decode"    ? f.options.n_decode
                                          : r.phase == "prefill" ? f.options.n_prefill
                                                                 : r.depth},
                               {"repeats", f.options.n_repeat},
                               {"processor", processor_name()},
                               {"kernel", attention_target()},
                               {"reading", report.reading.name},
                               {"reading_least_rows", report.reading.least_rows},
                               {"model", file_name(f.options.model_path)},
                               {"commit", kCommit}};
        if (f.options.with_full) {
            line.update({{"full", r.full}, {"full_all", r.full_all}});
        }
        if (!report.memory.prefix.names.empty()) {
            line.update({{"prefix_tokens", report.memory.prefix.n_positions},
                         {"prefix_held_bytes", report.memory.prefix.held_bytes},
                         {"prefix_moved_bytes", report.memory.prefix.moved_bytes}});
        }
        if (report.memory.n_cuts > 0) {
            line.update({{"scoring_s", report.memory.scoring_s},
                         {"evicting_s", report.memory.cutting_s},
                         {"memory_peak_bytes", report.memory.peak_bytes}});
        }
        if (f.options.with_peer) {
            if (r.ours > 0) line["ratio"] = r.ours / r.peer;
            line.update({{"peer", r.peer},
                         {"peer_flash", r.peer_flash},
                         {"peer_plain", r.peer_plain},
                         {"peer_flash_all", r.peer_flash_all},
                         {"peer_plain_all", r.peer_plain_all},
                         {"peer_peak_rss_bytes", report.peer.peak_rss_bytes},
                         {"peer_load_s", report.peer.load_s}});
        }
        write_output(json_text(line) + "\n");
    }
}

void bench_speed(BenchFlags& f) {
    f.options.model_path = model_path_of(f.model);
    f.options.latent = f.model.latent;
    f.options.n_threads = thread_count(f.model.engine);
    f.options.reading = f.model.engine.reading;
    f.options.with_peer = f.peer == "llama";
    f.options.memory = f.model.memory;
    f.eviction = choose_eviction(f.model.memory, nullptr).eviction;
    if (is_bounded(f.model.memory) && f.model.memory.policy.empty()) {
        const Engine e = open_engine(f.model);
        f.eviction = plan_memory(e.runtime(), f.model.memory).options.eviction;
    }
    const SpeedReport report =
        measure_speed(f.options, [](const std::string& what) { write_message(dim(what + "\n")); });
    f.json ? print_json(f, report) : print_table(f, report);
}

}  // namespace

void add_bench(CLI::App& command) {
    command.require_subcommand(1);
    add_bench_quality(command);
    add_bench_prefix(command);
    add_bench_report(command);
    add_bench_linear(command);
    auto f = std::make_shared<BenchFlags>();
    CLI::App* speed = command.add_subcommand("speed", "prefill and decode, at several depths");
    add_model_flag(*speed, f->model);
    add_reading_flag(*speed, f->model);
    speed->add_option("-t,--threads", f->model.engine.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    speed->add_option("--peer", f->peer, "measure libllama beside us, interleaved")
        ->check(CLI::IsMember({"llama"}));
    const CLI::Option* depths =
        speed
            ->add_option("--depths", f->options.depths,
                         "tokens already held, ascending (with --prompts: none unless given)")
            ->delimiter(',')
            ->check(CLI::Range(int64_t{0}, kMostTokens))
            ->capture_default_str();
    speed
        ->add_option("--prompts", f->options.prompts,
                     "whole prompts of so many tokens, each read from nothing")
        ->delimiter(',')
        ->check(CLI::Range(int64_t{2}, kMostTokens));
    bool* const footprint = &f->options.with_footprint;
    speed->add_flag_callback(
        "--no-footprint", [footprint] { *footprint = false; },
        "leave out memory and load time, which read everything once more");
    speed->add_flag("--beside-full", f->options.with_full,
                    "measure our unbounded memory beside the bounded one");
    speed->add_option("--prefill", f->options.n_prefill, "tokens read at once")
        ->check(CLI::Range(int64_t{2}, kMostTokens))
        ->capture_default_str();
    speed->add_option("--decode", f->options.n_decode, "tokens read one by one")
        ->check(CLI::Range(int64_t{1}, kMostTokens))
        ->capture_default_str();
    speed->add_option("--repeats", f->options.n_repeat, "medians are taken over so many")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    speed->add_option("--entries", f->model.memory.entries, "how our keys and values are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    add_memory_flags(*speed, f->model.memory);
    add_prefix_flags(*speed, f->model);
    add_latent_flags(*speed, f->model);
    speed->add_flag("--json", f->json, "print one JSON line a measurement");
    speed->footer(
        "\nAt every depth, --decode tokens are read one by one, then --prefill at once.\n");
    speed->callback([f, depths] {
        if (!f->options.prompts.empty() && depths->count() == 0) f->options.depths.clear();
        bench_speed(*f);
    });
}

}  // namespace palimpsest
