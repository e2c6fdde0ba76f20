#include "memory/attention/query_op.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "memory/attention/attention.h"

namespace palimpsest {

namespace {

/// dst [d_head * n_head, n]; sources: attention's answers, rotated queries.
class ChangeOp final : public CustomOp {
 public:
    ChangeOp(int64_t d_head, int64_t n_head, AnswerChange how)
        : d_head_(d_head), n_head_(n_head), how_(std::move(how)) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* attended = dst->src[0];
        const ggml_tensor* q = dst->src[1];
        std::vector<float> scratch(static_cast<size_t>(how_.n_scratch));
        const int64_t n = dst->ne[1] * n_head_;
        for (int64_t w = n * thread / n_threads; w < n * (thread + 1) / n_threads; ++w) {
            const int64_t token = w / n_head_;
            const int64_t head = w % n_head_;
            const auto* from =
                reinterpret_cast<const float*>(static_cast<const char*>(attended->data) +
                                               static_cast<size_t>(token) * attended->nb[1]);
            float* out = static_cast<float*>(dst->data) + w * d_head_;
            std::copy_n(from + head * d_head_, d_head_, out);
            how_.change(head, token, head_row(q, head, token), out, scratch);
        }
    }

 private:
    int64_t d_head_, n_head_;
    AnswerChange how_;
};

}  // namespace

Tensor change_answers(Graph& g, const MemoryShape& shape, const AttentionInputs& in,
                      Tensor attended, AnswerChange how) {
    const std::array<Tensor, 2> sources = {attended, in.q};
    return g.custom({attended->ne[0], attended->ne[1], 1, 1}, sources,
                    std::make_unique<ChangeOp>(shape.d_head, shape.n_head, std::move(how)));
}

}  // namespace palimpsest
