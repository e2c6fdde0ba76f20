// Keeps or drops whole runs of entries, by what the last queries attend to.
//
// ChunkKV (Liu et al., 2025, arXiv:2502.00299): snap-kv's scores, summed over the heads of a layer,
// averaged over runs of `chunk` positions; all heads keep the same runs.

#include "memory/policy/observation.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class ChunkKv final : public EvictionPolicy {
 public:
    explicit ChunkKv(const PartInputs& in)
        : window_(in.options.integer("window", 64, 1, 4096)),
          kernel_(in.options.integer("kernel", 5, 1, 1023)),
          chunk_(in.options.integer("chunk", 20, 1, 65536)),
          queries_(in.observers.add<QueryWindow>(in.shape, window_)) {}

    [[nodiscard]] int64_t n_recent() const override { return window_; }
    [[nodiscard]] int64_t run_length() const override { return chunk_; }

    /// Heads keep the same entries, so all have the same positions.
    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        Scores scores = window_scores(noted[queries_], held, window_, kernel_);
        const auto positions = held.heads.front().positions;
        for (size_t i = 0; i < positions.size();) {
            size_t end = i;
            float sum = 0;
            while (end < positions.size() && positions[end] / chunk_ == positions[i] / chunk_) {
                for (const std::vector<float>& of : scores) sum += end < of.size() ? of[end] : 0;
                ++end;
            }
            const float mean = sum / static_cast<float>(end - i);
            for (std::vector<float>& of : scores) {
                std::fill(of.begin() + static_cast<std::ptrdiff_t>(std::min(i, of.size())),
                          of.begin() + static_cast<std::ptrdiff_t>(std::min(end, of.size())), mean);
            }
            i = end;
        }
        return scores;
    }

 private:
    int64_t window_, kernel_, chunk_;
    Noted<QueryWindow> queries_;
};

}  // namespace

MadePolicy make_chunk_kv(const PartInputs& in) { return std::make_unique<ChunkKv>(in); }

}  // namespace palimpsest
