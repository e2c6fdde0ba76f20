#pragma once

#include <functional>
#include <string>

#include "bench/quality/quality.h"
#include "palimpsest/engine.h"

namespace palimpsest {

/// Answers samples as `palimpsest skim` does: contexts as latents, chunk by chunk, some of which
/// the model has shown to it. Not thread-safe; jobs have one each.
class SkimBench {
 public:
    /// Opens the options' model and latent parts once more. Throws as Engine and LatentContext do.
    SkimBench(const QualityOptions& options, const LoadedModel& loaded);

    /// Fills in what came of it. Returns false if `go_on` stopped it.
    bool run(const Sample& sample, const Metric& metric, SkimChooser chooser,
             const std::function<bool(const std::string& what)>& go_on, QualityResult& result);

 private:
    Engine engine_;
    LatentContext latent_;
    int64_t chunk_tokens_;
};

}  // namespace palimpsest
