#include "memory/recurrent/layer_bank.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <istream>
#include <numbers>
#include <ostream>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/recurrent/step_inputs.h"

namespace palimpsest {

/// Head after head: what one decides does not depend on the others.
class LayerBank::Op final : public CustomOp {
 public:
    /// `weights`: the last source, [n_states, n_head, n]; -1: there is none.
    Op(LayerBank& bank, InputsThere there, int weights)
        : bank_(bank), there_(there), weights_(weights) {}

    void run(ggml_tensor* dst, int /*thread*/, int n_threads) noexcept override {
        const int64_t n = bank_.shape_.n_head;
        for (int64_t i = work_.take(); i < n; i = work_.take()) run_head(dst, i);
        work_.leave(n_threads);
    }

 private:
    void run_head(ggml_tensor* dst, int64_t i) {
        HeadBank& head = *bank_.heads_[static_cast<size_t>(i)];
        const StateRun run = step_inputs(dst, bank_.shape_, i, there_);
        const float* weights =
            weights_ < 0 ? nullptr : static_cast<const float*>(dst->src[weights_]->data);
        for (int64_t t = 0; t < run.n; ++t) {
            BankToken token = {.q = run.q + t * run.key_step,
                               .k = run.k + t * run.key_step,
                               .v = run.v + t * run.value_step,
                               .out = run.out + t * run.out_step};
            if (t + 1 < run.n) token.next_k = run.k + (t + 1) * run.key_step;
            if (run.decay != nullptr) token.stays = std::exp(run.decay[t * run.decay_step]);
            if (run.write != nullptr) token.write = run.write[t * run.write_step];
            if (weights != nullptr) {
                token.weights = weights + (t * bank_.shape_.n_head + i) * bank_.n_states_;
            }
            head.take_in(token);
            for (int64_t c = 0; run.skip != 0 && c < bank_.shape_.n_columns; ++c) {
                token.out[c] += run.skip * token.v[c];
            }
            note(i, t, head.decision());
        }
    }

    void note(int64_t head, int64_t token, const BankDecision& decision) {
        Tally& tally = bank_.tallies_[static_cast<size_t>(head)];
        ++tally.n_tokens;
        if (decision.merged >= 0) ++tally.n_merged;
        if (!decision.opens) return;
        ++tally.n_opened;
        // Other heads, on other threads, count the same token.
        std::atomic_ref(bank_.openings_[static_cast<size_t>(token)])
            .fetch_add(1, std::memory_order_relaxed);
    }

    LayerBank& bank_;
    InputsThere there_;
    int weights_;
    WorkList work_;
};

LayerBank::LayerBank(const RecurrentLayer& shape, const BankOptions& options, Openings& openings,
                     const BankReadOut::Layer* read_out)
    : shape_(shape),
      openings_(openings),
      read_out_(read_out),
      n_states_(options.n_states),
      tallies_(static_cast<size_t>(shape.n_head)) {
    const BankShape of = {.rule = state_rule_named(shape.kind),
                          .n_rows = shape.n_rows,
                          .n_columns = shape.n_columns,
                          .are_weighed = read_out != nullptr && read_out->weigh != nullptr};
    for (int64_t i = 0; i < shape.n_head; ++i) {
        BankOptions own = options;
        own.seed = options.seed * 1000003 + static_cast<uint64_t>(i);
        if (read_out != nullptr) own.threshold = read_out->threshold;
        heads_.push_back(make_bank(of, own));
    }
}

Tensor LayerBank::recur(Graph& g, const RecurrenceInputs& in) {
    std::vector<Tensor> sources = sources_of(in);
    int weights = -1;
    if (read_out_ != nullptr && read_out_->weigh != nullptr) {
        weights = static_cast<int>(sources.size());
        sources.push_back(this->weights(g, in.hidden));
    }
    return g.custom({shape_.n_columns * shape_.n_head, in.v->ne[2], 1, 1}, sources,
                    std::make_unique<Op>(*this, inputs_there(in), weights));
}

/// Of every token's states: [n_states, n_head, n].
Tensor LayerBank::weights(Graph& g, Tensor hidden) const {
    check(hidden != nullptr && hidden->ne[0] == read_out_->weigh->ne[0],
          "weights of states are told from a block's input");
    ggml_context* c = g.ctx();
    Tensor raw = ggml_mul_mat(c, read_out_->weigh, hidden);
    raw = ggml_reshape_3d(c, raw, n_states_, shape_.n_head, hidden->ne[1]);
    raw = ggml_softplus(c, ggml_mul(c, raw, read_out_->scale));
    return ggml_scale(c, raw, 1 / std::numbers::ln2_v<float>);
}

void LayerBank::reset() {
    for (const auto& h : heads_) h->reset();
    std::ranges::fill(tallies_, Tally());
}

void LayerBank::save(std::ostream& out) const {
    for (const auto& h : heads_) h->save(out);
    for (const Tally& t : tallies_) put(out, t);
}

void LayerBank::load(std::istream& in) {
    try {
        for (const auto& h : heads_) h->load(in);
        for (Tally& t : tallies_) {
            t = take<Tally>(in);
            const bool fits = t.n_tokens >= 0 && t.n_opened >= 0 && t.n_opened <= t.n_tokens &&
                              t.n_merged >= 0 && t.n_merged <= t.n_tokens;
            if (!fits) refuse_states(cat(t.n_opened, " states opened by ", t.n_tokens, " tokens"));
        }
    } catch (...) {
        reset();
        throw;
    }
}

size_t LayerBank::bytes() const {
    size_t bytes = 0;
    for (const auto& h : heads_) bytes += h->bytes();
    return bytes;
}

LayerBank::Tally LayerBank::tally() const {
    Tally all;
    for (const Tally& t : tallies_) {
        all.n_tokens += t.n_tokens;
        all.n_opened += t.n_opened;
        all.n_merged += t.n_merged;
    }
    return all;
}

void LayerBank::add_to(MemoryReport::States& report) const {
    const Tally all = tally();
    report.n_opened += all.n_opened;
    report.n_merged += all.n_merged;
    report.n_heads += std::ssize(heads_);
    for (const auto& h : heads_) {
        for (const BankState& s : h->states()) {
            if (s.n == 0) continue;  // an empty level
            const auto octave = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(s.n)) - 1);
            ++report.lengths.at(std::min(octave, report.lengths.size() - 1));
        }
    }
}

const std::vector<float>& LayerBank::sums() {
    const auto size = static_cast<size_t>(shape_.n_rows * shape_.n_columns);
    sums_.assign(heads_.size() * size, 0.0F);
    for (size_t h = 0; h < heads_.size(); ++h) {
        for (const BankState& s : heads_[h]->states()) {
            for (size_t i = 0; i < s.values.size(); ++i) sums_[h * size + i] += s.values[i];
        }
    }
    return sums_;
}

}  // namespace palimpsest
