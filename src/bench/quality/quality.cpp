#include "bench/quality/quality.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "bench/quality/quality_sample.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/text_hash.h"
#include "engine/memory_choice.h"
#include "memory/policy/eviction_weights.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

/// A sample, what it is a sample of, and where its results begin.
struct PlannedSample {
    const TaskKind* task = nullptr;
    Sample sample;
    QualityResult about;  // fields that do not depend on the memory
};

std::string hex(uint64_t x) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string out(16, '0');
    for (size_t i = out.size(); i-- > 0; x >>= 4U) out[i] = kDigits[x & 15U];
    return out;
}

/// Of a sample's texts, each with its end.
std::string hash_of(const Sample& s) {
    uint64_t hash = text_hash("");
    for (const std::string* text : {&s.context, &s.question, &s.answer_prefix}) {
        hash = text_hash({text->c_str(), text->size() + 1}, hash);
    }
    return hex(hash);
}

/// Names prefixes for people, and what their memories hold for comparisons.
std::string prefix_text(const PrefixUse& use) {
    std::string text;
    for (const auto& d : use.documents) {
        Digest digest;
        PrefixHeader header = d->header();
        for (PrefixLayer layer : d->layers()) {
            for (const PrefixPart& part : parts_of(layer, header)) digest.add(part.tensor->data);
        }
        text += cat(text.empty() ? "" : " + ", header.name, " (", digest.hex(), ")");
    }
    return text + (use.has_gate ? ", gate" : "");
}

/// "evict 75 %", where a ratio was asked for.
std::string budget_text(const Budget& b) {
    if (b.kind != Budget::Kind::kEvicted) return to_string(b);
    std::ostringstream text;
    text << "evict " << b.share * 100 << " %";
    return text.str();
}

QualityResult describe(QualityResult about, const QualityCondition& c, const std::string& entries,
                       const QualityOptions& o) {
    about.entries = entries;
    if (c.has_latents || c.skim) {
        about.memory = cat(c.skim ? "skim " : "latent ", o.latent->ratio, "x");
        about.weights = o.latent->fingerprint;
        about.protocol = "streaming";
    }
    if (c.skim) about.options = cat("choose=", to_string(*c.skim), ",chunk=", o.skim_chunk);
    if (c.eviction.policy == "full") return about;
    about.policy = c.eviction.policy;
    about.allocator = c.eviction.allocator;
    about.residue = c.eviction.residue;
    about.options = settings_text(c.eviction.settings);
    about.budget = budget_text(c.eviction.budget);
    about.protocol = c.eviction.one_shot ? "one-shot" : "streaming";
    about.question = c.is_question_known ? "aware" : "agnostic";
    const bool is_learned =
        find_policy(about.policy).uses(o.learned.get()) || find_residue(about.residue).is_learned;
    if (is_learned && o.learned != nullptr) {
        about.weights += cat(about.weights.empty() ? "" : ",", o.learned->fingerprint());
    }
    return about;
}

class QualityRun {
 public:
    QualityRun(const QualityOptions& options, const LoadedModel& loaded, const QualityHooks& hooks)
        : options_(options),
          loaded_(loaded),
          tokenizer_(loaded.require_tokenizer()),
          hooks_(hooks),
          conditions_(quality_conditions(options)),
          prefix_(prefix_text(options.prefix)) {}

    bool run() {
        samples_ = plan();
        for (const PlannedSample& s : samples_) total_ += std::ssize(conditions_of(*s.task));
        total_ *= std::ssize(options_.entries);
        {
            std::vector<std::jthread> others;
            for (int i = 1; i < options_.n_jobs; ++i) others.emplace_back([this] { work(); });
            work();
        }
        if (failure_) std::rethrow_exception(failure_);
        return !is_stopped_;
    }

 private:
    /// One job: takes samples until there are none, or somebody stops or fails.
    void work() noexcept {
        try {
            Backend backend(options_.n_threads);
            const Runtime engine(loaded_, backend, options_.n_chunk);
            std::optional<LatentContext> latent;
            if (options_.latent) latent.emplace(engine, options_.latent->options);
            std::optional<SkimBench> skim;
            if (!options_.skim.empty()) skim.emplace(options_, loaded_);
            const Readers readers = {.engine = engine,
                                     .latent = latent ? &*latent : nullptr,
                                     .skim = skim ? &*skim : nullptr};
            const int64_t n = std::ssize(samples_) * std::ssize(options_.entries);
            for (int64_t i = next_++; i < n && !is_stopped_; i = next_++) {
                const auto sample = static_cast<size_t>(i / std::ssize(options_.entries));
                const auto entries = static_cast<size_t>(i % std::ssize(options_.entries));
                if (!run_sample(readers, samples_[sample], options_.entries[entries])) {
                    is_stopped_ = true;
                }
            }
        } catch (...) {
            const std::lock_guard lock(mutex_);
            if (!failure_) failure_ = std::current_exception();
            is_stopped_ = true;
        }
    }

    [[nodiscard]] std::vector<PlannedSample> plan() const {
        std::vector<PlannedSample> samples;
        for (const int64_t length : options_.lengths) {
            for (const TaskKind* task : options_.tasks) {
                for (const uint64_t seed : options_.seeds) {
                    plan_task(*task, length, seed, samples);
                }
            }
            for (const TaskKind* task : options_.possible) plan_possible(*task, length, samples);
        }
        require(!samples.empty(), "no task is left to run");
        return samples;
    }

    void plan_possible(const TaskKind& task, int64_t length, std::vector<PlannedSample>& to) const {
        try {
            for (const uint64_t seed : options_.seeds) plan_task(task, length, seed, to);
        } catch (const Error& e) {
            const bool is_missing =
                e.code() == ErrorCode::kInvalidArgument || e.code() == ErrorCode::kNotFound;
            if (!is_missing) throw;
            if (hooks_.on_left_out) hooks_.on_left_out(e.what());
        }
    }

    void plan_task(const TaskKind& task, int64_t length, uint64_t seed,
                   std::vector<PlannedSample>& to) const {
        SampleRequest request = {.length = length,
                                 .n = options_.n_samples,
                                 .seed = seed,
                                 .sources = options_.sources,
                                 .depths = options_.depths,
                                 .count_tokens = {}};
        request.count_tokens = [&](const Sample& s) {
            return count_tokens(encode_sample(tokenizer_, s, options_.with_template,
                                              options_.first_prefix())) +
                   s.n_new;
        };
        for (Sample& sample : task.samples(task.name, request)) {
            PlannedSample& p = to.emplace_back();
            p.task = &task;
            p.about = about(task, sample);
            p.about.length = length;
            p.about.seed = seed;
            p.sample = std::move(sample);
        }
    }

    [[nodiscard]] QualityResult about(const TaskKind& task, const Sample& sample) const {
        QualityResult r;
        r.task = result_name(task, sample);
        r.group = task.group;
        r.metric = task.metric->name;
        r.sample = sample.id;
        r.prompt = hash_of(sample);
        r.source = sample.source;
        r.model = options_.model_name;
        r.prefix = prefix_;
        r.reading = options_.reading;
        r.chunk = options_.n_chunk;
        const PrefixDocument* prefix = options_.first_prefix();
        r.has_template = prefix != nullptr ? !prefix->header().is_raw
                                           : options_.with_template && sample.has_template &&
                                                 tokenizer_.has_chat_template();
        r.depth = sample.depth;
        r.threads = options_.n_threads;
        const bool has_classes = task.metric->predicted != nullptr && !sample.references.empty();
        if (has_classes) r.label = task.metric->predicted(sample.references.front(), sample);
        return r;
    }

    [[nodiscard]] std::vector<const QualityCondition*> conditions_of(const TaskKind& task) const {
        std::vector<const QualityCondition*> out;
        for (const QualityCondition& c : conditions_) {
            // What is to be predicted is no question that could be known.
            const bool needs_question = c.is_question_known || c.skim;
            if (!(needs_question && is_prediction(task))) out.push_back(&c);
        }
        return out;
    }

    /// What is not known yet; what is counts as done.
    std::vector<WantedResult> wanted_of(const PlannedSample& s, const std::string& entries) {
        const std::lock_guard lock(mutex_);
        std::vector<WantedResult> wanted;
        for (const QualityCondition* c : conditions_of(*s.task)) {
            WantedResult w = {.condition = c, .result = describe(s.about, *c, entries, options_)};
            if (hooks_.is_known && hooks_.is_known(w.result.key())) {
                ++done_;
            } else {
                wanted.push_back(std::move(w));
            }
        }
        return wanted;
    }

    bool run_sample(const Readers& readers, const PlannedSample& s, const std::string& entries) {
        std::vector<WantedResult> wanted = wanted_of(s, entries);
        if (wanted.empty()) return true;
        const std::string name = cat(s.about.task, " ", s.about.length, " #", s.about.sample);
        const auto on_result = [&](const QualityResult& r) {
            const std::lock_guard lock(mutex_);
            ++done_;
            if (hooks_.on_result) hooks_.on_result(r);
        };
        const auto go_on = [&](const std::string& what) {
            const std::lock_guard lock(mutex_);
            return !is_stopped_ &&
                   (!hooks_.on_progress || hooks_.on_progress(done_, total_, name + what));
        };
        SampleRun run({.options = options_,
                       .readers = readers,
                       .task = *s.task,
                       .sample = s.sample,
                       .on_result = on_result,
                       .go_on = go_on});
        return run.run(wanted);
    }

    const QualityOptions& options_;
    const LoadedModel& loaded_;
    const Tokenizer& tokenizer_;
    const QualityHooks& hooks_;
    std::vector<QualityCondition> conditions_;
    std::string prefix_;
    std::vector<PlannedSample> samples_;
    int64_t total_ = 0;
    std::atomic<int64_t> next_ = 0;  // sample and entry type that no job has taken
    std::atomic<bool> is_stopped_ = false;
    std::mutex mutex_;  // guards the hooks and what follows
    int64_t done_ = 0;
    std::exception_ptr failure_;
};

void check_options(const QualityOptions& o, const LoadedModel& loaded) {
    require(!o.tasks.empty() || !o.possible.empty(), "no task is named");
    require(!o.lengths.empty() && !o.seeds.empty() && !o.entries.empty(),
            "a list of lengths, seeds or entry types is empty");
    require(o.n_samples >= 1, o.n_samples, " samples; there must be 1 or more");
    require(o.n_jobs >= 1 && o.n_threads >= 1, o.n_jobs, " jobs of ", o.n_threads, " threads");
    require(o.n_lanes >= 1, o.n_lanes, " answers at once; it must be 1 or more");
    require(o.latent || o.skim.empty(), "an agent that skims reads latents; name an adapter");
    require(!o.latent || o.prefix.is_empty(), "latents behind a prefix memory are not measured");
    require(o.n_chunk >= 1, "a chunk of ", o.n_chunk, " positions");
    require(o.agnostic || o.aware, "the question is neither known nor unknown");
    check_prefixes(o.prefix, loaded.config().memory_shape());
    require(o.with_template || o.prefix.is_empty() || o.first_prefix()->header().is_raw,
            "a prefix memory that is what the system says needs the chat template");
    const int64_t n_prefix = o.prefix.n_positions();
    const int64_t most = loaded.config().n_ctx_train - n_prefix;
    require(most >= 1, "a prefix of ", n_prefix, " positions leaves no room in the ",
            loaded.config().n_ctx_train, " that this model was trained for");
    const std::string behind = n_prefix > 0 ? cat(" behind a prefix of ", n_prefix) : "";
    for (const int64_t length : o.lengths) {
        require(length >= 1 && length <= most, "a length of ", length,
                " tokens; the full cache that everything is compared with holds 1 to ", most,
                behind, ", what this model was trained for");
    }
}

}  // namespace

std::vector<QualityCondition> quality_conditions(const QualityOptions& o) {
    std::vector<QualityCondition> all = {{.eviction = {.policy = "full"}}};
    const EvictionOptions window = parse_memory_spec("window");
    std::set<std::string> seen;
    const auto add = [&](EvictionOptions e, const Budget& budget, bool one_shot, bool latents) {
        e.budget = budget;
        e.one_shot = one_shot;
        const std::string name =
            cat(e.policy, "/", e.allocator, "+", e.residue, ":", settings_text(e.settings), "@",
                budget_text(budget), one_shot, latents);
        if (e.policy == "full" || !seen.insert(name).second) return;
        if (o.agnostic) all.push_back({.eviction = e, .has_latents = latents});
        if (o.aware) {
            all.push_back({.eviction = e, .is_question_known = true, .has_latents = latents});
        }
    };
    const auto add_all = [&](const EvictionOptions& e, bool latents) {
        for (const Budget& b : o.one_shot) add(e, b, true, latents);
        for (const Budget& b : o.streaming) add(e, b, false, latents);
    };
    add_all(window, false);
    if (o.latent) {
        all.push_back({.eviction = {.policy = "full"}, .has_latents = true});
        add_all(window, true);
    }
    for (const EvictionOptions& e : o.memories) add_all(e, o.latent.has_value());
    for (const SkimChooser chooser : o.skim) {
        all.push_back({.eviction = {.policy = "full"}, .skim = chooser});
    }
    return all;
}

bool measure_quality(const QualityOptions& options, const LoadedModel& loaded,
                     const QualityHooks& hooks) {
    check_options(options, loaded);
    return QualityRun(options, loaded, hooks).run();
}

}  // namespace palimpsest
