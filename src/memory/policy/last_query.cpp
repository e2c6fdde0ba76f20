#include "memory/policy/last_query.h"

#include <utility>

#include "memory/policy/observation.h"

namespace palimpsest {

namespace {

class WithLastQuery final : public EvictionPolicy {
 public:
    WithLastQuery(std::unique_ptr<EvictionPolicy> policy, const MemoryShape& shape)
        : policy_(std::move(policy)), query_(shape, 1) {}

    [[nodiscard]] int64_t n_sink() const override { return policy_->n_sink(); }
    [[nodiscard]] int64_t n_recent() const override { return policy_->n_recent(); }
    [[nodiscard]] int64_t run_length() const override { return policy_->run_length(); }
    [[nodiscard]] bool rehearses() const override { return policy_->rehearses(); }

    void begin(const Step& step, int64_t seen) override {
        policy_->begin(step, seen);
        // What asks for a repetition is not the text's last query.
        is_noted_ = !step.rehearsal;
        if (is_noted_) query_.begin(step, seen);
    }
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override {
        policy_->observe(g, in, source, scratch);
        if (is_noted_) query_.observe(g, in);
    }

    [[nodiscard]] Scores score(const LayerView& held) const override {
        return policy_->score(held);
    }
    [[nodiscard]] Scores last_attention(const LayerView& held) const override {
        Scores all;
        const auto share = 1.0F / static_cast<float>(held.shape->group());
        for (int64_t h = 0; h < std::ssize(held.heads); ++h) {
            for (float& x : all.emplace_back(query_.attention(held, h, Reduce::kSum))) x *= share;
        }
        return all;
    }

    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        policy_->keep(layer, head, kept);
    }
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        policy_->held(layer, heads);
    }
    void shift(int64_t positions) override {
        policy_->shift(positions);
        query_.shift(positions);
    }
    void reset() override {
        policy_->reset();
        query_.reset();
    }
    [[nodiscard]] size_t bytes() const override { return policy_->bytes() + query_.bytes(); }
    [[nodiscard]] size_t bytes_per_entry() const override { return policy_->bytes_per_entry(); }
    void save(std::ostream& out) const override {
        policy_->save(out);
        query_.save(out);
    }
    void load(std::istream& in) override {
        policy_->load(in);
        query_.load(in);
    }

 private:
    std::unique_ptr<EvictionPolicy> policy_;
    QueryWindow query_;
    bool is_noted_ = true;  // the running step
};

}  // namespace

std::unique_ptr<EvictionPolicy> with_last_query(std::unique_ptr<EvictionPolicy> policy,
                                                const MemoryShape& shape) {
    return std::make_unique<WithLastQuery>(std::move(policy), shape);
}

}  // namespace palimpsest
