// Attention states of a prefix, averaged over queries that are alike.
//
// Okoshi et al., "Context Memorization for Efficient Long Context Generation", 2026,
// arXiv:2605.18226, sections 3.3 to 3.5. The paper does not say which k-means; ours is Lloyd's, on
// all records or evenly thinned ones, and then exact means over all records.

#include "memory/prefix/codebook.h"

#include <cmath>

#include "core/error.h"
#include "memory/kernels/attention_state.h"
#include "memory/kernels/k_means.h"

namespace palimpsest {

StateMoments::StateMoments(int64_t n_cluster, int64_t n_block, int64_t d_head)
    : n_block_(n_block),
      d_head_(d_head),
      count_(at(n_cluster)),
      squares_(at(n_cluster)),
      keys_(at(n_cluster * n_block * d_head)),
      peak_(at(n_cluster * n_block), kEmptyState),
      weight_(at(n_cluster * n_block)),
      outputs_(at(n_cluster * n_block * d_head)),
      plain_(at(n_cluster * n_block * d_head)),
      plain_lse_(at(n_cluster * n_block)) {}

void StateMoments::add(int64_t cluster, std::span<const float> key, std::span<const float> output,
                       std::span<const float> lse) {
    const size_t first = at(cluster * n_block_ * d_head_);
    ++count_[at(cluster)];
    for (size_t c = 0; c < key.size(); ++c) {
        keys_[first + c] += double{key[c]};
        plain_[first + c] += double{output[c]};
        squares_[at(cluster)] += double{key[c]} * double{key[c]};
    }
    const size_t d = at(d_head_);
    for (size_t b = 0; b < at(n_block_); ++b) {
        const size_t block = at(cluster * n_block_) + b;
        plain_lse_[block] += double{lse[b]};
        if (lse[b] == kEmptyState) continue;
        if (lse[b] > peak_[block]) {
            const double shrink = std::exp(double{peak_[block]} - double{lse[b]});
            weight_[block] *= shrink;
            for (size_t c = 0; c < d; ++c) outputs_[first + b * d + c] *= shrink;
            peak_[block] = lse[b];
        }
        const double w = std::exp(double{lse[b]} - double{peak_[block]});
        weight_[block] += w;
        for (size_t c = 0; c < d; ++c) {
            outputs_[first + b * d + c] += w * double{output[b * d + c]};
        }
    }
}

void StateMoments::finish(int64_t cluster, Aggregation how, std::span<float> key,
                          std::span<float> output, std::span<float> lse) const {
    const auto n = static_cast<double>(count(cluster));
    check(n > 0, "an empty cluster has no mean");
    const size_t first = at(cluster * n_block_ * d_head_);
    for (size_t c = 0; c < key.size(); ++c) key[c] = static_cast<float>(keys_[first + c] / n);
    const size_t d = at(d_head_);
    for (size_t b = 0; b < at(n_block_); ++b) {
        const size_t block = at(cluster * n_block_) + b;
        const bool is_plain = how == Aggregation::kPlain;
        const bool is_empty = weight_[block] <= 0;
        for (size_t c = 0; c < d; ++c) {
            const double mean = is_plain   ? plain_[first + b * d + c] / n
                                : is_empty ? 0.0
                                           : outputs_[first + b * d + c] / weight_[block];
            output[b * d + c] = static_cast<float>(mean);
        }
        if (is_empty) {
            lse[b] = kEmptyState;
        } else {
            // Divided by the number of records: an entry weighs as one query's prefix.
            lse[b] =
                static_cast<float>(is_plain ? plain_lse_[block] / n
                                            : double{peak_[block]} + std::log(weight_[block] / n));
        }
    }
}

float StateMoments::radius(int64_t cluster) const {
    const auto n = static_cast<double>(count(cluster));
    const size_t width = at(n_block_ * d_head_);
    double mean = 0;
    for (size_t c = 0; c < width; ++c) {
        const double m = keys_[at(cluster) * width + c] / n;
        mean += m * m;
    }
    return static_cast<float>(std::sqrt(std::max(0.0, squares_[at(cluster)] / n - mean)));
}

namespace {

std::span<const float> row(const std::vector<float>& of, int64_t i, int64_t width) {
    return std::span(of).subspan(static_cast<size_t>(i * width), static_cast<size_t>(width));
}

std::span<float> row(std::vector<float>& of, int64_t i, int64_t width) {
    return std::span(of).subspan(static_cast<size_t>(i * width), static_cast<size_t>(width));
}

/// out = whitening of every block of x.
void whiten(const std::vector<Whitening>& by, std::span<const float> x, std::span<float> out) {
    for (size_t b = 0; b < by.size(); ++b) {
        const auto d = static_cast<size_t>(by[b].d);
        multiply(by[b].root, x.subspan(b * d, d), out.subspan(b * d, d));
    }
}

float length(std::span<const float> x) {
    double sum = 0;
    for (const float v : x) sum += double{v} * double{v};
    return static_cast<float>(std::sqrt(sum));
}

Codebook finished(const StateMoments& moments, int64_t n_cluster, const StateRecords& records,
                  Aggregation how) {
    Codebook book = {.n_block = records.n_block, .d_head = records.d_head};
    for (int64_t j = 0; j < n_cluster; ++j) {
        if (moments.count(j) == 0) continue;
        const int64_t i = book.size();
        book.count.push_back(static_cast<int32_t>(moments.count(j)));
        book.radius.push_back(moments.radius(j));
        book.queries.resize(static_cast<size_t>((i + 1) * book.width()));
        book.outputs.resize(book.queries.size());
        book.lse.resize(static_cast<size_t>((i + 1) * book.n_block));
        moments.finish(j, how, row(book.queries, i, book.width()),
                       row(book.outputs, i, book.width()), row(book.lse, i, book.n_block));
    }
    return book;
}

}  // namespace

std::vector<float> Codebook::directions() const {
    std::vector<float> all = queries;
    for (int64_t i = 0; i < size(); ++i) {
        const std::span<float> direction = row(all, i, width());
        whiten(whitening, row(queries, i, width()), direction);
        const float by = length(direction);
        for (float& x : direction) x = by > 0 ? x / by : 0;
    }
    return all;
}

std::vector<float> Codebook::keys_towards(std::vector<float> directions) const {
    // (W q) . u = q . (W u), for W is symmetric.
    const std::vector<float> turned = directions;
    for (int64_t i = 0; i * width() < std::ssize(turned); ++i) {
        whiten(whitening, row(turned, i, width()), row(directions, i, width()));
    }
    return directions;
}

std::vector<float> Codebook::lookup_keys() const { return keys_towards(directions()); }

Codebook build_codebook(const Backend& backend, const StateRecords& records,
                        const CodebookOptions& options) {
    check(records.size() > 0, "records to cluster");
    const int64_t width = records.width();
    std::vector<Whitening> whitening;
    std::vector<float> whitened;
    if (options.whiten) {
        for (int64_t b = 0; b < records.n_block; ++b) {
            whitening.push_back(
                whitening_of(records.keys, width, b * records.d_head, records.d_head));
        }
        whitened.resize(records.keys.size());
        for (int64_t i = 0; i < records.size(); ++i) {
            whiten(whitening, row(records.keys, i, width), row(whitened, i, width));
        }
    }
    const Clustering clusters = k_means(backend, options.whiten ? whitened : records.keys, width,
                                        {.k = options.k,
                                         .seed = options.seed,
                                         .max_rounds = options.max_rounds,
                                         .most_points = options.most_points});
    const int64_t n_cluster = std::ssize(clusters.centroids) / width;
    StateMoments moments(n_cluster, records.n_block, records.d_head);
    for (int64_t i = 0; i < records.size(); ++i) {
        moments.add(clusters.nearest[static_cast<size_t>(i)], row(records.keys, i, width),
                    row(records.outputs, i, width), row(records.lse, i, records.n_block));
    }
    Codebook book = finished(moments, n_cluster, records, options.aggregation);
    book.whitening = std::move(whitening);
    return book;
}

Codebook unclustered(const StateRecords& records) {
    return {.n_block = records.n_block,
            .d_head = records.d_head,
            .queries = records.keys,
            .outputs = records.outputs,
            .lse = records.lse,
            .count = std::vector<int32_t>(static_cast<size_t>(records.size()), 1),
            .radius = std::vector<float>(static_cast<size_t>(records.size())),
            .whitening = {}};
}

}  // namespace palimpsest
