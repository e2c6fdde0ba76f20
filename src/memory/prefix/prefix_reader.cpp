// Lookup and merge at inference (Okoshi et al., 2026, arXiv:2605.18226, section 3.5, Eq. 6 and 7).
//
// Two nodes a document and layer. The first finds, for every query, the entry with the highest
// cosine; while decoding its work is divided over parts of the dictionary (over rows, if they open
// lists), otherwise over positions. The second joins that entry's state to attention over the
// sequence's own entries. The gate, ours (cf. MAC-Attention, arXiv:2604.00235): a query whose best
// entry is less like it than held-out traces were to theirs reads the exact prefix instead, if the
// file has it.

#include "memory/prefix/prefix_reader.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "memory/kernels/attention_state.h"

namespace palimpsest {

namespace {

constexpr int64_t kFewPositions = 4;  // up to here the dictionary is divided, not the positions
constexpr int64_t kMostParts = 8;     // of a dictionary
constexpr int64_t kPositionsAtOnce = 16;

int64_t parts_for(int64_t n) { return n <= kFewPositions ? kMostParts : 1; }

/// One row's query, block after block.
void gather(const PrefixLayout& layout, const ggml_tensor* q, int64_t codebook, int64_t row,
            int64_t i, float* to) {
    for (int64_t b = 0; b < layout.blocks(); ++b) {
        std::copy_n(head_row(q, layout.head(codebook, row, b), i), layout.d_head,
                    to + b * layout.d_head);
    }
}

}  // namespace

int64_t PrefixUse::n_positions() const {
    int64_t n = 0;
    for (const auto& d : documents) n = std::max(n, d->n_positions());
    return n;
}

void check_prefixes(const PrefixUse& use, const MemoryShape& shape) {
    require(std::ssize(use.documents) <= kMostPrefixes, use.documents.size(),
            " prefix memories; at most ", kMostPrefixes, " can be used together");
    for (const auto& d : use.documents) {
        const PrefixLayout& at = d->header().layout;
        const bool fits = d->header().n_layer == shape.n_layer && at.n_head == shape.n_head &&
                          at.n_head_kv == shape.n_head_kv && at.d_head == shape.d_head;
        require(fits, "the prefix memory '", d->header().name, "' is for a model of ",
                d->header().n_layer, " layers with ", at.n_head, " heads of ", at.d_head,
                "; this one has ", shape.n_layer, " with ", shape.n_head, " of ", shape.d_head);
        for (int64_t l = 0; l < shape.n_layer; ++l) {
            const bool keeps = d->keeps_entries() && shape.window(l) == 0;
            require(
                d->keeps_entries(l) == keeps, "the prefix memory '", d->header().name, "' keeps ",
                keeps ? "no entries in layer " : "entries in layer ", l,
                keeps ? ", and some in others" : ", which has a sliding window and can have none");
        }
    }
}

/// What a document keeps of its prefix; nothing is stored.
class PrefixReader::KeptEntries final : public EntrySource {
 public:
    explicit KeptEntries(const PrefixDocument& document) : document_(document) {}
    void store(int64_t /*layer*/, int64_t /*head*/, int64_t /*i*/, const float* /*k*/,
               const float* /*v*/) noexcept override {}
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override {
        return document_.kept(layer, head);
    }
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head,
                                    int64_t /*i*/) const noexcept override {
        return {0, document_.n_kept(layer, head)};
    }

    /// Of one head.
    [[nodiscard]] int64_t most() const {
        int64_t most = 0;
        for (int64_t l = 0; l < document_.header().n_layer; ++l) {
            for (int64_t h = 0; h < document_.header().layout.n_head_kv; ++h) {
                most = std::max(most, document_.n_kept(l, h));
            }
        }
        return most;
    }

 private:
    const PrefixDocument& document_;
};

PrefixReader::~PrefixReader() = default;

PrefixReader::PrefixReader(const PrefixUse& use, const MemoryShape& shape, int n_threads)
    : use_(use),
      n_positions_(use.n_positions()),
      shape_(shape),
      shares_(static_cast<size_t>(n_threads)) {
    check_prefixes(use, shape);
    int64_t longest = 0;  // queries of the positions that are matched at once
    for (const auto& d : use.documents) {
        const PrefixLayout& at = d->header().layout;
        longest = std::max(longest, kPositionsAtOnce * at.rows() * at.width());
        Kept& kept = kept_.emplace_back();
        if (!d->keeps_entries()) continue;
        kept.entries = std::make_unique<KeptEntries>(*d);
        kept.most = kept.entries->most();
        kept.scratch = std::make_unique<AttentionScratch>(shape, n_threads);
        kept.scratch->note_lse();
    }
    for (Share& s : shares_) {
        s.queries.resize(static_cast<size_t>(longest));
        s.kernel.resize(attention_scratch_floats(shape.d_head, shape.group()) + 16);
        s.state.resize(static_cast<size_t>(shape.d_head));
    }
}

void PrefixReader::begin(const Step& step) {
    step_ = step;
    weights_.resize(static_cast<size_t>(step.n * shape_.n_head));
    for (Kept& kept : kept_) {
        if (kept.scratch) kept.scratch->prepare(step.n, kept.most);
    }
}

bool PrefixReader::reaches(const PrefixDocument& document, int64_t layer, int64_t i) const {
    const int64_t window = shape_.window(layer);
    const int64_t position = step_.first_pos + i - shift(document);
    return window == 0 || position - window + 1 < document.n_positions();
}

/// dst [d_head, n_head, n]: rotated queries, turned back by a number of positions.
class PrefixReader::TurnOp final : public CustomOp {
 public:
    TurnOp(const Rotation& rotation, int64_t by) : rotation_(rotation), by_(by) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const int64_t d = dst->ne[0];
        const int64_t n = dst->ne[1] * dst->ne[2];
        Turner turner(rotation_);
        for (int64_t w = n * thread / n_threads; w < n * (thread + 1) / n_threads; ++w) {
            float* to = static_cast<float*>(dst->data) + w * d;
            std::copy_n(head_row(dst->src[0], w % dst->ne[1], w / dst->ne[1]), d, to);
            turner.turn(to, -by_);
        }
    }

 private:
    const Rotation& rotation_;
    int64_t by_;
};

/// dst [2, parts, rows * codebooks, n]: score and index of the best entry in every part.
class PrefixReader::MatchOp final : public CustomOp {
 public:
    MatchOp(PrefixReader& of, const PrefixDocument& document, int64_t layer)
        : of_(of), document_(document), layer_(layer) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* q = dst->src[0];
        const PrefixLayout& at = document_.header().layout;
        const int64_t n = dst->ne[3];
        const int64_t n_parts = dst->ne[1];
        const int64_t blocks = (n + kPositionsAtOnce - 1) / kPositionsAtOnce;
        std::vector<float>& queries = of_.shares_[static_cast<size_t>(thread)].queries;
        const int64_t n_work = at.n_codebooks() * n_parts * blocks;
        for (int64_t w = thread; w < n_work; w += n_threads) {
            const int64_t first = w / n_parts % blocks * kPositionsAtOnce;
            // With a window later positions reach no further back than earlier ones.
            if (!of_.reaches(document_, layer_, first)) continue;
            const int64_t last = std::min(n, first + kPositionsAtOnce);
            match(dst, q, {w / n_parts / blocks, w % n_parts}, first, last, queries.data());
        }
    }

 private:
    struct Part {
        int64_t codebook, part;
    };

    void match(ggml_tensor* dst, const ggml_tensor* q, Part of, int64_t first, int64_t last,
               float* queries) const {
        const PrefixLayout& at = document_.header().layout;
        const int64_t rows = at.rows();
        for (int64_t i = first; i < last; ++i) {
            for (int64_t r = 0; r < rows; ++r) {
                gather(at, q, of.codebook, r, i, queries + ((i - first) * rows + r) * at.width());
            }
        }
        std::vector<Match> best(static_cast<size_t>((last - first) * rows));
        const MatchKeys keys = document_.keys(layer_, of.codebook);
        const KeyLists lists = document_.lists(layer_, of.codebook);
        const int64_t n_parts = dst->ne[1];
        if (lists.is_empty()) {
            best_matches(keys, queries, at.width(), keys.n_tiles() * of.part / n_parts,
                         keys.n_tiles() * (of.part + 1) / n_parts, best);
        } else {
            // What other parts look up stays without a match here.
            const int64_t n = std::ssize(best);
            const int64_t begin = n * of.part / n_parts;
            const int64_t end = n * (of.part + 1) / n_parts;
            best_in_lists(keys, lists, queries + begin * at.width(), at.width(), kListsOpened,
                          std::span(best).subspan(static_cast<size_t>(begin),
                                                  static_cast<size_t>(end - begin)));
        }
        for (size_t b = 0; b < best.size(); ++b) {
            const int64_t i = first + static_cast<int64_t>(b) / rows;
            const int64_t row = of.codebook * rows + static_cast<int64_t>(b) % rows;
            float* to =
                static_cast<float*>(dst->data) + ((i * dst->ne[2] + row) * n_parts + of.part) * 2;
            to[0] = best[b].score;
            to[1] = static_cast<float>(best[b].index);
        }
    }

    PrefixReader& of_;
    const PrefixDocument& document_;
    int64_t layer_;
};

/// dst [d_head * n_head, n]; sources: attention so far, what was matched, keys' queries, rotated
/// queries as the document's entries are asked, and attention over kept entries, if the layer has
/// any.
class PrefixReader::JoinOp final : public CustomOp {
 public:
    JoinOp(PrefixReader& of, size_t document, AttentionScratch& scratch, const AttentionInputs& in)
        : of_(of),
          document_(*of.use_.documents[document]),
          kept_(of.kept_[document]),
          scratch_(scratch),
          layer_(in.layer),
          scale_(in.scale),
          is_first_(document == 0),
          is_last_(document + 1 == of.use_.documents.size()) {
        const auto n = static_cast<float>(of.use_.documents.size());
        shared_ = std::log(n);
    }

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const PrefixLayout& at = document_.header().layout;
        const int64_t rows = at.n_codebooks() * at.rows();
        const int64_t n_work = dst->ne[1] * rows;
        Share& share = of_.shares_[static_cast<size_t>(thread)];
        for (int64_t w = n_work * thread / n_threads; w < n_work * (thread + 1) / n_threads; ++w) {
            join_row(dst, w / rows, w % rows, share);
        }
    }

 private:
    [[nodiscard]] static Match best_of(const ggml_tensor* matched, int64_t i, int64_t row) {
        const float* from = static_cast<const float*>(matched->data) +
                            (i * matched->ne[2] + row) * matched->ne[1] * 2;
        Match best;
        for (int64_t p = 0; p < matched->ne[1]; ++p) {
            if (from[2 * p] > best.score) {
                best = {.index = static_cast<int64_t>(from[2 * p + 1]), .score = from[2 * p]};
            }
        }
        return best;
    }

    void join_row(ggml_tensor* dst, int64_t i, int64_t row, Share& share) const {
        const PrefixLayout& at = document_.header().layout;
        const int64_t codebook = row / at.rows();
        const bool reaches = of_.reaches(document_, layer_, i);
        const Match best = best_of(dst->src[1], i, row);
        bool is_exact = false;
        if (reaches) {
            gather(at, dst->src[2], codebook, row % at.rows(), i, share.queries.data());
            const float similarity = document_.similarity(
                layer_, codebook, std::span(share.queries).first(static_cast<size_t>(at.width())),
                best.score);
            is_exact = note(codebook, best.index < 0 ? -1 : similarity, share);
        }
        for (int64_t b = 0; b < at.blocks(); ++b) {
            const int64_t h = at.head(codebook, row % at.rows(), b);
            const auto* from =
                reinterpret_cast<const float*>(static_cast<const char*>(dst->src[0]->data) +
                                               static_cast<size_t>(i) * dst->src[0]->nb[1]);
            float* out = static_cast<float*>(dst->data) + (i * at.n_head + h) * at.d_head;
            std::copy_n(from + h * at.d_head, at.d_head, out);
            float& given = of_.weights_[static_cast<size_t>(i * at.n_head + h)];
            if (is_first_) given = -1;
            if (reaches) given = std::max(given, 0.0F);
            if (reaches && (best.index >= 0 || is_exact)) {
                float lse = is_exact
                                ? exact(dst->src[3], h, i, share)
                                : document_.state(layer_, codebook, best.index, b, share.state);
                if (!is_exact && dst->src[4] != nullptr) {
                    lse = with_kept(dst->src[4], h, i, lse, share);
                }
                join_head({out, static_cast<size_t>(at.d_head)}, *scratch_.lse(h, i), lse,
                          share.state, given);
            }
            if (is_last_ && given >= 0) {
                share.weight += double{given};
                ++share.n_weighed;
            }
        }
    }

    /// Joins a state to a head's output, and its weight to that of the documents before.
    void join_head(std::span<float> out, float& own, float lse, std::span<const float> state,
                   float& given) const {
        if (lse < kNothing) return;
        const float weight = weight_of_state(lse - shared_, own);
        given += weight * (1 - given);
        own = join_state(out, own, state, lse - shared_);
    }

    /// Joins what is kept into the state that was found.
    float with_kept(const ggml_tensor* attended, int64_t head, int64_t i, float lse,
                    Share& share) const {
        const auto* column = reinterpret_cast<const float*>(
            static_cast<const char*>(attended->data) + static_cast<size_t>(i) * attended->nb[1]);
        const auto d = static_cast<size_t>(document_.header().layout.d_head);
        return join_state(share.state, lse, {column + static_cast<size_t>(head) * d, d},
                          *kept_.scratch->lse(head, i));
    }

    /// Counts a lookup. Does it read the exact prefix?
    bool note(int64_t codebook, float similarity, Share& share) const {
        MemoryReport::Prefix& seen = share.seen;
        ++seen.lookups;
        share.similarity += double{similarity};
        const auto n = static_cast<float>(seen.similarity.size());
        const auto bin = static_cast<size_t>(std::clamp(similarity * n, 0.0F, n - 1));
        ++seen.similarity.at(bin);
        if (similarity >= document_.floor(layer_, codebook)) return false;
        ++seen.below_floor;
        if (!of_.use_.has_gate || !document_.has_exact()) return false;
        ++seen.exact;
        return true;
    }

    float exact(const ggml_tensor* q, int64_t head, int64_t i, Share& share) const {
        const int64_t window = of_.shape_.window(layer_);
        const int64_t position = of_.step_.first_pos + i - of_.shift(document_);
        float lse = 0;
        const QueryRow row = {.q = head_row(q, head, i),
                              .out = share.state.data(),
                              .lse = &lse,
                              .begin = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0,
                              .end = document_.n_positions()};
        const auto address = reinterpret_cast<uintptr_t>(share.kernel.data());
        float* kernel = share.kernel.data() + (64 - address % 64) % 64 / sizeof(float);
        attend_rows(document_.exact(layer_, head / of_.shape_.group()), std::span(&row, 1), scale_,
                    kernel);
        return lse;
    }

    static constexpr float kNothing = -1e30F;  // kernels say "nothing was seen" by less than this

    PrefixReader& of_;
    const PrefixDocument& document_;
    const Kept& kept_;
    AttentionScratch& scratch_;
    int64_t layer_;
    float scale_, shared_;
    bool is_first_, is_last_;  // of the documents
};

Tensor PrefixReader::join(Graph& g, const AttentionInputs& in, Tensor attended,
                          AttentionScratch& scratch) {
    for (size_t which = 0; which < use_.documents.size(); ++which) {
        const auto& document = use_.documents[which];
        const PrefixLayout& at = document->header().layout;
        const bool is_pre = document->header().keys == PrefixKeys::kPre;
        AttentionInputs asking = in;
        if (const int64_t by = shift(*document); by > 0) {
            const std::array<Tensor, 1> queries = {in.q};
            asking.q = g.custom({in.q->ne[0], in.q->ne[1], in.q->ne[2], 1}, queries,
                                std::make_unique<TurnOp>(shape_.rotation_of(in.layer), by));
        }
        Tensor keys = is_pre ? in.q_raw : asking.q;
        const int64_t n = in.q->ne[2];
        const std::array<Tensor, 1> asked = {keys};
        Tensor matched = g.custom({2, parts_for(n), at.n_codebooks() * at.rows(), n}, asked,
                                  std::make_unique<MatchOp>(*this, *document, in.layer));
        std::vector<Tensor> sources = {attended, matched, keys, asking.q};
        const Kept& kept = kept_[which];
        if (document->keeps_entries(in.layer)) {
            sources.push_back(
                g.keep(fused_attention(g, shape_, asking, *kept.entries, *kept.scratch)));
        }
        attended = g.custom({attended->ne[0], attended->ne[1], 1, 1}, sources,
                            std::make_unique<JoinOp>(*this, which, scratch, in));
    }
    return attended;
}

MemoryReport::Prefix PrefixReader::report() const {
    MemoryReport::Prefix all;
    double weight = 0;
    double similarity = 0;
    int64_t n_weighed = 0;
    for (const Share& s : shares_) {
        all.lookups += s.seen.lookups;
        all.below_floor += s.seen.below_floor;
        all.exact += s.seen.exact;
        for (size_t i = 0; i < all.similarity.size(); ++i) {
            all.similarity.at(i) += s.seen.similarity.at(i);
        }
        weight += s.weight;
        n_weighed += s.n_weighed;
        similarity += s.similarity;
    }
    all.mean_weight = weight / static_cast<double>(std::max<int64_t>(1, n_weighed));
    all.mean_similarity = similarity / static_cast<double>(std::max<int64_t>(1, all.lookups));
    for (const auto& d : use_.documents) {
        all.names.push_back(d->header().name);
        all.n_positions += d->n_tokens();
        all.held_bytes += d->held_bytes();
        all.moved_bytes += d->moved_bytes();
        all.exact_bytes += d->exact_bytes();
    }
    return all;
}

void PrefixReader::reset() {
    for (Share& s : shares_) {
        s.seen = {};
        s.weight = 0;
        s.n_weighed = 0;
        s.similarity = 0;
    }
}

size_t PrefixReader::bytes() const {
    size_t n = weights_.size() * sizeof(float);
    for (const Share& s : shares_) {
        n += (s.queries.size() + s.state.size() + s.kernel.size()) * sizeof(float);
    }
    for (const Kept& k : kept_) n += k.scratch ? k.scratch->bytes() : 0;
    return n;
}

}  // namespace palimpsest
