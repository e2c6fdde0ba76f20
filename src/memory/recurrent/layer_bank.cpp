#include "memory/recurrent/layer_bank.h"

#include <cmath>
#include <istream>
#include <ostream>

#include "core/error.h"
#include "memory/recurrent/step_inputs.h"

namespace palimpsest {

/// Head after head: what one decides does not depend on the others.
class LayerBank::Op final : public CustomOp {
 public:
    Op(LayerBank& bank, bool has_decay, bool has_write)
        : bank_(bank), has_decay_(has_decay), has_write_(has_write) {}

    void run(ggml_tensor* dst, int /*thread*/, int n_threads) noexcept override {
        const int64_t n = bank_.shape_.n_head;
        for (int64_t i = work_.take(); i < n; i = work_.take()) run_head(dst, i);
        work_.leave(n_threads);
    }

 private:
    void run_head(ggml_tensor* dst, int64_t i) {
        HeadBank& head = *bank_.heads_[static_cast<size_t>(i)];
        const StateRun run = step_inputs(dst, bank_.shape_, i, has_decay_, has_write_);
        for (int64_t t = 0; t < run.n; ++t) {
            BankToken token = {.q = run.q + t * run.key_step,
                               .k = run.k + t * run.key_step,
                               .v = run.v + t * run.value_step,
                               .out = run.out + t * run.out_step};
            if (run.decay != nullptr) token.stays = std::exp(run.decay[t * run.decay_step]);
            if (run.write != nullptr) token.write = run.write[t * run.write_step];
            head.take_in(token);
        }
    }

    LayerBank& bank_;
    bool has_decay_, has_write_;
    WorkList work_;
};

LayerBank::LayerBank(const RecurrentLayer& shape, const BankOptions& options) : shape_(shape) {
    const BankShape of = {
        .rule = state_rule_named(shape.kind), .n_rows = shape.n_rows, .n_columns = shape.n_columns};
    for (int64_t i = 0; i < shape.n_head; ++i) {
        BankOptions own = options;
        own.seed = options.seed * 1000003 + static_cast<uint64_t>(i);
        heads_.push_back(make_bank(of, own));
    }
}

Tensor LayerBank::recur(Graph& g, const RecurrenceInputs& in) {
    return g.custom({shape_.n_columns * shape_.n_head, in.v->ne[2], 1, 1}, sources_of(in),
                    std::make_unique<Op>(*this, in.decay != nullptr, in.write != nullptr));
}

void LayerBank::reset() {
    for (const auto& h : heads_) h->reset();
}

void LayerBank::save(std::ostream& out) const {
    for (const auto& h : heads_) h->save(out);
}

void LayerBank::load(std::istream& in) {
    try {
        for (const auto& h : heads_) h->load(in);
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

const std::vector<float>& LayerBank::sums() {
    const auto size = static_cast<size_t>(shape_.n_rows * shape_.n_columns);
    sums_.assign(heads_.size() * size, 0.0F);
    for (size_t h = 0; h < heads_.size(); ++h) {
        for (const BankState& s : heads_[h]->states()) {
            for (size_t i = 0; i < size; ++i) sums_[h * size + i] += s.values[i];
        }
    }
    return sums_;
}

}  // namespace palimpsest
