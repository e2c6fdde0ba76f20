#include "support/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace palimpsest::testing {

namespace {

std::vector<float> random_values(std::mt19937& engine, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F;
    return values;
}

float usual_scale(const MemoryShape& shape) {
    return 1.0F / std::sqrt(static_cast<float>(shape.d_head));
}

}  // namespace

ReferenceAnswer attend_plainly(std::span<const float> q, std::span<const ReferenceEntry> entries,
                               PositionRange visible, double scale) {
    constexpr double kNever = -std::numeric_limits<double>::infinity();
    std::vector<double> logits(entries.size(), kNever);
    double peak = kNever;
    for (size_t t = 0; t < entries.size(); ++t) {
        const ReferenceEntry& e = entries[t];
        if (e.position < visible.first || e.position > visible.last) continue;
        double sum = 0;
        for (size_t c = 0; c < q.size(); ++c) {
            sum += static_cast<double>(q[c]) * static_cast<double>(e.k[c]);
        }
        logits[t] = scale * sum;
        peak = std::max(peak, logits[t]);
    }
    ReferenceAnswer answer = {.out = std::vector<float>(q.size()), .lse = kNever};
    if (peak == kNever) return answer;
    std::vector<double> out(q.size());
    double weight = 0;
    for (size_t t = 0; t < entries.size(); ++t) {
        if (logits[t] == kNever) continue;
        const double w = std::exp(logits[t] - peak);
        weight += w;
        for (size_t c = 0; c < out.size(); ++c) {
            out[c] += w * static_cast<double>(entries[t].v[c]);
        }
    }
    for (size_t c = 0; c < out.size(); ++c) answer.out[c] = static_cast<float>(out[c] / weight);
    answer.lse = peak + std::log(weight);
    return answer;
}

MemoryScript::MemoryScript(const MemoryShape& shape, int64_t n, uint32_t seed)
    : shape_(shape), n_(n) {
    std::mt19937 engine(seed);
    for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
        // Queries four times as large: attention that looks somewhere, not everywhere alike.
        Layer l = {.q = random_values(engine, n * shape.n_head * shape.d_head),
                   .k = random_values(engine, n * shape.n_head_kv * shape.d_head),
                   .v = random_values(engine, n * shape.n_head_kv * shape.d_head),
                   .hidden = {}};
        for (float& x : l.q) x *= 4;
        layers_.push_back(std::move(l));
    }
    for (Layer& l : layers_) l.hidden = random_values(engine, n * shape.n_embd);
}

Tensor MemoryScript::input(Graph& g, const std::vector<float>& values, const Rows& rows) const {
    const auto [width, n_head, first, n] = rows;
    const int64_t row = std::max<int64_t>(1, n_head) * width;
    const auto part =
        std::span(values).subspan(static_cast<size_t>(first * row), static_cast<size_t>(n * row));
    const Shape shape = n_head == 0 ? Shape{width, n, 1, 1} : Shape{width, n_head, n, 1};
    return g.input(GGML_TYPE_F32, shape, [part](std::span<std::byte> out) {
        std::memcpy(out.data(), part.data(), out.size());
    });
}

std::vector<float> MemoryScript::step(Backend& backend, ContextMemory& memory, int64_t first,
                                      int64_t n) const {
    const Step step = {.n = n, .first_pos = memory.next_position(), .is_prefill = first + n < n_};
    memory.plan(step);
    Graph g(static_cast<size_t>(64 + 64 * shape_.n_layer));
    std::vector<Tensor> answers;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        const Layer& l = layers_[static_cast<size_t>(layer)];
        AttentionInputs in = {.layer = layer,
                              .hidden = shape_.n_embd == 0
                                            ? nullptr
                                            : input(g, l.hidden, {shape_.n_embd, 0, first, n}),
                              .q = input(g, l.q, {shape_.d_head, shape_.n_head, first, n}),
                              .k = input(g, l.k, {shape_.d_head, shape_.n_head_kv, first, n}),
                              .v = input(g, l.v, {shape_.d_head, shape_.n_head_kv, first, n}),
                              .scale = usual_scale(shape_)};
        in.q_raw = in.q;
        in.k_raw = in.k;
        answers.push_back(g.output(memory.attend(g, in)));
    }
    g.compute(backend);
    memory.settle(step);
    const auto row = static_cast<size_t>(shape_.n_head * shape_.d_head);
    const size_t n_layer = answers.size();
    std::vector<float> out(n_layer * row * static_cast<size_t>(n));
    for (size_t layer = 0; layer < n_layer; ++layer) {
        const std::vector<float> values = Graph::read(answers[layer]);
        for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
            std::memcpy(&out[(i * n_layer + layer) * row], &values[i * row], row * sizeof(float));
        }
    }
    return out;
}

std::vector<float> MemoryScript::run(Backend& backend, ContextMemory& memory, int64_t n_chunk,
                                     int64_t first) const {
    std::vector<float> out;
    for (int64_t at = first; at < n_; at += n_chunk) {
        const std::vector<float> part = step(backend, memory, at, std::min(n_chunk, n_ - at));
        out.insert(out.end(), part.begin(), part.end());
    }
    return out;
}

void MemoryScript::silence(int64_t first, int64_t n) {
    for (Layer& l : layers_) {
        const int64_t of_q = shape_.n_head * shape_.d_head;
        const int64_t of_k = shape_.n_head_kv * shape_.d_head;
        std::fill_n(l.q.begin() + first * of_q, n * of_q, 0.0F);
        std::fill_n(l.k.begin() + first * of_k, n * of_k, 0.0F);
    }
}

ReferenceEntry MemoryScript::entry(int64_t layer, int64_t head_kv, int64_t position) const {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    const int64_t d = shape_.d_head;
    const auto at = (position * shape_.n_head_kv + head_kv) * d;
    return {.position = position,
            .k = {l.k.begin() + at, l.k.begin() + at + d},
            .v = {l.v.begin() + at, l.v.begin() + at + d}};
}

std::span<const float> MemoryScript::query(int64_t layer, int64_t head, int64_t position) const {
    const auto d = static_cast<size_t>(shape_.d_head);
    const auto at = static_cast<size_t>(position * shape_.n_head + head) * d;
    return std::span(layers_[static_cast<size_t>(layer)].q).subspan(at, d);
}

std::span<const float> MemoryScript::hidden(int64_t layer, int64_t position) const {
    const auto n = static_cast<size_t>(shape_.n_embd);
    return std::span(layers_[static_cast<size_t>(layer)].hidden)
        .subspan(static_cast<size_t>(position) * n, n);
}

std::vector<float> MemoryScript::expected(int64_t first, int64_t n) const {
    const int64_t d = shape_.d_head;
    const auto head_of = [d](const std::vector<float>& values, int64_t n_head, int64_t i,
                             int64_t h) {
        return std::span(values).subspan(static_cast<size_t>((i * n_head + h) * d),
                                         static_cast<size_t>(d));
    };
    const auto copy = [](std::span<const float> s) {
        return std::vector<float>(s.begin(), s.end());
    };
    std::vector<std::vector<ReferenceEntry>> entries;  // [layer][head]
    for (const Layer& l : layers_) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            std::vector<ReferenceEntry>& of = entries.emplace_back();
            for (int64_t p = 0; p < first + n; ++p) {
                of.push_back({.position = p,
                              .k = copy(head_of(l.k, shape_.n_head_kv, p, h)),
                              .v = copy(head_of(l.v, shape_.n_head_kv, p, h))});
            }
        }
    }
    std::vector<float> out;
    for (int64_t i = first; i < first + n; ++i) {
        for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
            const int64_t window = shape_.window(layer);
            const PositionRange visible = {.first = window > 0 ? i - window + 1 : 0, .last = i};
            for (int64_t h = 0; h < shape_.n_head; ++h) {
                const int64_t kv = layer * shape_.n_head_kv + h * shape_.n_head_kv / shape_.n_head;
                const ReferenceAnswer answer = attend_plainly(
                    head_of(layers_[static_cast<size_t>(layer)].q, shape_.n_head, i, h),
                    entries[static_cast<size_t>(kv)], visible,
                    static_cast<double>(usual_scale(shape_)));
                out.insert(out.end(), answer.out.begin(), answer.out.end());
            }
        }
    }
    return out;
}

}  // namespace palimpsest::testing
