#include "bench/prefix/prefix_demo.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>

#include "bench/prefix/prefix_questions.h"
#include "core/error.h"
#include "engine/rehearsal.h"
#include "engine/session.h"
#include "memory/cache/kv_cache.h"
#include "prefix/prefix_mass.h"
#include "prefix/prefix_records.h"

namespace palimpsest {

namespace {

constexpr std::array<const char*, 3> kUnseeing = {"window", "random", "kvzip"};
constexpr int64_t kOwnPositions = 256;  // of a request
constexpr size_t kWeighed = 4;          // every fourth trace says what eviction should keep
constexpr int64_t kHeldOut = 32;        // traces that errors are measured on

using Answers = PrefixQuestions::Answers;

/// One seed's prefix and requests, and the answers of the full prefix. What takes time is done when
/// it is first needed.
class Demo {
 public:
    Demo(const PrefixRuntime& with, const PrefixDemoOptions& options, uint64_t seed,
         bool is_shuffled = false)
        : with_(with),
          options_(options),
          task_options_(options.task),
          text_(tokenizer(), make_task(seed, is_shuffled), true),
          questions_(with, task_, options.asks_validation ? task_.validation : task_.tests) {
        const auto folder = std::filesystem::path(options.work_folder) /
                            cat(task_options_.name, "_", seed, is_shuffled ? "_shuffled" : "");
        std::filesystem::create_directories(folder);
        work_folder_ = folder.string();
    }

    [[nodiscard]] int64_t n_prefix() const { return std::ssize(text_.tokens()); }
    [[nodiscard]] size_t full_bytes() const { return cache_bytes(n_prefix()); }
    /// Tokens whose keys and values a share of the full prefix's bytes holds.
    [[nodiscard]] int64_t tokens_of(double share, ggml_type entries = GGML_TYPE_F16) const {
        const auto most = static_cast<size_t>(share * static_cast<double>(full_bytes()));
        int64_t n = 0;
        for (int64_t step = int64_t{1} << 40; step > 0; step /= 2) {
            if (n + step <= n_prefix() && cache_bytes(n + step, entries) <= most) n += step;
        }
        require(n >= 1, "a share of ", share, " of ", n_prefix(), " tokens is none");
        return n;
    }

    /// Answers with the whole prefix in memory: what all others are compared with.
    const Answers& full_answers() {
        if (!full_) {
            PrefixResult ignored;
            full_ = follow(exact(), ignored);
        }
        return *full_;
    }

    void count(const Answers& answers, Demo& truth, PrefixResult& into) {
        questions_.count(answers, truth.full_answers(), into);
    }

    Answers full(PrefixResult& r) {
        hold(r, n_prefix());
        return follow(exact(), r);
    }

    Answers none(PrefixResult& r) {
        return questions_.ask_with([&](const auto&) { return tokenizer().beginning(); }, r);
    }

    /// The last demonstrations that fit.
    Answers truncated(PrefixResult& r) {
        const int64_t most = tokens_of(r.share);
        std::string text;
        for (auto d = task_.demonstrations.rbegin(); d != task_.demonstrations.rend(); ++d) {
            // Joined, they have fewer or more tokens than each alone.
            if (std::ssize(PrefixText(tokenizer(), *d + text, true).tokens()) > most) break;
            text.insert(0, *d);
        }
        if (text.empty()) return none(r);
        const PrefixText shorter(tokenizer(), text, true);
        const ReadPrefix read = read_prefix(with_, shorter);
        hold(r, std::ssize(shorter.tokens()));
        return follow(*read.exact, r);
    }

    /// Demonstrations with the most words in common, the nearest last, read with each request. What
    /// is held is their text.
    Answers nearest(PrefixResult& r, int64_t count) {
        int64_t n_tokens = 0;
        const auto before = [&](const std::string& prompt) {
            std::vector<TokenId> tokens =
                PrefixText(tokenizer(), nearest_to(prompt, count), true).tokens();
            n_tokens += std::ssize(tokens);
            return tokens;
        };
        Answers answers = questions_.ask_with(before, r);
        r.size = count;
        r.held_bytes = task_.prefix().size();
        r.moved_bytes = cache_bytes(n_tokens / options_.task.n_tests);
        return answers;
    }

    /// A policy that has not seen the traces, cut once after the prefix.
    Answers evicted(PrefixResult& r, const std::string& policy, ggml_type entries = GGML_TYPE_F16) {
        hold(r, tokens_of(r.share, entries), entries);
        EvictionOptions e = {.policy = policy};
        e.budget = {.kind = Budget::Kind::kEntries, .count = r.size, .share = 0};
        e.one_shot = true;
        const std::unique_ptr<KvCache> cut = watched(entries).fork(e);
        std::ostringstream saved;
        cut->save(saved);
        const KvCacheOptions options = {
            .n_ctx = n_prefix() + kOwnPositions, .entries = entries, .eviction = e};
        const auto copy = [&] {
            auto memory = with_.engine.make_cache(options);
            std::istringstream in(saved.str());
            memory->load(in);
            return memory;
        };
        return questions_.ask(copy, r);
    }

    /// Entries that traces looked at most, as many of every head.
    Answers trace_aware(PrefixResult& r) {
        hold(r, tokens_of(r.share));
        if (mass_.empty()) weigh();
        std::stringstream saved;
        exact().save(saved);
        ExactPrefix some(with_.engine.backend(), shape(), GGML_TYPE_F16, n_prefix());
        some.load(saved);
        some.keep(heaviest(mass_, r.size));
        return follow(some, r);
    }

    /// Builds a memory of so many bytes, or of `o.k` entries a dictionary, and asks it.
    Answers memory(PrefixResult& r, PrefixBuildOptions o) {
        o.name = "demo";
        o.budget_bytes = static_cast<size_t>(r.share * static_cast<double>(full_bytes()));
        o.seed = r.cluster_seed;
        o.is_forced = true;
        o.n_held_out = kHeldOut;
        o.work_folder = work_folder_;
        const PrefixBuild b = build_prefix(with_, text_, task_.traces, o);
        r.size = b.document->header().k;
        r.held_bytes = b.document->held_bytes();
        r.moved_bytes = b.document->moved_bytes();
        r.e_out = b.errors.e_out;
        r.e_out_worst = b.errors.e_out_worst;
        r.e_out_answer = b.errors.e_out_answer;
        for (const PrefixLayerErrors& l : b.errors.layers) {
            r.e_out_by_layer.push_back(l.e_out);
            r.e_state_by_layer.push_back(l.e_state);
            r.e_lse_by_layer.push_back(l.e_lse);
        }
        r.prefill_s = b.prefill_s;
        r.traces_s = b.traces_s;
        r.clustering_s = b.clustering_s;
        KvCacheOptions cache = {.n_ctx = kOwnPositions};
        cache.prefix.documents = {b.document};
        return questions_.ask([&] { return with_.engine.make_cache(cache); }, r);
    }

    void forget_work() const { forget_folder(work_folder_); }

 private:
    [[nodiscard]] const Tokenizer& tokenizer() const {
        return with_.engine.loaded().require_tokenizer();
    }
    [[nodiscard]] MemoryShape shape() const { return with_.engine.shape(); }

    /// Bytes of so many tokens' keys and values.
    [[nodiscard]] size_t cache_bytes(int64_t tokens, ggml_type entries = GGML_TYPE_F16) const {
        return bytes_of_all(shape(), entries, tokens);
    }

    void hold(PrefixResult& r, int64_t tokens, ggml_type entries = GGML_TYPE_F16) const {
        r.size = tokens;
        r.held_bytes = r.moved_bytes = cache_bytes(tokens, entries);
    }

    std::string make_task(uint64_t seed, bool is_shuffled) {
        task_options_.seed = seed;
        task_options_.is_shuffled = is_shuffled;
        task_ = make_prefix_task(tokenizer(), task_options_);
        return task_.prefix();
    }

    const ExactPrefix& exact() {
        if (read_.exact == nullptr) read_ = read_prefix(with_, text_);
        return *read_.exact;
    }

    Answers follow(const ExactPrefix& prefix, PrefixResult& r) const {
        const auto behind = [&] {
            return std::make_unique<TraceMemory>(with_.engine.backend(), prefix, kOwnPositions,
                                                 PrefixKeys::kPost, TraceMemory::OnStep());
        };
        return questions_.ask(behind, r);
    }

    /// The prefix, read once more into such entries while policies took notes.
    const KvCache& watched(ggml_type entries) {
        Watched& of = watched_[entries];
        if (of.session != nullptr) return *of.memory;
        KvCacheOptions options = {.n_ctx = n_prefix() + kOwnPositions, .entries = entries};
        for (const char* policy : kUnseeing) {
            if (!is_wanted(policy)) continue;
            EvictionOptions e = {.policy = policy};
            e.one_shot = true;
            options.watching.push_back(e);
        }
        auto memory = with_.engine.make_cache(options);
        of.memory = memory.get();
        of.session = with_.engine.make_session(std::move(memory));
        of.session->feed(text_.tokens(), {.on_progress = [&](int64_t done, int64_t total) {
                             with_.tell("reading for policies", done, total);
                             return true;
                         }});
        return *of.memory;
    }

    [[nodiscard]] bool is_wanted(std::string_view policy) const {
        return options_.methods.empty() ||
               std::ranges::any_of(options_.methods,
                                   [&](const auto& m) { return m.starts_with(policy); });
    }

    void weigh() {
        std::vector<TraceTokens> traces;
        for (size_t i = 0; i < task_.traces.size(); i += kWeighed) {
            traces.push_back(text_.trace(task_.traces[i]));
        }
        mass_ = traced_mass(with_, exact(), traces, Reduce::kSum);
    }

    [[nodiscard]] std::string nearest_to(const std::string& prompt, int64_t count) const {
        std::vector<size_t> order(task_.demonstrations.size());
        std::iota(order.begin(), order.end(), size_t{0});
        std::vector<double> near;
        for (const std::string& d : task_.demonstrations) near.push_back(word_overlap(prompt, d));
        std::ranges::stable_sort(order, std::greater{}, [&](size_t j) { return near[j]; });
        order.resize(std::min(order.size(), static_cast<size_t>(count)));
        std::string text;
        for (const size_t j : order) text.insert(0, task_.demonstrations[j]);
        return text;
    }

    struct Watched {
        std::unique_ptr<Session> session;
        const KvCache* memory = nullptr;  // the session's
    };

    const PrefixRuntime& with_;
    const PrefixDemoOptions& options_;
    PrefixTaskOptions task_options_;
    PrefixTask task_;
    PrefixText text_;
    PrefixQuestions questions_;
    std::string work_folder_;
    ReadPrefix read_;
    std::map<ggml_type, Watched> watched_;
    std::optional<Answers> full_;
    EntryMass mass_;
};

/// Shares of the full prefix's bytes that a method is run with.
enum class Shares { kNone, kAll, kLargest };

struct Method {
    PrefixMethodInfo info;
    Answers (*run)(Demo& demo, PrefixResult& into) = nullptr;
    Shares shares = Shares::kAll;
    bool is_built = false;  // anew for every seed of the clustering
    bool is_of_wrong_prefix = false;
    bool needs_whole_layers = false;  // without a window
};

constexpr std::array<Method, 19> kMethods = {{
    {{"full", "full prefix"}, [](Demo& d, PrefixResult& r) { return d.full(r); }, Shares::kNone},
    {{"none", "no prefix"}, [](Demo& d, PrefixResult& r) { return d.none(r); }, Shares::kNone},
    {{"truncated", "truncated prefix"}, [](Demo& d, PrefixResult& r) { return d.truncated(r); }},
    {{"window", "eviction, window", true},
     [](Demo& d, PrefixResult& r) { return d.evicted(r, "window"); }},
    {{"random", "eviction, random", true},
     [](Demo& d, PrefixResult& r) { return d.evicted(r, "random"); }},
    {{"kvzip", "eviction, KVzip"}, [](Demo& d, PrefixResult& r) { return d.evicted(r, "kvzip"); }},
    {{"kvzip-q8", "KVzip, q8_0 entries"},
     [](Demo& d, PrefixResult& r) { return d.evicted(r, "kvzip", GGML_TYPE_Q8_0); }},
    {.info = {"trace-aware", "eviction by traces"},
     .run = [](Demo& d, PrefixResult& r) { return d.trace_aware(r); },
     .needs_whole_layers = true},
    {{"nearest-4", "4 nearest, anew"},
     [](Demo& d, PrefixResult& r) { return d.nearest(r, 4); },
     Shares::kNone},
    {{"nearest-16", "16 nearest, anew"},
     [](Demo& d, PrefixResult& r) { return d.nearest(r, 16); },
     Shares::kNone},
    {{"memory", "memory, head keys"},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {}); },
     Shares::kAll,
     true},
    {{"memory-whitened", "memory, whitened", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.whiten = true}); },
     Shares::kAll,
     true},
    {{"memory-kept", "memory with entries"},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.kept_share = 0.5}); },
     Shares::kAll,
     true},
    {{"memory-kept-traces", "memory, kept by traces", true},
     [](Demo& d, PrefixResult& r) {
         return d.memory(r, {.kept_share = 0.5, .kept_by = KeptBy::kTraces});
     },
     Shares::kAll,
     true},
    {{"memory-group", "memory, group keys", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.heads_per_key = 0}); },
     Shares::kAll,
     true},
    {{"mean", "one mean (control)", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.k = 1}); },
     Shares::kNone,
     true},
    // As many kept entries as "memory-kept" has: what its dictionaries add to them.
    {{"mean-kept", "entries, mean (control)", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.k = 1, .kept_share = 0.5}); },
     Shares::kAll,
     true},
    // A wrong prefix is told best by the largest memory.
    {{"wrong", "wrong prefix (control)", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.whiten = true}); },
     Shares::kLargest,
     true,
     true},
    {{"wrong-kept", "wrong, entries (control)", true},
     [](Demo& d, PrefixResult& r) { return d.memory(r, {.kept_share = 0.5}); },
     Shares::kLargest,
     true,
     true},
}};

std::vector<const Method*> chosen_methods(const std::vector<std::string>& names) {
    std::vector<const Method*> chosen;
    for (const Method& m : kMethods) {
        const bool is_named =
            std::ranges::any_of(names, [&](const auto& name) { return name == m.info.name; });
        if (names.empty() || is_named) chosen.push_back(&m);
    }
    for (const std::string& name : names) {
        const bool is_known =
            std::ranges::any_of(kMethods, [&](const Method& m) { return m.info.name == name; });
        require(is_known, "no method '", name, "'; see --help");
    }
    return chosen;
}

/// Runs that a method makes on one seed: share and seed of the clustering.
std::vector<std::pair<double, uint64_t>> runs_of(const Method& m, const PrefixDemoOptions& o) {
    std::vector<double> shares = o.shares;
    if (m.shares == Shares::kNone) shares = {0};
    if (m.shares == Shares::kLargest) shares = {*std::ranges::max_element(o.shares)};
    const std::vector<uint64_t> builds = m.is_built ? o.cluster_seeds : std::vector<uint64_t>{0};
    std::vector<std::pair<double, uint64_t>> runs;
    for (const uint64_t build : builds) {
        for (const double share : shares) runs.emplace_back(share, build);
    }
    return runs;
}

void leave_out_impossible(const MemoryShape& shape, const PrefixDemoHooks& hooks,
                          std::vector<const Method*>& methods) {
    if (!shape.slides()) return;
    std::erase_if(methods, [&](const Method* m) {
        if (m->needs_whole_layers && hooks.on_left_out) {
            hooks.on_left_out(cat("'", m->info.name, "' keeps as many entries of every layer, ",
                                  "which a model with sliding windows cannot"));
        }
        return m->needs_whole_layers;
    });
}

void check_options(const PrefixDemoOptions& o) {
    require(!o.seeds.empty() && !o.cluster_seeds.empty() && !o.shares.empty(),
            "seeds, seeds of the clustering and shares: at least one of each");
    for (const double share : o.shares) {
        require(share > 0 && share <= 1, "a share of ", share, "; it must be above 0, to 1");
    }
}

}  // namespace

std::vector<PrefixMethodInfo> prefix_methods() {
    std::vector<PrefixMethodInfo> infos;
    infos.reserve(kMethods.size());
    for (const Method& m : kMethods) infos.push_back(m.info);
    return infos;
}

void run_prefix_demo(const PrefixRuntime& with, const PrefixDemoOptions& o,
                     const PrefixDemoHooks& hooks) {
    check_options(o);
    std::vector<const Method*> methods = chosen_methods(o.methods);
    leave_out_impossible(with.engine.shape(), hooks, methods);
    for (const uint64_t seed : o.seeds) {
        std::optional<Demo> demo;
        std::optional<Demo> wrong;
        for (const Method* m : methods) {
            for (const auto& [share, build] : runs_of(*m, o)) {
                PrefixResult r = {.task = o.task.name,
                                  .model = o.model_name,
                                  .length = o.task.n_prefix_tokens,
                                  .n_traces = o.task.n_traces,
                                  .n_tests = o.task.n_tests,
                                  .traced = o.task.traced,
                                  .is_validation = o.asks_validation,
                                  .seed = seed,
                                  .cluster_seed = build,
                                  .method = std::string(m->info.name),
                                  .share = share,
                                  .reading = with.engine.loaded().reading().name};
                if (hooks.is_known(r.key())) continue;
                if (!demo) demo.emplace(with, o, seed);
                if (m->is_of_wrong_prefix && !wrong) wrong.emplace(with, o, seed, true);
                Demo& asked = m->is_of_wrong_prefix ? *wrong : *demo;
                r.n_prefix = asked.n_prefix();
                r.full_bytes = asked.full_bytes();
                r.threads = with.engine.backend().n_threads();
                asked.count(m->run(asked, r), *demo, r);
                hooks.on_result(r);
            }
        }
        if (demo) demo->forget_work();
        if (wrong) wrong->forget_work();
    }
}

}  // namespace palimpsest
