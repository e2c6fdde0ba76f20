#include "train/objective_indexer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

Looking looking_of(const LayerRecord& record, IndexerForm form, int64_t n_sink) {
    const bool labelled =
        form == IndexerForm::kLabelled && record.n_prompt > n_sink && record.n_prompt < record.n;
    return {.first_query = labelled ? record.n_prompt : 0,
            .end_query = record.n,
            .first_key = n_sink,
            .end_key = labelled ? record.n_prompt : record.n};
}

/// Raises `pooled` by attention, mean over heads, of each query.
void pool_weights(const LayerRecord& record, const Looking& at, std::vector<double>& pooled) {
    std::vector<float> one(static_cast<size_t>(record.n));
    std::vector<float> all(one.size());
    const auto share = 1.0F / static_cast<float>(record.shape.n_head);
    for (int64_t s = at.first_query; s < at.end_query; ++s) {
        std::ranges::fill(all, 0.0F);
        for (int64_t h = 0; h < record.shape.n_head; ++h) {
            attention_weights(record, s, h, one);
            add_scaled(all.data(), share, one.data(), s + 1);
        }
        for (int64_t t = at.first_key; t < std::min(at.end_key, s + 1); ++t) {
            double& to = pooled[static_cast<size_t>(t - at.first_key)];
            to = std::max(to, static_cast<double>(all[static_cast<size_t>(t)]));
        }
    }
}

/// Raises `pooled` by the logits of each query and head.
void pool_logits(const LayerRecord& record, const Looking& at, std::vector<double>& pooled) {
    std::vector<float> logits(static_cast<size_t>(record.n));
    for (int64_t s = at.first_query; s < at.end_query; ++s) {
        for (int64_t h = 0; h < record.shape.n_head; ++h) {
            attention_logits(record, s, h, logits);
            for (int64_t t = at.first_key; t < std::min(at.end_key, s + 1); ++t) {
                double& to = pooled[static_cast<size_t>(t - at.first_key)];
                to = std::max(to, static_cast<double>(logits[static_cast<size_t>(t)]));
            }
        }
    }
}

void make_softmax(std::vector<double>& x) {
    const double largest = *std::ranges::max_element(x);
    for (double& y : x) y = std::exp(y - largest);
}

/// log softmax of what the indexer finds.
std::vector<double> log_spread(const std::vector<float>& importance) {
    const auto largest = static_cast<double>(*std::ranges::max_element(importance));
    double sum = 0;
    for (const float x : importance) sum += std::exp(static_cast<double>(x) - largest);
    const double base = largest + std::log(sum);
    std::vector<double> logs;
    logs.reserve(importance.size());
    for (const float x : importance) logs.push_back(static_cast<double>(x) - base);
    return logs;
}

double divergence(const IndexerTarget& target, const std::vector<double>& logs) {
    double sum = 0;
    for (size_t i = 0; i < logs.size(); ++i) {
        const auto p = static_cast<double>(target.share[i]);
        if (p > 0) sum += p * (std::log(p) - logs[i]);
    }
    return sum / target.divisor;
}

std::vector<float> shares_of(const std::vector<double>& pooled) {
    const double sum = std::accumulate(pooled.begin(), pooled.end(), 0.0);
    require(sum > 0 && std::isfinite(sum), "attention of a document is not finite or all zero");
    std::vector<float> shares;
    shares.reserve(pooled.size());
    for (const double x : pooled) shares.push_back(static_cast<float>(x / sum));
    return shares;
}

}  // namespace

IndexerTarget indexer_target(const LayerRecord& record, IndexerForm form, int64_t n_sink) {
    record.check();
    require(n_sink >= 0 && record.n > n_sink, "a document of ", record.n,
            " tokens has nothing to teach after ", n_sink, " sinks");
    IndexerTarget target;
    target.at = looking_of(record, form, n_sink);
    const bool by_logits = form == IndexerForm::kLogitMax;
    const double least = by_logits ? -std::numeric_limits<double>::infinity() : 0.0;
    std::vector<double> pooled(static_cast<size_t>(target.at.n_keys()), least);
    if (by_logits) {
        pool_logits(record, target.at, pooled);
        make_softmax(pooled);
    } else {
        pool_weights(record, target.at, pooled);
        target.divisor = static_cast<double>(pooled.size());
    }
    target.share = shares_of(pooled);
    return target;
}

IndexerTarget repetition_target(std::span<const float> scores, int64_t n_head_kv, int64_t n_sink) {
    const int64_t n = std::ssize(scores) / n_head_kv;
    require(n_sink >= 0 && n > n_sink, "a document of ", n, " tokens has nothing to teach after ",
            n_sink, " sinks");
    IndexerTarget target;
    target.at = {.first_query = 0, .end_query = n, .first_key = n_sink, .end_key = n};
    std::vector<double> pooled;
    for (int64_t t = n_sink; t < n; ++t) {
        const auto of =
            scores.subspan(static_cast<size_t>(t * n_head_kv), static_cast<size_t>(n_head_kv));
        pooled.push_back(std::sqrt(static_cast<double>(*std::ranges::max_element(of))));
    }
    target.share = shares_of(pooled);
    return target;
}

double indexer_loss(const IndexerNet& net, const IndexerTarget& target, float weight,
                    const IndexerParts<float>& gradient) {
    const Importance found = net.importance(target.at);
    const std::vector<double> logs = log_spread(found.largest);
    std::vector<float> upstream;
    upstream.reserve(logs.size());
    for (size_t i = 0; i < logs.size(); ++i) {
        const double surplus = std::exp(logs[i]) - static_cast<double>(target.share[i]);
        upstream.push_back(
            static_cast<float>(static_cast<double>(weight) * surplus / target.divisor));
    }
    net.backward(target.at, found, upstream, gradient);
    return divergence(target, logs);
}

double indexer_loss(const IndexerNet& net, const IndexerTarget& target) {
    return divergence(target, log_spread(net.importance(target.at).largest));
}

}  // namespace palimpsest
