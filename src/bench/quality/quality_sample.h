#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/quality/answers.h"
#include "bench/quality/divergence.h"
#include "bench/quality/quality.h"
#include "bench/quality/quality_skim.h"
#include "bench/quality/sample_prompt.h"
#include "engine/runtime.h"

namespace palimpsest {

/// One result that is wanted: a condition, and the result with its key's fields set.
struct WantedResult {
    const QualityCondition* condition = nullptr;
    QualityResult result;
};

/// Is the task to predict a text that goes on, rather than to answer?
[[nodiscard]] bool is_prediction(const TaskKind& task);

/// What reads, of one job.
struct Readers {
    const Runtime& engine;
    const LatentContext* latent = nullptr;  // where conditions want it
    SkimBench* skim = nullptr;              // too
};

/// What one sample is run with. Everything must outlive the run.
struct SampleSetting {
    const QualityOptions& options;
    const Readers& readers;
    const TaskKind& task;
    const Sample& sample;
    std::function<void(const QualityResult&)> on_result;
    std::function<bool(const std::string& what)> go_on;  // false stops
};

/// One sample under several memories. What is cut once is read once, for all that do so.
class SampleRun {
 public:
    explicit SampleRun(SampleSetting setting);

    /// All of the same type of entries. Returns false if it was stopped.
    bool run(std::vector<WantedResult>& wanted);

 private:
    bool run_one_shot(std::span<WantedResult* const> wanted);
    bool run_streaming(WantedResult& wanted);
    bool run_skim(WantedResult& wanted);
    bool answer_forks(const KvCache& read, std::span<WantedResult* const> wanted,
                      std::span<const TokenId> rest);
    bool predict_forks(const KvCache& read, std::span<WantedResult* const> wanted);
    void predict(Session& session, QualityResult& result);
    void note_full(Session& whole);
    [[nodiscard]] std::vector<Segment> context(bool has_latents);
    void encode_latents();

    [[nodiscard]] KvCacheOptions cache_options(const std::string& entries) const;
    [[nodiscard]] std::unique_ptr<KvCache> cache(const std::string& entries,
                                                 EvictionOptions eviction) const;
    [[nodiscard]] std::unique_ptr<KvCache> watched_cache(
        std::span<WantedResult* const> wanted) const;
    [[nodiscard]] std::unique_ptr<Session> session(std::unique_ptr<KvCache> memory) const;
    [[nodiscard]] std::unique_ptr<Session> fork(const KvCache& read, WantedResult& wanted) const;
    [[nodiscard]] AskedSample asked(std::span<const TokenId> rest) const;
    [[nodiscard]] FeedHooks reading(std::string who) const;
    void note_memory(const MemoryReport& report, QualityResult& result) const;
    void note_answer(const Answer& answer, QualityResult& result) const;

    SampleSetting setting_;
    const Tokenizer& tokenizer_;
    SamplePrompt prompt_;
    std::vector<TokenId> question_;      // and what follows it
    std::vector<Segment> latents_;       // the context as latents, once they are wanted
    double encoding_s_ = 0;              // making them
    std::unique_ptr<Predictions> full_;  // of the full cache, after the context
};

}  // namespace palimpsest
