#pragma once

#include <memory>
#include <vector>

#include "engine/session.h"
#include "memory/prefix/prefix_assembly.h"
#include "memory/prefix/prefix_file.h"
#include "memory/prefix/prefix_trace.h"
#include "support/tiny_model.h"

namespace palimpsest::testing {

// A prefix of the tiny model, and documents made of what traces saw of it.

inline constexpr int64_t kPrefix = 60;  // tokens

inline std::vector<TokenId> joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

inline std::vector<float> last(const std::vector<float>& logits, size_t n_tokens) {
    const size_t n = n_tokens * static_cast<size_t>(kTinyVocab);
    return {logits.end() - static_cast<std::ptrdiff_t>(n), logits.end()};
}

/// A prefix that was read, and what traces saw of it. About `n_kept` of its entries are kept,
/// others and another number of them in every head of every layer without a window.
class Traced {
 public:
    explicit Traced(TinyModel& tiny, PrefixLayout layout, PrefixKeys keys = PrefixKeys::kPost,
                    int32_t n_kept = 0)
        : tiny_(tiny), keys_(keys), layout_(layout) {
        const MemoryShape shape = tiny.shape();
        for (int32_t h = 0; n_kept > 0 && h < shape.n_layer * shape.n_head_kv; ++h) {
            std::vector<int32_t>& of = kept_.emplace_back();
            if (shape.window(h / shape.n_head_kv) > 0) continue;
            for (int32_t i = 0; i < n_kept + h % 3; ++i) of.push_back(h % 5 + i * 2);
        }
        auto memory =
            std::make_unique<ExactPrefix>(tiny.backend(), tiny.shape(), GGML_TYPE_F32, kPrefix);
        prefix_ = memory.get();
        reader_ = std::make_unique<Session>(tiny.model(), tiny.backend(), std::move(memory));
        reader_->feed(tiny_tokens(kPrefix));
        if (n_kept > 0) prefix_->set_apart(kept_);
        records_.resize(static_cast<size_t>(tiny.shape().n_layer * layout.n_codebooks()),
                        {.n_block = layout.blocks(), .d_head = layout.d_head});
    }

    /// Logits of every position of a trace.
    std::vector<float> follow(const std::vector<TokenId>& trace, int64_t n_chunk = 512) {
        Session session(
            tiny_.model(), tiny_.backend(),
            std::make_unique<TraceMemory>(tiny_.backend(), *prefix_, 200, keys_,
                                          [this](int64_t /*first*/, int64_t n,
                                                 std::span<const TracedLayer> l) { add(n, l); }),
            {.n_chunk = n_chunk});
        return all_logits(session, trace);
    }

    [[nodiscard]] PrefixHeader header() const {
        PrefixHeader h;
        h.name = "tiny";
        h.tokens = tiny_tokens(kPrefix);
        h.n_layer = tiny_.shape().n_layer;
        h.layout = layout_;
        h.keys = keys_;
        return h;
    }

    /// All records, or k clusters of them.
    [[nodiscard]] std::shared_ptr<const PrefixDocument> document(
        int64_t k = 0, PrefixStorage storage = PrefixStorage::kF16, bool with_exact = false,
        float floor = -2, bool has_lists = false) const {
        PrefixAssembly assembly(header(), storage);
        const int64_t c = layout_.n_codebooks();
        for (int64_t l = 0; l < tiny_.shape().n_layer; ++l) {
            std::vector<Codebook> books;
            for (int64_t i = 0; i < c; ++i) {
                const StateRecords& r = records_[static_cast<size_t>(l * c + i)];
                books.push_back(k > 0 ? build_codebook(tiny_.backend(), r, {.k = k})
                                      : unclustered(r));
            }
            std::vector<EntryLists> lists;
            for (Codebook& book : books) {
                if (has_lists) lists.push_back(put_in_lists(tiny_.backend(), book, 1));
            }
            assembly.add_layer(books, lists);
        }
        if (floor > -2) {
            assembly.set_floors(std::vector<float>(records_.size(), floor));
        }
        if (with_exact || !kept_.empty()) set_entries(assembly, with_exact);
        return std::make_shared<const PrefixDocument>(assembly.document(header()));
    }

    [[nodiscard]] const std::vector<StateRecords>& records() const { return records_; }

 private:
    void add(int64_t n, std::span<const TracedLayer> layers) {
        const int64_t n_codebooks = layout_.n_codebooks();
        for (size_t l = 0; l < layers.size(); ++l) {
            for (int64_t w = 0; w < n * n_codebooks * layout_.rows(); ++w) {
                const int64_t i = w / (n_codebooks * layout_.rows());
                const int64_t c = w / layout_.rows() % n_codebooks;
                StateRecords& to =
                    records_[l * static_cast<size_t>(n_codebooks) + static_cast<size_t>(c)];
                for (int64_t b = 0; b < layout_.blocks(); ++b) {
                    const int64_t head = layout_.head(c, w % layout_.rows(), b);
                    add_head(layers[l], i * layout_.n_head + head, to);
                }
            }
        }
    }

    /// Number `at` of what a layer saw.
    void add_head(const TracedLayer& layer, int64_t at, StateRecords& to) const {
        const auto copy = [&](const std::vector<float>& from, std::vector<float>& into,
                              int64_t width) {
            into.insert(into.end(), from.begin() + at * width, from.begin() + (at + 1) * width);
        };
        copy(layer.keys, to.keys, layout_.d_head);
        copy(layer.outputs, to.outputs, layout_.d_head);
        copy(layer.lse, to.lse, 1);
    }

    void set_entries(PrefixAssembly& assembly, bool with_exact) const {
        // The same prefix, read into entries of f16.
        auto memory =
            std::make_unique<ExactPrefix>(tiny_.backend(), tiny_.shape(), GGML_TYPE_F16, kPrefix);
        ExactPrefix& exact = *memory;
        Session session(tiny_.model(), tiny_.backend(), std::move(memory));
        session.feed(tiny_tokens(kPrefix));
        if (!kept_.empty()) exact.set_apart(kept_);
        for (int64_t l = 0; l < tiny_.shape().n_layer; ++l) {
            std::vector<EntryRows> heads;
            for (int64_t h = 0; h < tiny_.shape().n_head_kv; ++h) heads.push_back(exact.rows(l, h));
            if (with_exact) assembly.set_exact(l, heads);
            if (kept_.empty()) continue;
            const auto first = static_cast<size_t>(l) * heads.size();
            assembly.set_kept(l, heads, std::span(kept_).subspan(first, heads.size()));
        }
    }

    TinyModel& tiny_;
    PrefixKeys keys_;
    PrefixLayout layout_;
    std::unique_ptr<Session> reader_;
    ExactPrefix* prefix_;
    std::vector<std::vector<int32_t>> kept_;  // [layer][KV head]
    std::vector<StateRecords> records_;
};

inline PrefixLayout layout_of(const TinyModel& tiny, int64_t heads_per_key = 1,
                              bool is_shared = false) {
    const MemoryShape s = const_cast<TinyModel&>(tiny).shape();
    return {.n_head = s.n_head,
            .n_head_kv = s.n_head_kv,
            .d_head = s.d_head,
            .heads_per_key = heads_per_key,
            .is_shared = is_shared};
}

inline Session using_prefix(TinyModel& tiny, const PrefixUse& use, const EvictionOptions& e = {},
                            int64_t n_chunk = 512) {
    return tiny.session(make_memory("kv", tiny.backend(), tiny.shape(),
                                    {.n_ctx = 190,
                                     .entries = GGML_TYPE_F32,
                                     .eviction = e,
                                     .supplies = {.n_chunk = n_chunk},
                                     .prefix = use}),
                        n_chunk);
}

inline std::vector<float> full_logits(TinyModel& tiny, const std::vector<TokenId>& trace) {
    Session full = tiny.session();
    return last(all_logits(full, joined(tiny_tokens(kPrefix), trace)), trace.size());
}

}  // namespace palimpsest::testing
