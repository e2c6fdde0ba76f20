// Keeps what the question attends to.
//
// While a document is read whose question is known, the question is run on top of what is held
// after every step, as a rehearsal of which nothing stays. An entry matters by the largest weight
// that a token of the question pays to it, in any of the heads that share it, smoothed over
// `kernel` neighbours. FINCH (Corallo and Papotti, 2024, arXiv:2408.00167) reads chunk and question
// together and is its relative; ours asks on top of what is held, so that the document is read as
// it would be, and earlier entries are weighed anew with every chunk.
//
// A `share` of the budget goes to what another policy, `base`, keeps without the question: an entry
// that the base puts in place r counts like the one that the question puts in place r / share.
// Where nothing is asked, all of it does: then this is the base, and heads share the budget as they
// do for it; where something is, they share it equally.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "memory/policy/entry_notes.h"
#include "memory/policy/mass_rows.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr float kUnasked = -1;  // of an entry that no question has seen
constexpr float kNever = -std::numeric_limits<float>::infinity();

/// The most attention that a token of the last question paid to every entry.
class QuestionMass final : public Observer {
 public:
    explicit QuestionMass(const MemoryShape& shape) : shape_(shape), mass_(shape, "question") {}

    [[nodiscard]] std::unique_ptr<Observer> clone() const override {
        return std::make_unique<QuestionMass>(*this);
    }
    [[nodiscard]] Rehearsed rehearsed() const override { return Rehearsed::kQuestion; }

    void begin(const Step& step, int64_t seen) override {
        is_asked_ = step.kind == StepKind::kRehearsal;
        if (is_asked_) {
            // Planned twice, the first step of a question begins twice.
            if (!is_within_) mass_.fill(0.0F);
            is_within_ = !step.rehearsal.ends_rehearsal;
            return;
        }
        is_within_ = false;
        mass_.grow(step.n, seen, kUnasked);
    }

    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override {
        const std::array<Tensor, 1> queries = {in.q};
        g.keep(
            g.custom({1, 1, 1, 1}, queries, std::make_unique<AskOp>(*this, source, scratch, in)));
    }

    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        mass_.keep(layer, head, kept);
    }
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        mass_.held(layer, heads);
    }
    void reset() override {
        mass_.clear();
        is_within_ = false;
    }
    [[nodiscard]] size_t bytes() const override { return mass_.bytes(); }
    [[nodiscard]] size_t bytes_per_entry() const override { return sizeof(float); }
    void save(std::ostream& out) const override { mass_.save(out); }
    void load(std::istream& in) override { mass_.load(in); }

    [[nodiscard]] const std::vector<float>& of(int64_t layer, int64_t head) const {
        return mass_.of(layer, head);
    }

 private:
    /// By slots, which threads share.
    class AskOp final : public CustomOp {
     public:
        AskOp(QuestionMass& to, EntrySource& source, AttentionScratch& scratch,
              const AttentionInputs& in)
            : to_(to), source_(source), scratch_(scratch), layer_(in.layer), scale_(in.scale) {}

        void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
            if (!to_.is_asked_) return;
            const ggml_tensor* q = dst->src[0];
            const int64_t group = to_.shape_.group();
            for (int64_t h = 0; h < to_.shape_.n_head_kv; ++h) {
                std::vector<float>& of = to_.mass_.of(layer_, h);
                const int64_t begin = std::ssize(of) * thread / n_threads;
                const int64_t end = std::ssize(of) * (thread + 1) / n_threads;
                for (int64_t first = 0; first < q->ne[2] * group; first += kMaxRows) {
                    const MassRows rows({q, layer_, h, group}, source_, scratch_, first);
                    add_mass(source_.rows(layer_, h), rows.all, {begin, end}, scale_,
                             {of.data() + begin, Reduce::kMax}, scratch_.of_thread(thread));
                }
            }
        }

     private:
        QuestionMass& to_;
        EntrySource& source_;
        AttentionScratch& scratch_;
        int64_t layer_;
        float scale_;
    };

    MemoryShape shape_;
    EntryNotes mass_;
    bool is_asked_ = false;   // the running step
    bool is_within_ = false;  // more of the same question follows
};

/// Entries, the best first.
std::vector<size_t> ranked(std::span<const float> scores) {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    return order;
}

/// Of one head: 1 for the first by the question, 1/2 for the second, and so on; or as much by the
/// base, `share` as fast. So all heads keep as many entries, whatever the allocator: raw weights do
/// not compare between heads, and the base's shares are not those of the question.
std::vector<float> with_share(std::span<const float> asked, std::vector<float> base, double share) {
    const auto of_place = [](double place) { return static_cast<float>(1 / (1 + place)); };
    for (float& x : base) x = std::isnan(x) ? kNever : x;
    std::vector<float> scores(base.size());
    const std::vector<size_t> by_base = ranked(base);
    for (size_t place = 0; place < by_base.size(); ++place) {
        const size_t entry = by_base[place];
        // What came after the question counts by its base alone.
        const double by = asked[entry] < 0 ? 1 : share;
        if (by > 0) scores[entry] = of_place(static_cast<double>(place) / by);
    }
    const std::vector<size_t> by_question = ranked(asked);
    for (size_t place = 0; place < by_question.size(); ++place) {
        const size_t entry = by_question[place];
        if (asked[entry] < 0) break;
        scores[entry] = std::max(scores[entry], of_place(static_cast<double>(place)));
    }
    return scores;
}

class Question final : public EvictionPolicy {
 public:
    explicit Question(const PartInputs& in)
        : kernel_(in.options.integer("kernel", 21, 1, 1023)),
          share_(in.options.number("share", 0.3, 0, 1)),
          mass_(in.observers.add<QuestionMass>(in.shape)),
          base_(make_base(in)) {
        static_cast<void>(in.observers.rehearsed());  // refuses a base with rehearsals of its own
    }

    [[nodiscard]] int64_t n_sink() const override { return base_->n_sink(); }
    [[nodiscard]] int64_t n_recent() const override { return base_->n_recent(); }
    [[nodiscard]] size_t bytes() const override { return base_->bytes(); }

    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        Scores scores = base_->score(held, noted);
        for (size_t h = 0; h < scores.size(); ++h) {
            std::vector<float> asked = noted[mass_].of(held.layer, static_cast<int64_t>(h));
            asked.resize(scores[h].size(), kUnasked);
            const auto end = std::ranges::find_if(asked, [](float x) { return x < 0; });
            if (end == asked.begin()) continue;
            smooth(std::span(asked.begin(), end), kernel_);
            scores[h] = with_share(asked, std::move(scores[h]), share_);
        }
        return scores;
    }

 private:
    static MadePolicy make_base(const PartInputs& in) {
        const std::string name = in.options.text("base", best_unasked(in.learned));
        const PolicyKind& kind = find_policy(name);
        require(kind.make != nullptr && kind.make != make_question,
                "policy 'question' cannot take '", name, "' for what is not asked for");
        return kind.make(in);
    }

    int64_t kernel_;
    double share_;
    Noted<QuestionMass> mass_;
    MadePolicy base_;
};

}  // namespace

MadePolicy make_question(const PartInputs& in) { return std::make_unique<Question>(in); }

}  // namespace palimpsest
