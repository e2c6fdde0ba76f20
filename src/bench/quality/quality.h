#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/quality/quality_result.h"
#include "bench/tasks/task.h"
#include "compress/skim/skim.h"
#include "memory/eviction/eviction.h"
#include "memory/prefix/prefix_reader.h"
#include "model/load.h"
#include "palimpsest/latent_context.h"

namespace palimpsest {

/// One way to remember, and what of the prompt is known when it decides.
struct QualityCondition {
    EvictionOptions eviction;        // `full`, or a policy with its budget
    bool is_question_known = false;  // the question is read before the last cut
    bool has_latents = false;        // the context is read as latents
    /// An agent reads latents and asks for the text of some; who chooses which.
    std::optional<SkimChooser> skim = {};
};

/// What reads contexts as latents, and what it says of itself.
struct LatentUse {
    LatentOptions options;
    int64_t ratio = 0;        // tokens in a latent
    std::string fingerprint;  // of the adapter
};

struct QualityOptions {
    std::vector<const TaskKind*> tasks;          // those that must be
    std::vector<const TaskKind*> possible = {};  // left out, and told so, if their data are missing
    std::vector<int64_t> lengths = {4096};       // tokens, the answer's included
    std::vector<uint64_t> seeds = {42};
    int64_t n_samples = 10;  // of every task, length and seed
    TaskSources sources = {};
    std::vector<double> depths = {};
    std::vector<EvictionOptions> memories = {};  // policies; their budgets are those below
    std::vector<Budget> one_shot = {};           // cut once, after the context was read
    std::vector<Budget> streaming = {};          // held to while it is read
    bool agnostic = true, aware = false;
    std::vector<std::string> entries = {"f16"};
    std::string reading = {};  // how the model's products are computed: LoadedModel::reading()
    int64_t n_chunk = 512;
    int64_t n_lanes = 8;  // answers written at once
    int n_jobs = 1;       // samples run at once
    int n_threads = 1;    // of each job
    bool with_template = true;
    std::string model_name;  // what results call the model
    std::shared_ptr<const EvictionWeights> learned = {};
    /// What every sample is read behind, under every memory: they are requests to it.
    PrefixUse prefix = {};
    /// Memories are measured over latents instead of text; the full cache and the window stand
    /// beside them over text.
    std::optional<LatentUse> latent = {};
    std::vector<SkimChooser> skim = {};  // agents beside them
    int64_t skim_chunk = 512;            // most tokens of a chunk

    [[nodiscard]] const PrefixDocument* first_prefix() const {
        return prefix.is_empty() ? nullptr : prefix.documents.front().get();
    }
};

/// What the caller is told and asked; by one job at a time.
struct QualityHooks {
    /// Is there a result with this key already?
    std::function<bool(const std::string& key)> is_known = {};
    std::function<void(const QualityResult&)> on_result = {};
    /// A task that need not be is left out, and why.
    std::function<void(const std::string& why)> on_left_out = {};
    /// Results there are, wanted ones in all, and what is being done. False stops.
    std::function<bool(int64_t done, int64_t total, const std::string& what)> on_progress = {};
};

/// Every task, length and seed under every memory, budget and kind of question, the full cache and
/// the window policy always among them; with latents, all of them too, read without forgetting.
/// What one-shot memories cut is read once for all of them.
/// All samples are made before any is read, so that what is wrong with them costs nothing.
/// Returns false if a hook stopped it. Throws kInvalidArgument for options that cannot work and as
/// tasks do.
bool measure_quality(const QualityOptions& options, const LoadedModel& loaded,
                     const QualityHooks& hooks);

/// The conditions that the options come to, without doubles: full first.
std::vector<QualityCondition> quality_conditions(const QualityOptions& options);

}  // namespace palimpsest
