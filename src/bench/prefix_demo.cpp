#include "bench/prefix_demo.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "engine/session.h"
#include "memory/kv_cache.h"
#include "memory/scoring_kernel.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Logits of the labels for every test.
using Answers = std::vector<std::vector<float>>;

size_t best(const std::vector<float>& logits) {
    return static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
}

double divergence(const std::vector<float>& p, const std::vector<float>& q) {
    const auto log_sum = [](const std::vector<float>& x) {
        double sum = 0;
        for (const float v : x) sum += std::exp(double{v});
        return std::log(sum);
    };
    const double lp = log_sum(p);
    const double lq = log_sum(q);
    double kl = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        kl += std::exp(double{p[i]} - lp) * (double{p[i]} - lp - double{q[i]} + lq);
    }
    return kl;
}

/// One seed's task: what is asked, and the full prefix's answers.
class Demo {
 public:
    Demo(const PrefixRuntime& with, const PrefixDemoOptions& options, uint64_t seed)
        : with_(with), options_(options), task_options_(options.task), seed_(seed) {
        task_options_.seed = seed;
        const Tokenizer& t = tokenizer();
        task_ = make_prefix_task(t, task_options_);
        text_ = std::make_unique<PrefixText>(t, task_.prefix(), true);
        for (const PrefixTask::Item& item : task_.tests) tests_.push_back(t.encode(item.prompt));
        prefix_ = read_prefix(with_, *text_);
    }

    [[nodiscard]] const Tokenizer& tokenizer() const { return with_.loaded.require_tokenizer(); }
    [[nodiscard]] const PrefixTask& task() const { return task_; }
    [[nodiscard]] int64_t n_prefix() const { return std::ssize(text_->tokens()); }

    /// Bytes of so many tokens' keys and values.
    [[nodiscard]] size_t cache_bytes(int64_t tokens) const {
        const MemoryShape s = shape();
        return static_cast<size_t>(s.n_layer * s.n_head_kv * s.d_head * tokens) * 2 *
               sizeof(ggml_fp16_t);
    }

    PrefixResult full() {
        full_ = follow(*prefix_.exact, seconds_);
        return result("full prefix", n_prefix(), cache_bytes(n_prefix()), full_);
    }

    PrefixResult none() {
        const Answers answers = ask({}, [&](size_t) { return tokenizer().beginning(); });
        return result("no prefix", 0, 0, answers);
    }

    /// The last demonstrations that fit.
    PrefixResult truncated(int64_t tokens) {
        std::string text;
        int64_t n = 1;
        for (auto d = task_.demonstrations.rbegin(); d != task_.demonstrations.rend(); ++d) {
            n += std::ssize(tokenizer().encode(*d));
            if (n > tokens) break;
            text.insert(0, *d);
        }
        if (text.empty()) return none();
        const PrefixText shorter(tokenizer(), text, true);
        const ReadPrefix read = read_prefix(with_, shorter);
        const auto held = std::ssize(shorter.tokens());
        return result("truncated prefix", held, cache_bytes(held), follow(*read.exact, seconds_));
    }

    /// Demonstrations with the most words in common, the nearest last.
    PrefixResult nearest(int64_t count) {
        int64_t n_tokens = 0;
        const Answers answers = ask({}, [&](size_t i) {
            std::vector<size_t> order(task_.demonstrations.size());
            std::iota(order.begin(), order.end(), size_t{0});
            std::vector<double> near;
            for (const std::string& d : task_.demonstrations) {
                near.push_back(word_overlap(task_.tests[i].prompt, d));
            }
            std::ranges::stable_sort(order, std::greater{}, [&](size_t j) { return near[j]; });
            order.resize(std::min(order.size(), static_cast<size_t>(count)));
            std::string text;
            for (const size_t j : order) text.insert(0, task_.demonstrations[j]);
            const auto tokens = PrefixText(tokenizer(), text, true).tokens();
            n_tokens += std::ssize(tokens);
            return tokens;
        });
        // Held: the demonstrations' text is all that stays; moved: their entries, once read.
        const auto mean = n_tokens / std::max<int64_t>(1, std::ssize(task_.tests));
        PrefixResult r =
            result("nearest demonstrations, read anew", count, cache_bytes(mean), answers);
        r.held_bytes = task_.prefix().size();
        return r;
    }

    /// A policy that has not seen the traces, cut once after the prefix.
    PrefixResult evicted(const std::string& policy, int64_t entries) {
        EvictionOptions e = {.policy = policy};
        e.budget = {.kind = Budget::Kind::kEntries, .count = entries, .share = 0};
        e.one_shot = true;
        e.n_chunk = with_.n_chunk;
        e.output_weights = [this](int64_t layer) { return with_.loaded.output_projection(layer); };
        const KvCacheOptions options = {.n_ctx = n_prefix() + 256, .eviction = e};
        Session reader(with_.loaded.model(), with_.backend,
                       std::make_unique<KvCache>(with_.backend, shape(), options),
                       {.n_chunk = with_.n_chunk});
        reader.feed(text_->tokens());
        std::ostringstream saved;
        reader.memory().save(saved);
        const Answers answers = ask_with([&] {
            auto memory = std::make_unique<KvCache>(with_.backend, shape(), options);
            std::istringstream in(saved.str());
            memory->load(in);
            return memory;
        });
        return result("eviction, " + policy, entries, cache_bytes(entries), answers);
    }

    /// Entries that traces looked at most, as many of every head.
    PrefixResult trace_aware(int64_t entries) {
        if (mass_.empty()) weigh();
        const MemoryShape s = shape();
        std::vector<std::vector<int32_t>> kept;
        for (const std::vector<double>& mass : mass_) {
            std::vector<int32_t> order(mass.size());
            std::iota(order.begin(), order.end(), 0);
            std::ranges::stable_sort(order, std::greater{},
                                     [&](int32_t j) { return mass[static_cast<size_t>(j)]; });
            order.resize(std::min(order.size(), static_cast<size_t>(entries)));
            std::ranges::sort(order);
            kept.push_back(std::move(order));
        }
        std::stringstream saved;
        prefix_.exact->save(saved);
        ExactPrefix some(with_.backend, s, GGML_TYPE_F16, n_prefix());
        some.load(saved);
        some.keep(kept);
        return result("eviction, trace-aware", entries, cache_bytes(entries),
                      follow(some, seconds_));
    }

    PrefixResult memory(int64_t k, bool group, uint64_t cluster_seed, const std::string& method) {
        PrefixBuildOptions o;
        o.name = "demo";
        o.k = k;
        o.heads_per_key = group ? 0 : 1;
        o.seed = cluster_seed;
        o.is_forced = true;
        o.n_held_out = 16;
        o.work_folder = (std::filesystem::path(options_.work_folder) /
                         cat("seed_", seed_, "_", cluster_seed, task_options_.is_shuffled))
                            .string();
        const PrefixBuild b = build_prefix(with_, *text_, task_.traces, o);
        KvCacheOptions cache = {.n_ctx = 256};
        cache.prefix.documents = {b.document};
        const Answers answers =
            ask_with([&] { return std::make_unique<KvCache>(with_.backend, shape(), cache); });
        PrefixResult r = result(method, k, 0, answers);
        r.held_bytes = b.document->held_bytes();
        r.moved_bytes = b.document->moved_bytes();
        r.cluster_seed = cluster_seed;
        r.e_out = b.errors.e_out;
        r.e_out_answer = b.errors.e_out_answer;
        r.build_s = b.prefill_s + b.traces_s + b.clustering_s;
        return r;
    }

    /// The control's answers are compared with the true prefix's.
    void compare_with(const Demo& other) { full_ = other.full_; }

 private:
    [[nodiscard]] MemoryShape shape() const { return with_.loaded.config().memory_shape(); }

    [[nodiscard]] std::vector<float> labels_of(std::span<const float> logits) const {
        std::vector<float> of;
        for (const TokenId t : task_.label_tokens) of.push_back(logits[static_cast<size_t>(t)]);
        return of;
    }

    /// Every test behind what `make` has in memory.
    template <class Make>
    Answers ask_with(const Make& make) {
        Answers answers;
        double spent = 0;
        for (const std::vector<TokenId>& test : tests_) {
            Session session(with_.loaded.model(), with_.backend, make(),
                            {.n_chunk = with_.n_chunk});
            const auto start = Clock::now();
            session.feed(test, {.may_forget = false});
            spent += seconds_since(start);
            answers.push_back(labels_of(session.logits()));
        }
        seconds_ = spent / static_cast<double>(tests_.size());
        return answers;
    }

    /// Every test behind tokens of its own, read with it.
    template <class Before>
    Answers ask(const PrefixUse& prefix, const Before& before) {
        Answers answers;
        double spent = 0;
        for (size_t i = 0; i < tests_.size(); ++i) {
            std::vector<TokenId> tokens = before(i);
            tokens.insert(tokens.end(), tests_[i].begin(), tests_[i].end());
            KvCacheOptions options = {.n_ctx = std::ssize(tokens)};
            options.prefix = prefix;
            Session session(with_.loaded.model(), with_.backend,
                            std::make_unique<KvCache>(with_.backend, shape(), options),
                            {.n_chunk = with_.n_chunk});
            const auto start = Clock::now();
            session.feed(tokens);
            spent += seconds_since(start);
            answers.push_back(labels_of(session.logits()));
        }
        seconds_ = spent / static_cast<double>(tests_.size());
        return answers;
    }

    Answers follow(const ExactPrefix& exact, double& /*seconds*/) {
        return ask_with([&] {
            return std::make_unique<TraceMemory>(with_.backend, exact, 256, PrefixKeys::kPost,
                                                 TraceMemory::OnStep());
        });
    }

    /// Attention mass of every fourth position of the traces, per layer, KV head and entry.
    void weigh() {
        const MemoryShape s = shape();
        const int64_t n = n_prefix();
        const auto d = static_cast<size_t>(s.d_head);
        mass_.assign(static_cast<size_t>(s.n_layer * s.n_head_kv),
                     std::vector<double>(static_cast<size_t>(n)));
        std::vector<std::vector<float>> keys;
        for (int64_t i = 0; i < std::ssize(mass_); ++i) {
            keys.emplace_back(static_cast<size_t>(n) * d);
            read_keys(prefix_.exact->rows(i / s.n_head_kv, i % s.n_head_kv), 0, n,
                      keys.back().data());
        }
        const float scale = 1.0F / std::sqrt(static_cast<float>(s.d_head));
        const auto on_step = [&](int64_t first, int64_t count, std::span<const TracedLayer> seen) {
            with_.backend.on_all_threads([&](int thread, int n_threads) {
                for (int64_t w = thread; w < std::ssize(mass_); w += n_threads) {
                    const TracedLayer& l = seen[static_cast<size_t>(w / s.n_head_kv)];
                    const std::vector<float>& k = keys[static_cast<size_t>(w)];
                    std::vector<double>& to = mass_[static_cast<size_t>(w)];
                    for (int64_t i = (4 - first % 4) % 4; i < count; i += 4) {
                        for (int64_t g = 0; g < s.group(); ++g) {
                            const auto row =
                                static_cast<size_t>(i * s.n_head + w % s.n_head_kv * s.group() + g);
                            const float* q = l.keys.data() + row * d;
                            for (size_t j = 0; j < to.size(); ++j) {
                                float dot = 0;
                                for (size_t c = 0; c < d; ++c) dot += q[c] * k[j * d + c];
                                to[j] += double{std::exp(scale * dot - l.lse[row])};
                            }
                        }
                    }
                }
            });
        };
        for (const TraceText& trace : task_.traces) {
            const TraceTokens tokens = text_->trace(trace);
            Session session(with_.loaded.model(), with_.backend,
                            std::make_unique<TraceMemory>(with_.backend, *prefix_.exact, 256,
                                                          PrefixKeys::kPost, on_step),
                            {.n_chunk = with_.n_chunk});
            session.feed(tokens.tokens);
        }
    }

    [[nodiscard]] PrefixResult result(const std::string& method, int64_t size, size_t bytes,
                                      const Answers& answers) const {
        PrefixResult r = {.method = method, .size = size, .seed = seed_};
        r.held_bytes = r.moved_bytes = bytes;
        r.first_answer_s = seconds_;
        r.n = std::ssize(answers);
        for (size_t i = 0; i < answers.size(); ++i) {
            const auto label = static_cast<size_t>(task_.tests[i].label);
            const bool is_right = best(answers[i]) == label;
            r.n_right += is_right ? 1 : 0;
            if (full_.empty()) continue;
            const bool full_is_right = best(full_[i]) == label;
            r.n_same += best(answers[i]) == best(full_[i]) ? 1 : 0;
            r.n_only_full += full_is_right && !is_right ? 1 : 0;
            r.n_only_this += is_right && !full_is_right ? 1 : 0;
            r.divergence += divergence(full_[i], answers[i]) / static_cast<double>(r.n);
        }
        return r;
    }

    const PrefixRuntime& with_;
    const PrefixDemoOptions& options_;
    PrefixTaskOptions task_options_;
    uint64_t seed_;
    PrefixTask task_;
    std::unique_ptr<PrefixText> text_;
    std::vector<std::vector<TokenId>> tests_;
    ReadPrefix prefix_;
    Answers full_;
    double seconds_ = 0;
    std::vector<std::vector<double>> mass_;  // [layer * KV head][entry]
};

}  // namespace

std::vector<PrefixResult> run_prefix_demo(const PrefixRuntime& with, const PrefixDemoOptions& o,
                                          const std::function<void(const PrefixResult&)>& told) {
    std::vector<PrefixResult> all;
    const auto add = [&](PrefixResult r) {
        if (told) told(r);
        all.push_back(std::move(r));
    };
    for (const uint64_t seed : o.seeds) {
        Demo demo(with, o, seed);
        add(demo.full());
        add(demo.none());
        for (const int64_t n : o.tokens) add(demo.truncated(n));
        for (const int64_t n : o.tokens) add(demo.evicted("window", n));
        for (const int64_t n : o.tokens) add(demo.evicted("random", n));
        if (o.with_kvzip) {
            for (const int64_t n : o.tokens) add(demo.evicted("kvzip", n));
        }
        for (const int64_t n : o.tokens) add(demo.trace_aware(n));
        for (const int64_t n : {4, 16}) add(demo.nearest(n));
        for (int64_t c = 1; c <= o.n_cluster_seeds; ++c) {
            const auto cluster_seed = static_cast<uint64_t>(c);
            add(demo.memory(1, false, cluster_seed, "memory, mean state (control)"));
            for (const int64_t k : o.entries) {
                add(demo.memory(k, false, cluster_seed, "memory, head keys"));
            }
            if (!o.with_group) continue;
            for (const int64_t k : o.entries) {
                const int64_t group = with.loaded.config().memory_shape().group();
                add(demo.memory(std::max<int64_t>(1, k / group), true, cluster_seed,
                                "memory, group keys"));
            }
        }
        if (!o.with_wrong) continue;
        PrefixDemoOptions wrong_options = o;
        wrong_options.task.is_shuffled = true;
        Demo wrong(with, wrong_options, seed);
        wrong.compare_with(demo);
        add(wrong.memory(o.entries.back(), false, 1, "memory of a wrong prefix (control)"));
    }
    return all;
}

std::string prefix_table(const std::vector<PrefixResult>& results) {
    std::string out =
        "| method | size | held | moved a token | accuracy | 95 % | agreement | KL | "
        "only full right : only this | E_out mean / answer | request |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n";
    std::vector<std::pair<std::string, int64_t>> done;
    for (const PrefixResult& first : results) {
        // Truncated prefixes end where a demonstration does: sizes differ a little by seed.
        const auto key = std::pair(first.method, first.size / 32);
        if (std::ranges::find(done, key) != done.end()) continue;
        done.push_back(key);
        PrefixResult sum = {.method = first.method, .size = first.size};
        int64_t builds = 0;
        double e_out = 0;
        double e_answer = 0;
        double seconds = 0;
        for (const PrefixResult& r : results) {
            if (r.method != first.method || r.size / 32 != first.size / 32) continue;
            ++builds;
            sum.n += r.n;
            sum.n_right += r.n_right;
            sum.n_same += r.n_same;
            sum.n_only_full += r.n_only_full;
            sum.n_only_this += r.n_only_this;
            sum.divergence += r.divergence;
            e_out += r.e_out;
            e_answer += r.e_out_answer;
            seconds += r.first_answer_s;
        }
        const auto n = static_cast<double>(std::max<int64_t>(1, sum.n));
        const auto count = static_cast<double>(builds);
        const ShareInterval i = wilson(sum.n_right, sum.n);
        std::array<char, 64> errors{};
        std::snprintf(errors.data(), errors.size(), first.e_out < 0 ? "" : "%.3f / %.3f",
                      e_out / count, e_answer / count);
        std::array<char, 320> line{};
        std::snprintf(line.data(), line.size(),
                      "| %s | %d | %.1f MB | %.2f MB | %.3f | %.3f–%.3f | %.3f | %.2f | %d : %d | "
                      "%s | %.0f ms |\n",
                      first.method.c_str(), static_cast<int>(first.size),
                      static_cast<double>(first.held_bytes) / 1e6,
                      static_cast<double>(first.moved_bytes) / 1e6,
                      static_cast<double>(sum.n_right) / n, i.low, i.high,
                      static_cast<double>(sum.n_same) / n, sum.divergence / count,
                      static_cast<int>(sum.n_only_full), static_cast<int>(sum.n_only_this),
                      errors.data(), 1000 * seconds / count);
        out += line.data();
    }
    return out;
}

}  // namespace palimpsest
