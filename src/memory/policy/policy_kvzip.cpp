// Keeps what the model needs to repeat its input.
//
// KVzip (Kim et al., 2025, arXiv:2505.23416): the input is read once more as the answer to "repeat
// it"; an entry matters as much as the largest weight that any of these queries pays to it, with a
// softmax over the sinks, the entries of the piece that is repeated and the repetition itself. The
// original repeats the whole input and then cuts once (--one-shot); while a prompt is read chunk by
// chunk, each chunk is repeated as soon as it was read, so that the budget holds at every moment.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "memory/binary_stream.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/policy/entry_notes.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

float log_sum(float a, float b) {
    const float peak = std::max(a, b);
    return peak == kNever ? kNever : peak + std::log(std::exp(a - peak) + std::exp(b - peak));
}

/// The largest weight that any query of a repetition paid to each entry.
class RepetitionWeights final : public Observer {
 public:
    /// The softmax takes in the first `n_sink` positions.
    RepetitionWeights(const MemoryShape& shape, int64_t n_sink)
        : shape_(shape), n_sink_(n_sink), weights_(shape, "kvzip") {}

    [[nodiscard]] std::unique_ptr<Observer> clone() const override {
        return std::make_unique<RepetitionWeights>(*this);
    }
    [[nodiscard]] Rehearsed rehearsed() const override { return Rehearsed::kRepetition; }

    void begin(const Step& step, int64_t seen) override {
        rehearsal_.reset();
        if (step.kind == StepKind::kRehearsal) {
            rehearsal_ = step.rehearsal;
            return;
        }
        weights_.grow(step.n, seen, 0.0F);
        seen_ = seen + step.n;
    }

    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override {
        const std::array<Tensor, 1> sources = {in.q};
        g.keep(g.custom({1, 1, 1, 1}, sources,
                        std::make_unique<RepeatOp>(*this, source, scratch, in)));
    }

    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        weights_.keep(layer, head, kept);
    }
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        weights_.held(layer, heads);
    }
    void reset() override {
        weights_.clear();
        seen_ = 0;
    }
    [[nodiscard]] size_t bytes() const override { return weights_.bytes(); }
    [[nodiscard]] size_t bytes_per_entry() const override { return sizeof(float); }
    void save(std::ostream& out) const override {
        put(out, seen_);
        weights_.save(out);
    }
    void load(std::istream& in) override {
        reset();
        seen_ = take<int64_t>(in);
        weights_.load(in);
    }

    /// 0 for an entry that was not repeated yet.
    [[nodiscard]] const std::vector<float>& of(int64_t layer, int64_t head) const {
        return weights_.of(layer, head);
    }

 private:
    /// By KV heads.
    class RepeatOp final : public CustomOp {
     public:
        RepeatOp(RepetitionWeights& to, EntrySource& source, AttentionScratch& scratch,
                 const AttentionInputs& in)
            : to_(to), source_(source), scratch_(scratch), layer_(in.layer), scale_(in.scale) {}

        void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
            if (!to_.rehearsal_) return;
            for (int64_t h = thread; h < to_.shape_.n_head_kv; h += n_threads) {
                run_head(dst->src[0], h, thread);
            }
        }

     private:
        /// Slots of a head: sinks, the repeated piece, and where the repetition begins.
        struct Slots {
            SlotRange sinks, piece;
            int64_t own = 0;
        };

        /// The piece is what was read last, and nothing of it has gone yet.
        [[nodiscard]] Slots slots(int64_t h) const {
            Slots s;
            s.own = std::ssize(to_.weights_.of(layer_, h));
            s.piece.end = s.own - (to_.seen_ - to_.rehearsal_->end);
            s.piece.begin = s.piece.end - (to_.rehearsal_->end - to_.rehearsal_->begin);
            s.sinks.end = std::clamp<int64_t>(s.piece.begin, 0, to_.n_sink_);
            return s;
        }

        void run_head(const ggml_tensor* q, int64_t h, int thread) {
            const int64_t group = to_.shape_.group();
            const int64_t n_rows = q->ne[2] * group;
            const Slots s = slots(h);
            std::array<QueryRow, kMaxRows> rows;
            std::array<float, kMaxRows> lse{};
            std::array<float, kMaxRows> total{};
            float* weights = to_.weights_.of(layer_, h).data();
            for (int64_t first = 0; first < n_rows; first += kMaxRows) {
                const auto count = static_cast<size_t>(std::min(kMaxRows, n_rows - first));
                const auto sum = [&](const auto& range_of) {
                    for (size_t r = 0; r < count; ++r) {
                        const int64_t i = (first + static_cast<int64_t>(r)) / group;
                        const int64_t head = h * group + (first + static_cast<int64_t>(r)) % group;
                        const SlotRange range = range_of(i);
                        rows.at(r) = {.q = head_row(q, head, i),
                                      .out = nullptr,
                                      .lse = &lse.at(r),
                                      .begin = range.begin,
                                      .end = range.end};
                    }
                    sum_logits(source_.rows(layer_, h), std::span(rows).first(count), scale_,
                               scratch_.of_thread(thread));
                    for (size_t r = 0; r < count; ++r)
                        total.at(r) = log_sum(total.at(r), lse.at(r));
                };
                total.fill(kNever);
                sum([&](int64_t /*i*/) { return s.sinks; });
                sum([&](int64_t i) { return SlotRange{s.own, source_.visible(layer_, h, i).end}; });
                sum([&](int64_t /*i*/) { return s.piece; });
                for (size_t r = 0; r < count; ++r) rows.at(r).lse = &total.at(r);
                add_mass(source_.rows(layer_, h), std::span(rows).first(count), s.piece, scale_,
                         {weights + s.piece.begin, Reduce::kMax}, scratch_.of_thread(thread));
            }
        }

        RepetitionWeights& to_;
        EntrySource& source_;
        AttentionScratch& scratch_;
        int64_t layer_;
        float scale_;
    };

    MemoryShape shape_;
    int64_t n_sink_;
    EntryNotes weights_;
    int64_t seen_ = 0;
    std::optional<Rehearsal> rehearsal_;
};

class KvZip final : public EvictionPolicy {
 public:
    explicit KvZip(const PartInputs& in)
        : n_sink_(in.options.integer("sinks", 4, 0, 1 << 20)),
          weights_(in.observers.add<RepetitionWeights>(in.shape, n_sink_)) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            std::vector<float>& of =
                scores.emplace_back(noted[weights_].of(held.layer, static_cast<int64_t>(h)));
            const auto positions = held.heads[h].positions;
            of.resize(positions.size());
            for (size_t i = 0; i < of.size() && positions[i] < n_sink_; ++i) of[i] = 1.0F;
        }
        return scores;
    }

 private:
    int64_t n_sink_;
    Noted<RepetitionWeights> weights_;
};

}  // namespace

MadePolicy make_kvzip(const PartInputs& in) { return std::make_unique<KvZip>(in); }

}  // namespace palimpsest
