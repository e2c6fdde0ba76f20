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
    ChunkKv(const MemoryShape& shape, OptionReader& options)
        : window_(options.integer("window", 64, 1, 4096)),
          kernel_(options.integer("kernel", 5, 1, 1023)),
          chunk_(options.integer("chunk", 20, 1, 65536)),
          queries_(shape, window_) {}

    [[nodiscard]] int64_t n_recent() const override { return window_; }
    [[nodiscard]] int64_t run_length() const override { return chunk_; }
    void begin(const Step& step, int64_t seen) override { queries_.begin(step, seen); }
    void observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {
        queries_.observe(g, in);
    }

    /// Heads keep the same entries, so all have the same positions.
    [[nodiscard]] Scores score(const LayerView& held) const override {
        Scores scores = window_scores(queries_, held, window_, kernel_);
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
    void shift(int64_t positions) override { queries_.shift(positions); }
    void reset() override { queries_.reset(); }
    [[nodiscard]] size_t bytes() const override { return queries_.bytes(); }
    void save(std::ostream& out) const override { queries_.save(out); }
    void load(std::istream& in) override { queries_.load(in); }

 private:
    int64_t window_, kernel_, chunk_;
    QueryWindow queries_;
};

}  // namespace

MadePolicy make_chunk_kv(const PartInputs& in) {
    return std::make_unique<ChunkKv>(in.shape, in.options);
}

}  // namespace palimpsest
