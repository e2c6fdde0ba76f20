#include "bench/speed.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <sstream>

#include "bench/peer.h"
#include "bench/process.h"
#include "compress/latent_regions.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "engine/runtime.h"
#include "memory/prefix/prefix_file.h"
#include "palimpsest/engine.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kWarmUp = 2;  // decoding steps before the first that counts

double seconds(const std::function<void()>& work) {
    const auto start = Clock::now();
    work();
    return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::ranges::sort(values);
    const size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/// Tokens without meaning; the time does not depend on which.
std::vector<TokenId> some_tokens(int64_t n, int64_t n_vocab) {
    std::vector<TokenId> tokens(static_cast<size_t>(n));
    uint64_t state = 1;
    for (TokenId& t : tokens) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        t = static_cast<TokenId>((state >> 33U) % static_cast<uint64_t>(n_vocab));
    }
    return tokens;
}

/// Ours or a peer, as far as measuring goes.
class Runner {
 public:
    Runner() = default;
    virtual ~Runner() = default;
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;
    virtual void feed(std::span<const TokenId> tokens) = 0;
    virtual void reset() = 0;
    /// Looks prefixes up instead of reading them.
    [[nodiscard]] virtual bool has_prefix() const { return false; }
    [[nodiscard]] virtual MemoryReport report() const { return {}; }
    [[nodiscard]] virtual ReadingFacts reading() const { return {}; }
};

/// Tokens read in one step by whoever reads the prefix, if there is one.
int64_t chunk_of(const SpeedOptions& o) {
    constexpr int64_t kUsual = 512;  // a short request says nothing of how a prefix is read
    return o.memory.prefixes.empty() ? o.n_prefill : std::max(o.n_prefill, kUsual);
}

class OurRunner final : public Runner {
 public:
    OurRunner(const SpeedOptions& o, int64_t n_ctx, const MemoryChoice& choice,
              const LatentOptions& latent = {})
        : engine_({.model = o.model_path,
                   .threads = o.n_threads,
                   .chunk = is_bounded(choice) ? o.n_prefill : chunk_of(o),
                   .reading = o.reading}),
          session_(engine_.runtime().make_session(make(n_ctx, choice))) {
        if (latent.adapter.empty()) return;
        latent_.emplace(engine_, latent);
        regions_ = latent_->latent_regions(true);
    }
    void feed(std::span<const TokenId> tokens) override {
        if (tokens.size() == 1) {
            session_->accept(tokens.front());
        } else if (regions_ != nullptr) {
            session_->feed(region_of(tokens));
        } else {
            session_->feed(std::vector<TokenId>(tokens.begin(), tokens.end()));
        }
    }
    void reset() override { session_->reset(); }
    [[nodiscard]] bool has_prefix() const override { return n_prefix_ > 0; }
    [[nodiscard]] int64_t n_prefix() const { return n_prefix_; }
    [[nodiscard]] MemoryReport report() const override { return session_->memory().report(); }
    [[nodiscard]] ReadingFacts reading() const override {
        return engine_.runtime().loaded().reading();
    }

 private:
    std::unique_ptr<ContextMemory> make(int64_t n_ctx, MemoryChoice choice) {
        // A bounded memory lives inside the trained length, as it does in use.
        const bool is_inside = is_bounded(choice) && !choice.one_shot;
        choice.context = is_inside ? engine_.trained_context() : n_ctx;
        const MemoryPlan plan = engine_.runtime().plan(choice);
        n_prefix_ = plan.options.prefix.n_positions();
        return engine_.runtime().make_memory(plan);
    }

    /// The decoder may have more tokens than the encoder knows.
    [[nodiscard]] std::vector<Segment> region_of(std::span<const TokenId> tokens) const {
        const auto n_vocab = static_cast<TokenId>(regions_->encoder().model().config().n_vocab);
        std::vector<TokenId> known;
        for (const TokenId t : tokens) known.push_back(t % n_vocab);
        return regions_->region_of(std::move(known));
    }

    Engine engine_;
    int64_t n_prefix_ = 0;
    std::unique_ptr<Session> session_;
    std::optional<LatentContext> latent_;
    std::shared_ptr<const LatentRegions> regions_;
};

class PeerRunner final : public Runner {
 public:
    PeerRunner(const SpeedOptions& o, int64_t n_ctx, bool flash)
        : peer_(o.model_path, {.n_ctx = n_ctx,
                               .n_chunk = chunk_of(o),
                               .n_threads = o.n_threads,
                               .flash_attention = flash}) {}
    void feed(std::span<const TokenId> tokens) override { peer_.feed(tokens); }
    void reset() override { peer_.reset(); }

 private:
    Peer peer_;
};

using MakeRunner = std::function<std::unique_ptr<Runner>()>;

FootprintResult measure_footprint(const MakeRunner& make, const std::vector<TokenId>& tokens) {
    const std::string line = in_own_process([&] {
        std::unique_ptr<Runner> runner;
        const double load_s = seconds([&] { runner = make(); });
        runner->feed(tokens);
        return cat(load_s, " ", peak_resident_bytes());
    });
    FootprintResult result;
    std::istringstream(line) >> result.load_s >> result.peak_rss_bytes;
    return result;
}

void check_options(const SpeedOptions& o) {
    require(!o.depths.empty() || !o.prompts.empty(), "no depths to measure at");
    require(std::ranges::is_sorted(o.depths) && (o.depths.empty() || o.depths.front() >= 0),
            "depths must be 0 or more, and ascending");
    for (const int64_t n : o.prompts) {
        require(n >= 2, "a prompt of ", n, " tokens; it must have 2 or more");
    }
    require(o.n_prefill >= 2, "prefill of ", o.n_prefill, " tokens; it must be 2 or more");
    require(o.n_decode >= 1, "decode of ", o.n_decode, " tokens; it must be 1 or more");
    require(o.n_repeat >= 1, o.n_repeat, " repeats; it must be 1 or more");
    for (size_t i = 1; i < o.depths.size(); ++i) {
        require(o.depths[i] - o.depths[i - 1] >= o.n_decode + o.n_prefill, "depths ",
                o.depths[i - 1], " and ", o.depths[i], " are closer than the ",
                o.n_decode + o.n_prefill, " tokens measured at each");
    }
}

/// The engines of one measurement: ours first, then the peers.
using Runners = std::vector<std::unique_ptr<Runner>>;

struct Round {
    std::span<const TokenId> tokens;
    Runners& runners;
    int64_t repeat;
    int64_t position = 0;

    /// Seconds that each engine which reads prefixes takes for one of n tokens; 0 for the others.
    std::vector<double> time_prefix(int64_t n) {
        std::vector<double> taken(runners.size());
        for (size_t who = 0; who < runners.size(); ++who) {
            if (runners[who]->has_prefix()) continue;
            taken[who] =
                seconds([&] { runners[who]->feed(tokens.subspan(0, static_cast<size_t>(n))); });
        }
        position = n;
        return taken;
    }

    /// Seconds each engine takes for the next n tokens, `step` at a time. Who goes first
    /// alternates.
    std::vector<double> time(int64_t n, int64_t step) {
        std::vector<double> taken(runners.size());
        for (size_t i = 0; i < runners.size(); ++i) {
            const size_t who = (i + static_cast<size_t>(repeat)) % runners.size();
            taken[who] = seconds([&] {
                for (int64_t at = 0; at < n; at += step) {
                    runners[who]->feed(tokens.subspan(static_cast<size_t>(position + at),
                                                      static_cast<size_t>(std::min(step, n - at))));
                }
            });
        }
        position += n;
        return taken;
    }
};

void record(const SpeedOptions& o, SpeedResult& r, const std::vector<double>& taken, int64_t n) {
    size_t next = 0;
    const auto note = [&](std::vector<double>& all) {
        const double s = taken[next++];
        if (s > 0) all.push_back(static_cast<double>(n) / s);
    };
    note(r.ours_all);
    if (o.with_full) note(r.full_all);
    if (!o.with_peer) return;
    note(r.peer_flash_all);
    note(r.peer_plain_all);
}

void summarise(SpeedResult& r) {
    r.ours = median(r.ours_all);
    r.full = median(r.full_all);
    r.peer_flash = median(r.peer_flash_all);
    r.peer_plain = median(r.peer_plain_all);
    r.peer = std::max(r.peer_flash, r.peer_plain);
}

/// What somebody without the memories would have to read: every document whole, one after another.
int64_t tokens_of(std::span<const std::shared_ptr<const PrefixDocument>> documents) {
    int64_t n = 0;
    for (const auto& d : documents) n += d->n_tokens();
    return n;
}

}  // namespace

SpeedReport measure_speed(const SpeedOptions& o,
                          const std::function<void(const std::string&)>& on_progress) {
    check_options(o);
    const int64_t deepest = o.depths.empty() ? 0 : o.depths.back();
    const GgufFile model = GgufFile::open(o.model_path);
    const int64_t n_prefix = tokens_of(read_prefixes_for(model, o.memory.prefixes));
    int64_t n_ctx = deepest + o.n_prefill + std::max(o.n_decode, kWarmUp);
    for (const int64_t n : o.prompts) n_ctx = std::max(n_ctx, n);
    n_ctx += n_prefix;
    const ModelConfig config = read_config(ModelKeys(model));
    const std::vector<TokenId> tokens = some_tokens(n_ctx, config.n_vocab);
    const MemoryChoice everything = {.entries = o.memory.entries};
    const MakeRunner ours = [&] {
        return std::make_unique<OurRunner>(o, n_ctx, o.memory, o.latent);
    };
    const MakeRunner full = [&] { return std::make_unique<OurRunner>(o, n_ctx, everything); };
    const auto peer = [&](bool flash) -> MakeRunner {
        return [&o, n_ctx, flash] { return std::make_unique<PeerRunner>(o, n_ctx, flash); };
    };

    const std::vector<TokenId> own_tokens(tokens.begin() + n_prefix, tokens.end());

    SpeedReport report;
    report.n_ctx_train = config.n_ctx_train;
    if (o.with_footprint) {
        on_progress("memory and load time, each in a process of its own");
        report.ours = measure_footprint(ours, own_tokens);
    }
    if (o.with_footprint && o.with_peer) {
        const FootprintResult flash = measure_footprint(peer(true), tokens);
        const FootprintResult plain = measure_footprint(peer(false), tokens);
        report.peer = {std::min(flash.load_s, plain.load_s),
                       std::min(flash.peak_rss_bytes, plain.peak_rss_bytes)};
    }
    Runners runners;
    runners.push_back(ours());
    if (o.with_full) runners.push_back(full());
    if (o.with_peer) {
        runners.push_back(peer(true)());
        runners.push_back(peer(false)());
    }
    for (const int64_t depth : o.depths) {
        report.results.push_back({.phase = "prefill", .depth = depth});
        report.results.push_back({.phase = "decode", .depth = depth});
    }
    for (const int64_t n : o.prompts) report.results.push_back({.phase = "prompt", .depth = n});
    if (n_prefix > 0) report.results.push_back({.phase = "prefix", .depth = n_prefix});
    for (int64_t repeat = 0; repeat < o.n_repeat; ++repeat) {
        for (const auto& r : runners) r->reset();
        Round round = {.tokens = tokens, .runners = runners, .repeat = repeat};
        // The first step of each kind builds graphs and takes memory; it is not measured.
        round.time(o.n_prefill, o.n_prefill);
        round.time(kWarmUp, 1);
        const auto start = [&] {
            for (const auto& r : runners) r->reset();
            round.position = 0;
            if (n_prefix == 0) return;
            on_progress(cat("repeat ", repeat + 1, " of ", o.n_repeat, ", the prefix"));
            record(o, report.results.back(), round.time_prefix(n_prefix), n_prefix);
        };
        start();
        for (size_t i = 0; i < o.depths.size(); ++i) {
            if (o.depths[i] > round.position - n_prefix) {
                round.time(o.depths[i] - (round.position - n_prefix), o.n_prefill);
            }
            on_progress(cat("repeat ", repeat + 1, " of ", o.n_repeat, ", depth ", o.depths[i]));
            record(o, report.results[2 * i + 1], round.time(o.n_decode, 1), o.n_decode);
            record(o, report.results[2 * i], round.time(o.n_prefill, o.n_prefill), o.n_prefill);
        }
        for (size_t i = 0; i < o.prompts.size(); ++i) {
            on_progress(
                cat("repeat ", repeat + 1, " of ", o.n_repeat, ", prompt of ", o.prompts[i]));
            start();
            record(o, report.results[2 * o.depths.size() + i],
                   round.time(o.prompts[i], o.prompts[i]), o.prompts[i]);
        }
    }
    for (SpeedResult& r : report.results) summarise(r);
    report.memory = runners.front()->report();
    report.reading = runners.front()->reading();
    return report;
}

}  // namespace palimpsest
