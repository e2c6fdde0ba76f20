#include "memory/recurrent/step_inputs.h"

#include "core/error.h"

namespace palimpsest {

namespace {

const float* at(const ggml_tensor* t, int64_t head, int64_t head_dimension) {
    const auto offset = static_cast<size_t>(head) * t->nb[head_dimension];
    return reinterpret_cast<const float*>(static_cast<const std::byte*>(t->data) + offset);
}

/// From a token to the next, in values.
int64_t step_of(const ggml_tensor* t, int dimension) {
    return static_cast<int64_t>(t->nb[dimension] / sizeof(float));
}

}  // namespace

std::vector<Tensor> sources_of(const RecurrenceInputs& in) {
    std::vector<Tensor> sources = {in.q, in.k, in.v};
    if (in.decay != nullptr) sources.push_back(in.decay);
    if (in.write != nullptr) sources.push_back(in.write);
    if (in.skip != nullptr) sources.push_back(in.skip);
    return sources;
}

InputsThere inputs_there(const RecurrenceInputs& in) {
    return {.decay = in.decay != nullptr, .write = in.write != nullptr, .skip = in.skip != nullptr};
}

void check_inputs(const RecurrentLayer& shape, const RecurrenceInputs& in) {
    const auto is = [](const ggml_tensor* t, int64_t a, int64_t b) {
        return t != nullptr && t->type == GGML_TYPE_F32 && t->ne[0] == a && t->ne[1] == b &&
               t->nb[0] == sizeof(float);
    };
    check(is(in.q, shape.n_rows, shape.n_key_head) && is(in.k, shape.n_rows, shape.n_key_head) &&
              is(in.v, shape.n_columns, shape.n_head),
          "a recurrent layer's inputs are of its shape");
    check(step_of(in.q, 2) == step_of(in.k, 2) || in.q->ne[2] == 1,
          "queries and keys of a recurrent layer lie alike");
}

StateRun step_inputs(const ggml_tensor* node, const RecurrentLayer& shape, int64_t head,
                     InputsThere there) noexcept {
    const ggml_tensor* q = node->src[0];
    const ggml_tensor* k = node->src[1];
    const ggml_tensor* v = node->src[2];
    const int64_t key_head = shape.key_head(head);
    StateRun run = {.n = v->ne[2],
                    .q = at(q, key_head, 1),
                    .k = at(k, key_head, 1),
                    .key_step = step_of(k, 2),
                    .v = at(v, head, 1),
                    .value_step = step_of(v, 2),
                    .out = static_cast<float*>(node->data) + head * shape.n_columns,
                    .out_step = shape.n_head * shape.n_columns};
    int next = 3;
    if (there.decay) {
        const ggml_tensor* decay = node->src[next++];
        run.decay = at(decay, head, 0);
        run.decay_step = step_of(decay, 1);
    }
    if (there.write) {
        const ggml_tensor* write = node->src[next++];
        run.write = at(write, head, 0);
        run.write_step = step_of(write, 1);
    }
    if (there.skip) run.skip = *at(node->src[next], head, 0);
    return run;
}

}  // namespace palimpsest
