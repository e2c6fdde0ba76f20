#include "train/linear/bank_scan.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kKept = 32;  // tokens between two states that are kept for the way back

/// The order of states of a bank, as tokens come.
class SlotOrder {
 public:
    explicit SlotOrder(const BankOptions& o)
        : n_most_(o.name == "single" ? 1 : static_cast<int32_t>(o.n_states)) {}

    BankStep next(const BankDecision& decision) {
        BankStep s = {.n_before = n_};
        s.is_new = n_ == 0 || (decision.opens && n_most_ > 1);
        for (int32_t i = 0; i < n_; ++i) {
            const bool moves = decision.merged >= 0 && i > decision.merged;
            s.to.push_back(moves ? i - 1 : i);
        }
        if (decision.merged >= 0) --n_;
        if (s.is_new) ++n_;
        s.n_after = n_;
        s.open = n_ - 1;
        for (int32_t i = 0; i < n_; ++i) s.weight.push_back(n_ - 1 - i);
        return s;
    }

 private:
    int32_t n_most_, n_ = 0;
};

/// The order of levels, which the clock decides: full ones go into the next.
class LevelOrder {
 public:
    explicit LevelOrder(int64_t n_levels) : counts_(static_cast<size_t>(n_levels)) {}

    BankStep next(const BankDecision& /*decision*/) {
        const auto n = static_cast<int32_t>(counts_.size());
        BankStep s = {.n_before = n, .n_after = n, .open = 0, .is_new = true};
        std::vector<int64_t> before = counts_;
        int32_t last = 0;
        int64_t full = 1;
        for (; last + 1 < n && counts_[static_cast<size_t>(last)] == full; ++last, full *= 2) {
            counts_[static_cast<size_t>(last) + 1] += counts_[static_cast<size_t>(last)];
            counts_[static_cast<size_t>(last)] = 0;
        }
        for (int32_t l = 0; l < n; ++l) {
            const bool is_empty = before[static_cast<size_t>(l)] == 0;
            s.to.push_back(is_empty ? -1 : std::max(l, last));
        }
        // With one level only, it is the one that is written into.
        s.is_new = counts_[0] == 0;
        ++counts_[0];
        for (int32_t l = 0; l < n; ++l) {
            s.weight.push_back(counts_[static_cast<size_t>(l)] == 0 ? -1 : l);
        }
        return s;
    }

 private:
    std::vector<int64_t> counts_;
};

template <typename Real>
struct Token {
    const Real *q, *k, *v, *weights;
    Real stays, write;
};

template <typename Real>
Token<Real> token_at(const ScanInputs<Real>& in, int64_t t) {
    return {.q = in.q + t * in.key_step,
            .k = in.k + t * in.key_step,
            .v = in.v + t * in.value_step,
            .weights = in.weights == nullptr ? nullptr : in.weights + t * in.weights_step,
            .stays = in.stays[t * in.head_step],
            .write = in.write == nullptr ? Real{1} : in.write[t * in.head_step]};
}

/// States side by side, and what tokens do to them.
template <typename Real>
class Replay {
 public:
    Replay(const BankShape& shape, const BankOptions& options)
        : shape_(shape),
          closed_(options.closed),
          size_(shape.values()),
          x_(static_cast<size_t>(shape.n_columns)),
          y_(static_cast<size_t>(shape.n_columns)) {}

    using States = std::vector<Real>;  // [place][n_rows][n_columns]

    void advance(const States& before, const BankStep& s, const Token<Real>& token, States& after) {
        after.assign(static_cast<size_t>(s.n_after) * size_, Real{0});
        for (int32_t i = 0; i < s.n_before; ++i) {
            const int32_t to = s.to[static_cast<size_t>(i)];
            if (to < 0) continue;
            add_moved(place(before, i), rule_of(s, to), token, place(after, to));
        }
        Real* open = place(after, s.open);
        for_rows([&](int64_t r, size_t at) {
            const Real by = token.write * token.k[r];
            for (int64_t c = 0; c < shape_.n_columns; ++c) {
                open[at + static_cast<size_t>(c)] += by * token.v[c];
            }
        });
    }

    void read(const States& states, const BankStep& s, const Token<Real>& token, Real* out) const {
        std::fill_n(out, shape_.n_columns, Real{0});
        for (int32_t i = 0; i < s.n_after; ++i) {
            const Real weight = weight_of(s, i, token);
            if (weight == 0) continue;
            const Real* state = place(states, i);
            for_rows([&](int64_t r, size_t at) {
                const Real by = weight * token.q[r];
                for (int64_t c = 0; c < shape_.n_columns; ++c) {
                    out[c] += by * state[at + static_cast<size_t>(c)];
                }
            });
        }
    }

    /// Adds a token's part of the gradients, and turns those of the states after it into those of
    /// the states before it.
    void back(const States& before, const States& after, const BankStep& s,
              const Token<Real>& token, const Real* d_out, States& d_states,
              const ScanGradients<Real>& to) {
        back_through_read(after, s, token, d_out, d_states, to);
        back_through_write(s, token, d_states, to);
        States earlier(static_cast<size_t>(s.n_before) * size_, Real{0});
        for (int32_t i = 0; i < s.n_before; ++i) {
            const int32_t there = s.to[static_cast<size_t>(i)];
            if (there < 0) continue;
            std::copy_n(place(d_states, there), size_, place(earlier, i));
            back_through_move(place(before, i), rule_of(s, there), token, place(earlier, i), to);
        }
        d_states = std::move(earlier);
    }

 private:
    /// How the state that went to a place was treated.
    [[nodiscard]] ClosedStates rule_of(const BankStep& s, int32_t to) const {
        return to == s.open && !s.is_new ? ClosedStates::kTransition : closed_;
    }
    [[nodiscard]] bool erases(ClosedStates rule) const {
        return rule == ClosedStates::kTransition && shape_.rule == StateRule::kGatedDelta;
    }
    [[nodiscard]] static Real weight_of(const BankStep& s, int32_t i, const Token<Real>& token) {
        const int32_t weight = s.weight[static_cast<size_t>(i)];
        if (weight < 0) return Real{0};
        return token.weights == nullptr ? Real{1} : token.weights[weight];
    }
    [[nodiscard]] Real* place(States& states, int32_t i) const {
        return states.data() + static_cast<size_t>(i) * size_;
    }
    [[nodiscard]] const Real* place(const States& states, int32_t i) const {
        return states.data() + static_cast<size_t>(i) * size_;
    }
    template <typename Work>
    void for_rows(Work work) const {
        for (int64_t r = 0; r < shape_.n_rows; ++r) {
            work(r, static_cast<size_t>(r * shape_.n_columns));
        }
    }

    /// to = S^T x
    void project(const Real* state, const Real* x, std::vector<Real>& to) const {
        std::ranges::fill(to, Real{0});
        for_rows([&](int64_t r, size_t at) {
            for (int64_t c = 0; c < shape_.n_columns; ++c) {
                to[static_cast<size_t>(c)] += x[r] * state[at + static_cast<size_t>(c)];
            }
        });
    }

    void add_moved(const Real* state, ClosedStates rule, const Token<Real>& token, Real* to) {
        const bool is_erased = erases(rule);
        if (is_erased) project(state, token.k, x_);
        const Real stays = rule == ClosedStates::kNothing ? Real{1} : token.stays;
        for_rows([&](int64_t r, size_t at) {
            const Real gone = is_erased ? token.write * token.k[r] : Real{0};
            for (int64_t c = 0; c < shape_.n_columns; ++c) {
                const size_t j = at + static_cast<size_t>(c);
                to[j] += stays * (state[j] - gone * x_[static_cast<size_t>(c)]);
            }
        });
    }

    // Appendix B of the specification, step by step; R is a state's gradient.

    void back_through_read(const States& after, const BankStep& s, const Token<Real>& token,
                           const Real* d_out, States& d_states, const ScanGradients<Real>& to) {
        for (int32_t i = 0; i < s.n_after; ++i) {
            const int32_t which = s.weight[static_cast<size_t>(i)];
            if (which < 0) continue;
            const Real weight = weight_of(s, i, token);
            const Real* state = place(after, i);
            Real* r_state = place(d_states, i);
            Real d_weight = 0;
            for_rows([&](int64_t r, size_t at) {
                Real along = 0;
                for (int64_t c = 0; c < shape_.n_columns; ++c) {
                    const size_t j = at + static_cast<size_t>(c);
                    along += state[j] * d_out[c];
                    r_state[j] += weight * token.q[r] * d_out[c];
                }
                d_weight += token.q[r] * along;
                to.q[r] += weight * along;
            });
            if (to.weights != nullptr) to.weights[which] += d_weight;
        }
    }

    void back_through_write(const BankStep& s, const Token<Real>& token, States& d_states,
                            const ScanGradients<Real>& to) {
        const Real* r_state = place(d_states, s.open);
        for_rows([&](int64_t r, size_t at) {
            Real along = 0;  // (R v) of the row
            for (int64_t c = 0; c < shape_.n_columns; ++c) {
                const Real x = r_state[at + static_cast<size_t>(c)];
                along += x * token.v[c];
                to.v[c] += token.write * token.k[r] * x;
            }
            to.k[r] += token.write * along;
            if (to.write != nullptr) *to.write += token.k[r] * along;
        });
    }

    void back_through_move(const Real* state, ClosedStates rule, const Token<Real>& token,
                           Real* r_state, const ScanGradients<Real>& to) {
        if (rule == ClosedStates::kNothing) return;
        Real along = 0;  // <R, S>
        for (size_t j = 0; j < size_; ++j) along += r_state[j] * state[j];
        *to.stays += along;
        if (!erases(rule)) {
            for (size_t j = 0; j < size_; ++j) r_state[j] *= token.stays;
            return;
        }
        project(state, token.k, x_);
        project(r_state, token.k, y_);
        Real h = 0;
        for (size_t c = 0; c < x_.size(); ++c) h += x_[c] * y_[c];
        *to.stays -= token.write * h;
        if (to.write != nullptr) *to.write -= token.stays * h;
        for_rows([&](int64_t r, size_t at) {
            Real d_key = 0;
            for (size_t c = 0; c < x_.size(); ++c) {
                Real& x = r_state[at + c];
                d_key += state[at + c] * y_[c] + x * x_[c];
                x = token.stays * (x - token.write * token.k[r] * y_[c]);
            }
            to.k[r] -= token.stays * token.write * d_key;
        });
    }

    BankShape shape_;
    ClosedStates closed_;
    size_t size_;
    std::vector<Real> x_, y_;
};

/// Where a token's gradients go.
template <typename Real>
ScanGradients<Real> at_token(const ScanGradients<Real>& g, const ScanInputs<Real>& in, int64_t t) {
    return {.q = g.q + t * in.key_step,
            .k = g.k + t * in.key_step,
            .v = g.v + t * in.value_step,
            .stays = g.stays + t * in.head_step,
            .write = g.write == nullptr ? nullptr : g.write + t * in.head_step,
            .weights = g.weights == nullptr ? nullptr : g.weights + t * in.weights_step};
}

template <typename Order>
std::vector<BankStep> run(Order order, const BankShape& shape, const BankOptions& options,
                          const ScanInputs<float>& in, float* out, int64_t out_step) {
    const std::unique_ptr<HeadBank> bank = make_bank(shape, options);
    std::vector<BankStep> steps;
    for (int64_t t = 0; t < in.n; ++t) {
        const Token<float> token = token_at(in, t);
        bank->take_in({.q = token.q,
                       .k = token.k,
                       .v = token.v,
                       .stays = token.stays,
                       .write = token.write,
                       .weights = token.weights,
                       .opens = in.opens == nullptr ? nullptr : in.opens + t,
                       .out = out + t * out_step});
        steps.push_back(order.next(bank->decision()));
        steps.back().score = bank->decision().score;
    }
    return steps;
}

}  // namespace

std::vector<BankStep> run_bank(const BankShape& shape, const BankOptions& options,
                               const ScanInputs<float>& in, float* out, int64_t out_step) {
    return options.name == "log-linear"
               ? run(LevelOrder(options.n_states), shape, options, in, out, out_step)
               : run(SlotOrder(options), shape, options, in, out, out_step);
}

template <typename Real>
void replay_bank(const BankShape& shape, const BankOptions& options,
                 const std::vector<BankStep>& steps, const ScanInputs<Real>& in, Real* out,
                 int64_t out_step) {
    Replay<Real> replay(shape, options);
    std::vector<Real> before;
    std::vector<Real> after;
    if (!steps.empty()) {
        before.assign(static_cast<size_t>(steps.front().n_before) * shape.values(), Real{0});
    }
    for (int64_t t = 0; t < in.n; ++t) {
        const BankStep& s = steps[static_cast<size_t>(t)];
        const Token<Real> token = token_at(in, t);
        replay.advance(before, s, token, after);
        replay.read(after, s, token, out + t * out_step);
        std::swap(before, after);
    }
}

template <typename Real>
void bank_gradients(const BankShape& shape, const BankOptions& options,
                    const std::vector<BankStep>& steps, const ScanInputs<Real>& in,
                    const Real* d_out, int64_t out_step, const ScanGradients<Real>& gradients) {
    if (in.n == 0) return;
    Replay<Real> replay(shape, options);
    // As it was before every kKept-th token.
    std::vector<std::vector<Real>> kept;
    std::vector<Real> state(static_cast<size_t>(steps.front().n_before) * shape.values(), Real{0});
    std::vector<Real> next;
    for (int64_t t = 0; t < in.n; ++t) {
        if (t % kKept == 0) kept.push_back(state);
        replay.advance(state, steps[static_cast<size_t>(t)], token_at(in, t), next);
        std::swap(state, next);
    }
    std::vector<Real> d_states(static_cast<size_t>(steps.back().n_after) * shape.values(), Real{0});
    for (int64_t part = std::ssize(kept); part-- > 0;) {
        const int64_t first = part * kKept;
        const int64_t end = std::min(in.n, first + kKept);
        std::vector<std::vector<Real>> states = {kept[static_cast<size_t>(part)]};
        for (int64_t t = first; t < end; ++t) {
            replay.advance(states.back(), steps[static_cast<size_t>(t)], token_at(in, t), next);
            states.push_back(next);
        }
        for (int64_t t = end; t-- > first;) {
            const auto i = static_cast<size_t>(t - first);
            replay.back(states[i], states[i + 1], steps[static_cast<size_t>(t)], token_at(in, t),
                        d_out + t * out_step, d_states, at_token(gradients, in, t));
        }
    }
}

template void replay_bank(const BankShape&, const BankOptions&, const std::vector<BankStep>&,
                          const ScanInputs<float>&, float*, int64_t);
template void replay_bank(const BankShape&, const BankOptions&, const std::vector<BankStep>&,
                          const ScanInputs<double>&, double*, int64_t);
template void bank_gradients(const BankShape&, const BankOptions&, const std::vector<BankStep>&,
                             const ScanInputs<float>&, const float*, int64_t,
                             const ScanGradients<float>&);
template void bank_gradients(const BankShape&, const BankOptions&, const std::vector<BankStep>&,
                             const ScanInputs<double>&, const double*, int64_t,
                             const ScanGradients<double>&);

}  // namespace palimpsest
