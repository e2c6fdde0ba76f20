// palimpsest prefix: a long text that many requests share becomes a memory that is looked up.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "memory/budget.h"
#include "memory/prefix/prefix_file.h"
#include "prefix/prefix_build.h"
#include "prefix/prefix_records.h"
#include "prefix/self_study.h"

namespace palimpsest {

namespace {

constexpr int64_t kFewHeldOut = 16;

struct BuildFlags {
    ModelFlags model;
    TextFlags text;
    std::string file, traces, out, name, budget, keys_of = "head", position = "pre", storage = "i8",
                                                 codebooks = "individual", aggregation = "weighted",
                                                 lookup = "auto", kept_by = "repetition";
    std::optional<double> kept = {};
    int64_t self_study = 0, k = 0, seed = 1, held_out = 64, chunks = 1;
    bool raw = false, whiten = false, force = false, keep_exact = false;
};

/// Phases one after another, each with its bar; where messages are no terminal, a line each.
class Phases {
 public:
    bool show(std::string_view phase, int64_t done, int64_t total) {
        if (phase != phase_) {
            bar_ = std::make_unique<ProgressBar>(std::string(phase), "");
            phase_ = phase;
            start_ = std::chrono::steady_clock::now();
            if (!messages_are_terminal()) write_message(cat("palimpsest: ", phase, "\n"));
        }
        bar_->show(done, total);
        if (done < total) return !interrupted();
        bar_->clear();
        const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
        write_message(dim(cat("  ", phase, ": ", human_seconds(spent.count()), "\n")));
        return !interrupted();
    }

 private:
    std::string phase_;
    std::unique_ptr<ProgressBar> bar_;
    std::chrono::steady_clock::time_point start_;
};

PrefixRuntime runtime(const Engine& e, Phases& phases) {
    return {.engine = e.runtime(),
            .progress = [&phases](std::string_view phase, int64_t done,
                                  int64_t total) { return phases.show(phase, done, total); },
            .on_note = write_note};
}

PrefixBuildOptions build_options(const BuildFlags& f) {
    PrefixBuildOptions o;
    o.name = f.name.empty() ? std::filesystem::path(f.file).stem().string() : f.name;
    o.heads_per_key = f.keys_of == "group" ? 0 : f.keys_of == "head" ? 1 : std::stoll(f.keys_of);
    o.is_shared = f.codebooks == "shared";
    o.keys = f.position == "post" ? PrefixKeys::kPost : PrefixKeys::kPre;
    o.whiten = f.whiten;
    o.storage = f.storage == "f16" ? PrefixStorage::kF16 : PrefixStorage::kI8;
    o.k = f.k;
    o.kept_share = f.kept;
    o.kept_by = f.kept_by == "traces" ? KeptBy::kTraces : KeptBy::kRepetition;
    o.seed = static_cast<uint64_t>(f.seed);
    o.n_held_out = f.held_out;
    o.n_chunks = f.chunks;
    o.is_forced = f.force;
    o.keep_exact = f.keep_exact;
    o.aggregation = f.aggregation == "plain" ? Aggregation::kPlain : Aggregation::kWeighted;
    o.lookup = f.lookup == "linear"      ? PrefixLookup::kLinear
               : f.lookup == "two-level" ? PrefixLookup::kTwoLevel
                                         : PrefixLookup::kFaster;
    o.work_folder = f.out + ".work";
    if (f.budget.empty()) return o;
    const Budget budget = parse_budget(f.budget);
    require(budget.kind == Budget::Kind::kBytes && f.k == 0,
            "--budget is what may be held, in bytes (24MiB), and takes the place of "
            "--entries-per-head");
    o.budget_bytes = static_cast<size_t>(budget.count);
    return o;
}

std::vector<TraceText> traces_of(const BuildFlags& f, const PrefixRuntime& with,
                                 const PrefixText& text) {
    require(f.traces.empty() != (f.self_study == 0),
            "say where requests come from: --traces FILE with JSON lines of 'prompt' and "
            "'response', or --self-study N");
    if (!f.traces.empty()) return parse_traces(read_file(f.traces));
    const auto seed = static_cast<uint64_t>(f.seed);
    const std::string beside = f.out + ".self_study";
    if (f.chunks == 1) return self_study(with, text, f.self_study, seed, beside);
    // About every piece as many questions: no more of the text is before the model at once.
    std::vector<TraceText> all;
    for (const PrefixText& piece : text.pieces(f.chunks)) {
        const int64_t n = (f.self_study + f.chunks - 1) / f.chunks;
        std::ranges::move(self_study(with, piece, n, seed, beside), std::back_inserter(all));
    }
    return all;
}

std::string kept_of(const PrefixDocument& d) {
    std::vector<int64_t> counts;
    for (const auto& positions : d.kept_positions()) {
        if (!positions.empty()) counts.push_back(std::ssize(positions));  // a layer with a window
    }
    const auto [least, most] = std::ranges::minmax(counts);
    const int64_t all = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    return cat(" beside ", human_count(all), " kept entries of its own, ", least, " to ", most,
               " a KV head");
}

/// `study_s`: what asking itself took; 0 where traces were given.
std::string summary(const PrefixBuild& b, double study_s) {
    const PrefixDocument& d = *b.document;
    const PrefixHeader& h = d.header();
    std::string out;
    const int64_t left_out = b.n_in_prefix + b.n_too_long + b.n_empty + b.n_repeated;
    if (left_out > 0) {
        out += cat("left out: ", b.n_in_prefix, " traces that repeat the prefix, ", b.n_repeated,
                   " that repeat another, ", b.n_too_long, " too long, ", b.n_empty, " empty\n");
    }
    out += cat(human_count(std::ssize(h.tokens)), " tokens became ", h.k, " entries a dictionary",
               d.keeps_entries() ? kept_of(d) : "", ", from ", human_count(b.n_records),
               " records of ", h.n_traces, " traces",
               b.k_was_lowered ? " (no more entries: 8 records each)" : "", "\n  held   ",
               human_bytes(d.held_bytes()), ", ", 100 * d.held_bytes() / b.cache_bytes,
               " % of the prefix's cache (", human_bytes(b.cache_bytes), ")\n  moved  ",
               human_bytes(d.moved_bytes()), " a token, ", 100 * d.moved_bytes() / b.cache_bytes,
               " % of it\n");
    const double all = study_s + b.prefill_s + b.traces_s + b.clustering_s + b.checking_s;
    out += cat("built in ", human_seconds(all), ": ",
               study_s > 0 ? cat("asking itself ", human_seconds(study_s), ", ") : "", "prefix ",
               human_seconds(b.prefill_s), ", traces ", human_seconds(b.traces_s), ", clustering ",
               human_seconds(b.clustering_s), ", checking ", human_seconds(b.checking_s), "\n");
    if (b.prefill_s > 1) {
        std::array<char, 32> n{};
        std::snprintf(n.data(), n.size(), "%.1f", all / b.prefill_s);
        out += cat("pays for itself after ", n.data(), " requests that read the prefix anew\n");
    }
    return out;
}

void warn_of(const PrefixErrors& errors) {
    if (errors.is_good()) return;
    write_message(
        "palimpsest: the errors are above what a faithful memory has: more traces, more entries or "
        "traces nearer to the requests would help\n");
}

constexpr double kManyAlone = 0.1;

/// Records behind each entry of a dictionary.
std::span<const int32_t> occupancy_of(const PrefixDocument& d, int64_t layer, int64_t codebook) {
    const GgufTensor& of = d.layers()[static_cast<size_t>(layer)].occupancy;
    const auto* first = reinterpret_cast<const int32_t*>(of.data.data());
    return {first + codebook * of.shape[0], static_cast<size_t>(d.count(layer, codebook))};
}

/// Of all entries, those that one record alone made.
double share_of_single_records(const PrefixDocument& d) {
    int64_t n = 0;
    int64_t alone = 0;
    for (int64_t l = 0; l < d.header().n_layer; ++l) {
        for (int64_t c = 0; c < d.header().layout.n_codebooks(); ++c) {
            n += d.count(l, c);
            alone += std::ranges::count(occupancy_of(d, l, c), 1);
        }
    }
    return static_cast<double>(alone) / static_cast<double>(n);
}

void build(const BuildFlags& f) {
    require(f.out.ends_with(".gguf"), "the memory is a GGUF file; name it with --out FILE",
            ".prefix.gguf");
    const PrefixBuildOptions options = build_options(f);
    const Engine e(f.model.engine);
    const Tokenizer& tokenizer = e.runtime().loaded().require_tokenizer();
    catch_interrupts();
    Phases phases;
    const PrefixRuntime with = runtime(e, phases);
    const PrefixText text(tokenizer, prepared(read_file(f.file), f.text, tokenizer), f.raw);
    if (f.kept.value_or(0) > 0) {  // before a self-study
        const std::string why = why_none_is_kept(with, text, f.chunks, options.kept_by);
        require(why.empty(), why);
    }
    const auto start = std::chrono::steady_clock::now();
    const std::vector<TraceText> traces = traces_of(f, with, text);
    const std::chrono::duration<double> asking = std::chrono::steady_clock::now() - start;
    const PrefixBuild built = build_prefix(with, text, traces, options);
    // Before anything is said of it: what took hours is not lost with a closed pipe.
    const std::vector<std::shared_ptr<const PrefixDocument>> all = {built.document};
    write_prefixes(f.out, all);
    forget_folder(options.work_folder);
    write_output(errors_for_people(built.errors, "held-out ") +
                 summary(built, f.self_study > 0 ? asking.count() : 0));
    if (built.errors.n_traces < kFewHeldOut) {
        write_message(cat("palimpsest: the check stands on ", built.errors.n_traces,
                          " held-out traces, an eighth of all; from ", kFewHeldOut,
                          " on its figures mean more\n"));
    }
    warn_of(built.errors);
    if (const double alone = share_of_single_records(*built.document); alone > kManyAlone) {
        write_message(
            cat("palimpsest: ", std::lround(100 * alone),
                " % of the entries stand for one "
                "record each, which is no mean: more traces, or fewer entries, would help\n"));
    }
    write_listing(cat("written: ", f.out, "\n"));
}

std::string lookup_of(const PrefixDocument& d) {
    if (!d.has_lists()) return "linear";
    return cat("two-level: the ", kListsOpened, " nearest of ", d.lists(0, 0).directions.n,
               " lists of entries");
}

constexpr const char* kErrorColumns = "   E_out    E_a    E_l    E_w";

/// What the check found in a layer; empty: it was not checked.
std::string errors_of(const PrefixDocument& d, int64_t l) {
    const std::vector<float>& errors = d.header().layer_errors;
    if (errors.empty()) return {};
    const auto at = [&](int64_t i) {
        return static_cast<double>(errors[static_cast<size_t>(4 * l + i)]);
    };
    std::array<char, 64> line{};
    std::snprintf(line.data(), line.size(), "   %5.3f  %5.3f  %5.3f  %5.3f", at(0), at(1), at(2),
                  at(3));
    return line.data();
}

/// How many records stand behind a layer's entries, and how far these reach.
std::string occupancy_line(const PrefixDocument& d, int64_t l) {
    const PrefixLayer& layer = d.layers()[static_cast<size_t>(l)];
    const auto* radius = reinterpret_cast<const float*>(layer.radius.data.data());
    std::vector<int32_t> counts;
    double reach = 0;
    for (int64_t c = 0; c < d.header().layout.n_codebooks(); ++c) {
        for (int64_t i = 0; i < d.count(l, c); ++i) {
            counts.push_back(occupancy_of(d, l, c)[static_cast<size_t>(i)]);
            reach += double{radius[c * layer.radius.shape[0] + i]};
        }
    }
    std::ranges::sort(counts);
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(), "  %5d   %7d   %25d, %5d   %6.2f", static_cast<int>(l),
                  static_cast<int>(d.count(l, 0)), counts[counts.size() / 2], counts.front(),
                  reach / static_cast<double>(counts.size()));
    return line.data() + errors_of(d, l) + "\n";
}

std::string facts_of(const PrefixDocument& d) {
    const PrefixHeader& h = d.header();
    std::string out =
        cat(h.name, "\n  ", human_count(d.n_tokens()), " tokens",
            h.n_chunks > 1 ? cat(" in ", h.n_chunks, " pieces read apart") : std::string(), ", ",
            h.is_raw ? "raw" : "for chats", ", built with ", h.model_name, " (", h.model, ")\n  ",
            h.k, " entries", d.keeps_entries() ? kept_of(d) : "", ", ", to_string(h.keys),
            "-rotation keys of ", h.layout.heads_per_key,
            h.layout.heads_per_key == 1 ? " head" : " heads",
            h.layout.is_shared ? ", one dictionary a layer" : ", one dictionary a KV head",
            h.is_whitened ? ", whitened" : "", h.aggregation == "plain" ? ", plain means" : "",
            h.kept_by.empty() ? "" : cat(", kept by ", h.kept_by), ", seed ", h.seed, "\n  lookup ",
            lookup_of(d), "\n  from ", h.n_traces, " traces, ", human_count(h.n_trace_tokens),
            " tokens\n  holds ", human_bytes(d.held_bytes()), ", a token reads ",
            human_bytes(d.moved_bytes()));
    if (d.has_exact()) out += cat("; exact prefix ", human_bytes(d.exact_bytes()));
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(),
                  "\n  checked on %d traces%s: E_out %.3f (worst layer %.3f, answer %.3f), "
                  "agreement %.3f, KL %.3f\n",
                  static_cast<int>(h.n_held_out),
                  h.is_against_pieces ? " against each piece alone" : "",
                  static_cast<double>(h.e_out), static_cast<double>(h.e_out_worst),
                  static_cast<double>(h.e_out_answer), static_cast<double>(h.agreement),
                  static_cast<double>(h.divergence));
    out += line.data();
    const bool is_checked = h.e_out >= 0;
    PrefixErrors errors;
    errors.e_out = double{h.e_out};
    errors.e_out_answer = double{h.e_out_answer};
    if (is_checked && !errors.is_good()) {
        out += "  its errors are above what a faithful memory has\n";
    }
    return out;
}

void info(const std::string& path) {
    std::string out;
    for (const auto& d : read_prefixes(path)) {
        out += facts_of(*d) + "  layer   entries   records an entry: median, least   radius" +
               (d->header().layer_errors.empty() ? "" : kErrorColumns) + "\n";
        for (int64_t l = 0; l < d->header().n_layer; ++l) out += occupancy_line(*d, l);
    }
    write_listing(out);
}

struct VerifyFlags {
    ModelFlags model;
    std::string file, traces, text_file;
    TextFlags text;
    int64_t most = 64;
};

void verify(const VerifyFlags& f) {
    const auto documents = read_prefixes(f.file);
    const Engine e(f.model.engine);
    const Tokenizer& tokenizer = e.runtime().loaded().require_tokenizer();
    for (const auto& d : documents) check_made_for(d->header(), e.runtime().loaded().file());
    write_output("file, model, tokenizer, template and positions: as they were\n");
    catch_interrupts();
    Phases phases;
    const PrefixRuntime with = runtime(e, phases);
    for (const auto& d : documents) {
        const PrefixHeader& h = d->header();
        if (!f.text_file.empty()) {
            require(prepared(read_file(f.text_file), f.text, tokenizer) == h.text, "'", f.text_file,
                    "' is not the text that '", h.name, "' was built from; build it again");
            write_listing(cat(h.name, ": built from this text\n"));
        }
        const PrefixText text(tokenizer, h.text, h.is_raw);
        require(text.tokens() == h.tokens, "the text of '", h.name,
                "' gives other tokens now; build it again");
        if (f.traces.empty()) continue;
        std::vector<TraceTokens> traces;
        const int64_t room = e.runtime().loaded().config().n_ctx_train - d->n_positions();
        for (const TraceText& t : parse_traces(read_file(f.traces))) {
            if (t.prompt.find_first_not_of(" \t\r\n") == std::string::npos) continue;
            TraceTokens tokens = text.trace(t);
            if (std::ssize(tokens.tokens) <= room) traces.push_back(std::move(tokens));
            if (std::ssize(traces) == f.most) break;
        }
        require(!traces.empty(), "no trace has a prompt and fits behind the prefix");
        const PrefixErrors errors = PrefixPieces(with, text, h.n_chunks).check(d, nullptr, traces);
        write_output(errors_for_people(errors, ""));
        warn_of(errors);
    }
}

struct ComposeFlags {
    std::vector<std::string> files, drop;
    std::string out;
};

void compose(const ComposeFlags& f) {
    std::vector<std::shared_ptr<const PrefixDocument>> all;
    for (const std::string& path : f.files) {
        for (auto& d : read_prefixes(path)) {
            const auto same = [&](const auto& other) {
                return other->header().name == d->header().name;
            };
            require(std::ranges::none_of(all, same), "two documents are called '", d->header().name,
                    "'; build one of them with another --name");
            const bool fits = all.empty() || (all.front()->header().model == d->header().model &&
                                              all.front()->header().is_raw == d->header().is_raw);
            require(fits, "'", d->header().name,
                    "' was built with another model or template than '",
                    all.empty() ? "" : all.front()->header().name, "'");
            all.push_back(std::move(d));
        }
    }
    for (const std::string& name : f.drop) {
        const auto n = std::erase_if(all, [&](const auto& d) { return d->header().name == name; });
        require(n > 0, "no document is called '", name, "'");
    }
    write_prefixes(f.out, all);
    std::string names;
    for (const auto& d : all) names += cat(names.empty() ? "" : ", ", d->header().name);
    write_listing(cat("written: ", f.out, ": ", names, "\n"));
    if (std::ssize(all) > kMostPrefixes) {
        write_message(cat("palimpsest: at most ", kMostPrefixes, " are used together\n"));
    }
}

void add_build(CLI::App& group) {
    auto f = std::make_shared<BuildFlags>();
    CLI::App& c = *group.add_subcommand("build", "make a memory from a text and sample requests");
    reads_file(c.add_option("-f,--file", f->file, "the prefix: a text"))->required();
    reads_file(c.add_option("--traces", f->traces,
                            "JSON lines of 'prompt' and 'response' like the requests to come"));
    c.add_option("--self-study", f->self_study, "no traces: the model asks itself so many times")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    writes_file(c.add_option("-o,--out", f->out, "the file to write: NAME.prefix.gguf"))
        ->required();
    c.add_option("--name", f->name, "of the document (default: its file's)");
    c.add_option("-b,--budget", f->budget,
                 "bytes held (24MiB; default: a quarter of the prefix's cache)");
    c.add_option("-k,--entries-per-head", f->k,
                 "entries of a dictionary, instead of a budget; what is kept comes on top")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    c.add_option("--kept", f->kept,
                 "share of what is held that goes to the prefix's own entries which are attended "
                 "to most; the dictionaries hold what is left (default: 0.5, and 0 with --chunks, "
                 "sliding windows or no room behind the prefix)")
        ->check(CLI::Range(0.0, 1.0));
    c.add_option("--kept-by", f->kept_by,
                 "attended to by the model repeating the prefix, or by traces")
        ->check(CLI::IsMember({"repetition", "traces"}))
        ->capture_default_str();
    c.add_option("--keys", f->keys_of,
                 "a key is one head's query (head), those of so many heads, or of all that share a "
                 "KV head (group)")
        ->check(CLI::IsMember({"head", "group"}) | CLI::Range(int64_t{1}, int64_t{1} << 16))
        ->capture_default_str();
    c.add_option("--positions", f->position, "queries before or after their rotation")
        ->check(CLI::IsMember({"pre", "post"}))
        ->capture_default_str();
    c.add_option("--codebooks", f->codebooks, "a dictionary for every KV head, or one a layer")
        ->check(CLI::IsMember({"individual", "shared"}))
        ->capture_default_str();
    c.add_flag("--whiten", f->whiten, "even out what directions of queries vary by");
    c.add_option("--storage", f->storage,
                 "of keys and states; kept entries are q8_0 beside i8, f16 beside f16")
        ->check(CLI::IsMember({"i8", "f16"}))
        ->capture_default_str();
    c.add_option("--aggregation", f->aggregation, "of a cluster's states: by weight, or plain")
        ->check(CLI::IsMember({"weighted", "plain"}))
        ->capture_default_str();
    c.add_option("--chunks", f->chunks,
                 "read the prefix in so many pieces apart from each other: for one that is longer "
                 "than the model's window")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
        ->capture_default_str();
    c.add_option("--lookup", f->lookup,
                 "through all entries, or through lists of alike ones (auto: what is faster)")
        ->check(CLI::IsMember({"linear", "two-level", "auto"}))
        ->capture_default_str();
    c.add_option("--seed", f->seed, "of clusters and of a self-study")->capture_default_str();
    c.add_option("--held-out", f->held_out, "traces to check with, at most an eighth")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    c.add_flag("--raw", f->raw, "no chat template: requests continue the text");
    c.add_flag("--keep-exact", f->keep_exact,
               "keep the prefix's own cache in the file, for --prefix-gate");
    c.add_flag("--force", f->force, "more entries than the records allow");
    add_model_flags(c, f->model);
    add_text_flags(c, f->text);
    c.callback([f] { build(*f); });
}

}  // namespace

void add_prefix(CLI::App& command) {
    command.require_subcommand(1);
    add_build(command);

    auto path = std::make_shared<std::string>();
    CLI::App& i = *command.add_subcommand("info", "what a memory holds, its errors and occupancy");
    reads_file(i.add_option("file", *path, "NAME.prefix.gguf"))->required();
    i.callback([path] { info(*path); });

    auto v = std::make_shared<VerifyFlags>();
    CLI::App& check = *command.add_subcommand("verify", "check a memory against model and prefix");
    reads_file(check.add_option("file", v->file, "NAME.prefix.gguf"))->required();
    reads_file(check.add_option("--traces", v->traces, "measure its errors on these JSON lines"));
    reads_file(check.add_option("--text", v->text_file, "is it still this text?"));
    check.add_option("--most", v->most, "traces measured")
        ->needs("--traces")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    add_model_flags(check, v->model);
    add_text_flags(check, v->text);
    check.callback([v] { verify(*v); });

    auto m = std::make_shared<ComposeFlags>();
    CLI::App& join = *command.add_subcommand(
        "compose", "put several documents' memories into one file, or drop some");
    reads_file(join.add_option("files", m->files, "NAME.prefix.gguf, ..."))->required();
    join.add_option("--drop", m->drop, "name of a document to leave out (repeatable)")
        ->allow_extra_args(false);
    writes_file(join.add_option("-o,--out", m->out, "the file to write"))->required();
    join.callback([m] { compose(*m); });
    command.footer(
        "\nExamples:\n"
        "  palimpsest prefix build -f rules.txt --self-study 200 -o rules.prefix.gguf\n"
        "  palimpsest run --prefix rules.prefix.gguf 'What does rule 12 say?'\n");
}

}  // namespace palimpsest
