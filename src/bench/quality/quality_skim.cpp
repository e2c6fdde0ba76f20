#include "bench/quality/quality_skim.h"

#include <chrono>

#include "bench/quality/answers.h"
#include "compress/skim/skim.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kDirective = 32;  // tokens that a line takes beside its answer

}  // namespace

SkimBench::SkimBench(const QualityOptions& options, const LoadedModel& loaded)
    : engine_({.model = loaded.path(),
               .threads = options.n_threads,
               .chunk = options.n_chunk,
               .reading = options.reading.empty() ? "auto" : options.reading}),
      latent_(engine_, options.latent->options),
      chunk_tokens_(options.skim_chunk) {}

bool SkimBench::run(const Sample& sample, const Metric& metric, SkimChooser chooser,
                    const std::function<bool(const std::string& what)>& go_on,
                    QualityResult& result) {
    const auto start = Clock::now();
    Skimmer skimmer(
        engine_, latent_, {{.name = "context", .text = sample.context}},
        {.answer = {.sampling = {.temperature = 0}, .max_tokens = sample.n_new + kDirective},
         .chooser = chooser,
         .chunk_tokens = chunk_tokens_});
    const SkimResult r = skimmer.ask(sample.question, [&](const Generation::Progress& p) {
        return go_on(cat(", skim, ", p.done, " of ", p.total));
    });
    if (r.is_cancelled) return false;
    note_text(r.answer, sample, metric, result);
    for (const SkimRound& round : r.rounds) result.n_written += round.tokens_written;
    result.bytes = result.peak_bytes = r.bytes_held;
    result.kept = 1 - r.saved;
    result.prefill_s = std::chrono::duration<double>(Clock::now() - start).count();
    return true;
}

}  // namespace palimpsest
