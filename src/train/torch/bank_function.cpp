#include "train/torch/bank_function.h"

#include <ATen/Parallel.h>

#include "core/error.h"
#include "train/linear/bank_scan.h"

namespace palimpsest {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What the way there leaves for the way back.
struct Decided : torch::CustomClassHolder {
    BankShape shape;
    BankOptions options;
    torch::Tensor opens;                       // [batch, n], or undefined
    std::vector<std::vector<BankStep>> steps;  // of each sequence's heads
};

/// Where one head's values lie in tensors of all.
struct Layout {
    int64_t batch, n, heads, rows, columns, states;

    explicit Layout(const torch::Tensor& k, const torch::Tensor& v, int64_t n_states)
        : batch(k.size(0)),
          n(k.size(1)),
          heads(k.size(2)),
          rows(k.size(3)),
          columns(v.size(3)),
          states(n_states) {}

    [[nodiscard]] int64_t at(int64_t i, int64_t width) const {
        return ((i / heads) * n * heads + i % heads) * width;
    }
    [[nodiscard]] ScanInputs<float> inputs(int64_t i, const variable_list& t) const {
        const auto values = [&](size_t which, int64_t width) -> const float* {
            return t[which].numel() > 0 ? t[which].data_ptr<float>() + at(i, width) : nullptr;
        };
        return {.n = n,
                .q = values(0, rows),
                .k = values(1, rows),
                .v = values(2, columns),
                .key_step = heads * rows,
                .value_step = heads * columns,
                .stays = values(3, 1),
                .write = values(4, 1),
                .head_step = heads,
                .weights = values(5, states),
                .weights_step = heads * states};
    }
    [[nodiscard]] ScanGradients<float> gradients(int64_t i, const variable_list& t) const {
        const auto values = [&](size_t which, int64_t width) -> float* {
            return t[which].numel() > 0 ? t[which].data_ptr<float>() + at(i, width) : nullptr;
        };
        return {.q = values(0, rows),
                .k = values(1, rows),
                .v = values(2, columns),
                .stays = values(3, 1),
                .write = values(4, 1),
                .weights = values(5, states)};
    }
};

class BankFunction : public torch::autograd::Function<BankFunction> {
 public:
    static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& q,
                                 const torch::Tensor& k, const torch::Tensor& v,
                                 const torch::Tensor& stays, const torch::Tensor& write,
                                 const torch::Tensor& weights,
                                 const c10::intrusive_ptr<Decided>& decided) {
        ctx->save_for_backward({q, k, v, stays, write, weights});
        ctx->saved_data["decided"] = c10::IValue::make_capsule(decided);
        const variable_list in = {q, k, v, stays, write, weights};
        const Layout layout(k, v, decided->options.n_states);
        torch::Tensor out = torch::empty_like(v);
        auto* to = out.data_ptr<float>();
        const int64_t n = layout.batch * layout.heads;
        decided->steps.resize(static_cast<size_t>(n));
        at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                BankOptions own = decided->options;
                own.seed = own.seed * 1000003 + static_cast<uint64_t>(i % layout.heads);
                ScanInputs<float> head = layout.inputs(i, in);
                if (decided->opens.defined()) {
                    head.opens = decided->opens.data_ptr<bool>() + (i / layout.heads) * layout.n;
                }
                decided->steps[static_cast<size_t>(i)] =
                    run_bank(decided->shape, own, head, to + layout.at(i, layout.columns),
                             layout.heads * layout.columns);
            }
        });
        return out;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& d_out) {
        const variable_list in = ctx->get_saved_variables();
        const auto decided =
            c10::static_intrusive_pointer_cast<Decided>(ctx->saved_data["decided"].toCapsule());
        const torch::Tensor d = d_out[0].contiguous();
        variable_list gradients;
        for (const torch::Tensor& t : in) {
            gradients.push_back(torch::zeros_like(t));
        }
        const Layout layout(in[1], in[2], decided->options.n_states);
        at::parallel_for(0, layout.batch * layout.heads, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                bank_gradients(decided->shape, decided->options,
                               decided->steps[static_cast<size_t>(i)], layout.inputs(i, in),
                               d.data_ptr<float>() + layout.at(i, layout.columns),
                               layout.heads * layout.columns, layout.gradients(i, gradients));
            }
        });
        gradients.emplace_back();  // of what was decided
        return gradients;
    }
};

/// LibTorch wants every argument defined: what is not there is empty.
torch::Tensor in_order(const torch::Tensor& t) {
    return t.defined() ? t.to(torch::kFloat).contiguous() : torch::empty({0});
}

}  // namespace

torch::Tensor read_banks(StateRule rule, const BankOptions& options, const BankTensors& in,
                         BankTally* tally) {
    check(in.k.dim() == 4 && in.v.dim() == 4 && in.q.sizes() == in.k.sizes() && in.stays.dim() == 3,
          "heads of a bank are of one shape");
    check(!in.weights.defined() || in.weights.size(3) == options.n_states,
          "there is a weight for each state of a bank");
    auto decided = c10::make_intrusive<Decided>();
    decided->shape = {.rule = rule, .n_rows = in.k.size(3), .n_columns = in.v.size(3)};
    decided->options = options;
    if (in.opens.defined()) decided->opens = in.opens.contiguous();
    torch::Tensor out =
        BankFunction::apply(in_order(in.q), in_order(in.k), in_order(in.v), in_order(in.stays),
                            in_order(in.write), in_order(in.weights), decided);
    if (tally != nullptr) {
        for (const auto& head : decided->steps) {
            tally->n_tokens += std::ssize(head);
            for (const BankStep& s : head) tally->n_opened += s.is_new ? 1 : 0;
            for (size_t t = 1; tally->keeps_scores && t < head.size(); ++t) {
                tally->scores.push_back(head[t].score);
            }
        }
    }
    return out;
}

}  // namespace palimpsest
