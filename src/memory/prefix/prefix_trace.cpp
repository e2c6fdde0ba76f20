#include "memory/prefix/prefix_trace.h"

#include <algorithm>
#include <istream>
#include <ostream>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/eviction/selection.h"
#include "memory/kernels/attention_state.h"

namespace palimpsest {

EntryLine::EntryLine(const MemoryShape& shape, ggml_type type, int64_t n_slots,
                     int64_t first_position)
    : shape_(shape), store_(shape, type, n_slots), first_position_(first_position) {}

SlotRange EntryLine::visible(int64_t layer, int64_t /*head*/, int64_t i) const noexcept {
    const int64_t window = shape_.window(layer);
    const int64_t end = n_ + i + 1;
    return {window > 0 ? std::max<int64_t>(0, end - window) : 0, end};
}

void EntryLine::read_head(std::istream& in, int64_t layer, int64_t head, int64_t n) {
    for (const std::span<std::byte> bytes :
         {store_.key_bytes(layer, head, 0, n), store_.value_bytes(layer, head, 0, n)}) {
        in.read(reinterpret_cast<char*>(bytes.data()), std::ssize(bytes));
    }
    if (!in) throw Error(ErrorCode::kCorrupt, "the saved prefix ends too early");
}

void EntryLine::arrange(int64_t layer, int64_t head, std::span<const int32_t> order) {
    check(std::ssize(order) == n_, "every entry has a place");
    for (const std::span<std::byte> bytes :
         {store_.key_bytes(layer, head, 0, n_), store_.value_bytes(layer, head, 0, n_)}) {
        const std::vector<std::byte> old(bytes.begin(), bytes.end());
        const size_t row = bytes.size() / order.size();
        for (size_t i = 0; i < order.size(); ++i) {
            std::copy_n(old.begin() + static_cast<std::ptrdiff_t>(row) * order[i], row,
                        bytes.begin() + static_cast<std::ptrdiff_t>(i * row));
        }
    }
}

size_t EntryLine::bytes() const {
    return store_.bytes_of(n_) * static_cast<size_t>(shape_.n_layer * shape_.n_head_kv);
}

ExactPrefix::ExactPrefix(const Backend& backend, const MemoryShape& shape, ggml_type entries,
                         int64_t n_positions, int64_t first_position)
    : shape_(shape),
      line_(shape, entries, n_positions, first_position),
      scratch_(shape, backend.n_threads()) {}

uint64_t ExactPrefix::plan(const Step& step) {
    check(step.n >= 1 && step.n <= room(), "a prefix as long as announced");
    scratch_.prepare(step.n, line_.size() + step.n);
    return static_cast<uint64_t>(step.n);
}

Tensor ExactPrefix::attend(Graph& g, const AttentionInputs& in) {
    return fused_attention(g, shape_, in, line_, scratch_);
}

MemoryUsage ExactPrefix::usage() const {
    return {.positions_seen = line_.size(),
            .entries_held = line_.size(),
            .bytes = line_.bytes() + scratch_.bytes()};
}

/// The prefix as its followers see it, either what was set apart or the rest; nothing is stored.
class TraceMemory::FrozenEntries final : public EntrySource {
 public:
    FrozenEntries(const ExactPrefix& prefix, const EntryLine& own, bool is_apart)
        : prefix_(prefix), own_(own), is_apart_(is_apart) {}
    void store(int64_t /*layer*/, int64_t /*head*/, int64_t /*i*/, const float* /*k*/,
               const float* /*v*/) noexcept override {}
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override {
        return prefix_.rows(layer, head);
    }
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head,
                                    int64_t i) const noexcept override {
        if (is_apart_) return {0, prefix_.n_apart(layer, head)};
        if (prefix_.is_split_in(layer)) return {prefix_.n_apart(layer, head), prefix_.size()};
        const int64_t window = prefix_.shape().window(layer);
        const int64_t oldest =
            window > 0 ? own_.next_position() + i - window + 1 - prefix_.first_position() : 0;
        return {std::clamp<int64_t>(oldest, 0, prefix_.size()), prefix_.size()};
    }

 private:
    const ExactPrefix& prefix_;
    const EntryLine& own_;
    bool is_apart_;
};

TraceMemory::TraceMemory(const Backend& backend, const ExactPrefix& prefix, int64_t n_positions,
                         PrefixKeys keys, OnStep on_step)
    : shape_(prefix.shape()),
      prefix_(prefix),
      keys_(keys),
      on_step_(std::move(on_step)),
      own_(shape_, GGML_TYPE_F32, n_positions, prefix.next_position()),
      frozen_(std::make_shared<FrozenEntries>(prefix, own_, false)),
      apart_(std::make_shared<FrozenEntries>(prefix, own_, true)),
      scratch_(shape_, backend.n_threads()),
      prefix_scratch_(shape_, backend.n_threads()),
      apart_scratch_(shape_, backend.n_threads()),
      layers_(static_cast<size_t>(shape_.n_layer)) {
    scratch_.note_lse();
    prefix_scratch_.note_lse();
    apart_scratch_.note_lse();
}

uint64_t TraceMemory::plan(const Step& step) {
    if (step.n > room()) {
        throw Error(ErrorCode::kExhausted, cat("a trace of more than ", own_.size() + room(),
                                               " tokens does not fit behind the prefix"));
    }
    scratch_.prepare(step.n, own_.size() + step.n);
    prefix_scratch_.prepare(step.n, prefix_.size());
    if (prefix_.is_split()) apart_scratch_.prepare(step.n, prefix_.most_apart());
    if (on_step_) {
        const auto n = static_cast<size_t>(step.n * shape_.n_head);
        const auto d = static_cast<size_t>(shape_.d_head);
        for (TracedLayer& l : layers_) {
            l.keys.resize(n * d);
            l.outputs.resize(n * d);
            l.own.resize(n * d);
            l.lse.resize(n);
            l.own_lse.resize(n);
            if (!prefix_.is_split_in(&l - layers_.data())) continue;
            l.alone.resize(n * d);
            l.alone_lse.resize(n);
            l.queries.resize(n * d);
        }
    }
    return static_cast<uint64_t>(step.n);
}

/// dst [d_head * n_head, n]; sources: attention over the trace, over the prefix, keys' queries, and
/// if anything was set apart, attention over that and rotated queries.
class TraceMemory::SplitOp final : public CustomOp {
 public:
    SplitOp(TraceMemory& of, int64_t layer) : of_(of), layer_(layer) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const MemoryShape& shape = of_.shape_;
        const auto d = static_cast<size_t>(shape.d_head);
        const int64_t n = dst->ne[1] * shape.n_head;
        const auto row = [&](const ggml_tensor* t, int64_t i, int64_t h) {
            const auto* column = reinterpret_cast<const float*>(static_cast<const char*>(t->data) +
                                                                static_cast<size_t>(i) * t->nb[1]);
            return column + h * shape.d_head;
        };
        TracedLayer& told = of_.layers_[static_cast<size_t>(layer_)];
        for (int64_t w = n * thread / n_threads; w < n * (thread + 1) / n_threads; ++w) {
            const int64_t i = w / shape.n_head;
            const int64_t h = w % shape.n_head;
            const std::span<float> out(static_cast<float*>(dst->data) + w * shape.d_head, d);
            const std::span<const float> prefix(row(dst->src[1], i, h), d);
            std::copy_n(row(dst->src[0], i, h), d, out.begin());
            float own_lse = *of_.scratch_.lse(h, i);
            if (dst->src[3] != nullptr) {
                if (of_.on_step_) tell_alone(told, w, out, own_lse, head_row(dst->src[4], h, i));
                own_lse = join_state(out, own_lse, {row(dst->src[3], i, h), d},
                                     *of_.apart_scratch_.lse(h, i));
            }
            if (of_.on_step_) {
                std::ranges::copy(out,
                                  told.own.begin() + static_cast<std::ptrdiff_t>(w) * shape.d_head);
            }
            const SlotRange seen = of_.frozen_->visible(layer_, h / shape.group(), i);
            float prefix_lse = kEmptyState;
            if (seen.begin < seen.end) prefix_lse = *of_.prefix_scratch_.lse(h, i);
            join_state(out, own_lse, prefix, prefix_lse);
            if (!of_.on_step_) continue;
            const auto at = static_cast<size_t>(w);
            std::copy_n(head_row(dst->src[2], h, i), d, told.keys.data() + at * d);
            told.lse[at] = prefix_lse;
            told.own_lse[at] = own_lse;
            float* to = told.outputs.data() + at * d;
            if (prefix_lse == kEmptyState) {
                std::fill_n(to, d, 0.0F);
            } else {
                std::ranges::copy(prefix, to);
            }
        }
    }

 private:
    static void tell_alone(TracedLayer& told, int64_t w, std::span<const float> out, float lse,
                           const float* query) {
        const auto at = static_cast<size_t>(w);
        std::ranges::copy(out, told.alone.data() + at * out.size());
        std::copy_n(query, out.size(), told.queries.data() + at * out.size());
        told.alone_lse[at] = lse;
    }

    TraceMemory& of_;
    int64_t layer_;
};

Tensor TraceMemory::attend(Graph& g, const AttentionInputs& in) {
    Tensor own = g.keep(fused_attention(g, shape_, in, own_, scratch_));
    Tensor prefix = g.keep(fused_attention(g, shape_, in, *frozen_, prefix_scratch_));
    std::vector<Tensor> sources = {own, prefix, keys_ == PrefixKeys::kPre ? in.q_raw : in.q};
    if (prefix_.is_split_in(in.layer)) {
        sources.push_back(g.keep(fused_attention(g, shape_, in, *apart_, apart_scratch_)));
        sources.push_back(in.q);
    }
    // Kept: the last layer is told too, where no logits are wanted.
    return g.keep(g.custom({own->ne[0], own->ne[1], 1, 1}, sources,
                           std::make_unique<SplitOp>(*this, in.layer)));
}

void ExactPrefix::keep(std::span<const std::vector<int32_t>> kept) {
    const size_t n = kept.front().size();
    for (size_t i = 0; i < kept.size(); ++i) {
        check(kept[i].size() == n, "as many entries of every head");
        const auto at = static_cast<int64_t>(i);
        line_.gather(at / shape_.n_head_kv, at % shape_.n_head_kv, kept[i]);
    }
    line_.shrink(static_cast<int64_t>(n));
}

void ExactPrefix::set_apart(std::span<const std::vector<int32_t>> chosen) {
    check(!is_split() && std::ssize(chosen) == shape_.n_layer * shape_.n_head_kv,
          "entries of every head, once");
    for (size_t i = 0; i < chosen.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        if (shape_.window(at / shape_.n_head_kv) > 0) {
            check(chosen[i].empty(), "no entries where a layer has a window");
            continue;
        }
        check(!chosen[i].empty() && std::ssize(chosen[i]) < line_.size(), "some entries, not all");
        std::vector<int32_t> order = chosen[i];
        const std::vector<int32_t> rest = complement(chosen[i], line_.size());
        order.insert(order.end(), rest.begin(), rest.end());
        line_.arrange(at / shape_.n_head_kv, at % shape_.n_head_kv, order);
    }
    for (const auto& of : chosen) n_apart_.push_back(std::ssize(of));
}

void ExactPrefix::save(std::ostream& out) const {
    put(out, line_.size());
    for_heads([&](const EntryRows& rows) {
        const auto n = static_cast<std::streamsize>(rows.row_bytes) * line_.size();
        out.write(reinterpret_cast<const char*>(rows.k), n);
        out.write(reinterpret_cast<const char*>(rows.v), n);
    });
    if (!out) throw Error(ErrorCode::kExhausted, "the prefix could not be written (disk full?)");
}

void ExactPrefix::load(std::istream& in) {
    const auto n = take<int64_t>(in);
    if (n < 1 || n > line_.size() + line_.room()) {
        throw Error(ErrorCode::kCorrupt, cat("the saved prefix has ", n, " positions"));
    }
    reset();
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) line_.read_head(in, layer, h, n);
    }
    line_.append(n);
}

void TraceMemory::settle(const Step& step) {
    const int64_t first = own_.size();
    own_.append(step.n);
    if (on_step_) on_step_(first, step.n, layers_);
}

MemoryUsage TraceMemory::usage() const {
    return {.positions_seen = own_.size(), .entries_held = own_.size(), .bytes = bytes()};
}

size_t TraceMemory::bytes() const {
    size_t n = own_.bytes() + scratch_.bytes() + prefix_scratch_.bytes() + apart_scratch_.bytes();
    for (const TracedLayer& l : layers_) {
        for (const auto* of : {&l.keys, &l.outputs, &l.lse, &l.own, &l.own_lse, &l.alone,
                               &l.alone_lse, &l.queries}) {
            n += of->size() * sizeof(float);
        }
    }
    return n;
}

}  // namespace palimpsest
