#include "train/indexer/objective_indexer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "train/example.h"
#include "train/gate/objective_gate.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

Looking looking_of(const LayerRecord& record, IndexerForm form, const IndexerLesson& lesson) {
    const bool labelled = form == IndexerForm::kLabelled && record.n_prompt > lesson.n_sink &&
                          record.n_prompt < record.n;
    return {.first_query = labelled ? record.n_prompt : 0,
            .end_query = record.n,
            .first_key = lesson.n_sink,
            .end_key = (labelled ? record.n_prompt : record.n) - lesson.n_recent};
}

void check_leaves_keys(const IndexerLesson& lesson, int64_t n) {
    require(lesson.n_sink >= 0 && lesson.n_recent >= 0 && n > lesson.n_sink + lesson.n_recent,
            "a document of ", n, " tokens has nothing to teach after ", lesson.n_sink,
            " sinks and before ", lesson.n_recent, " last ones");
}

/// Query heads [first, first + n) of a group.
struct HeadRange {
    int64_t first = 0, n = 0;
};

/// Raises `pooled` by attention, mean over heads, of each query.
void pool_weights(const LayerRecord& record, HeadRange heads, const Looking& at,
                  std::span<double> pooled) {
    std::vector<float> one(static_cast<size_t>(record.n));
    std::vector<float> all(one.size());
    const auto share = 1.0F / static_cast<float>(heads.n);
    for (int64_t s = at.first_query; s < at.end_query; ++s) {
        std::ranges::fill(all, 0.0F);
        for (int64_t h = heads.first; h < heads.first + heads.n; ++h) {
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
void pool_logits(const LayerRecord& record, HeadRange heads, const Looking& at,
                 std::span<double> pooled) {
    std::vector<float> logits(static_cast<size_t>(record.n));
    for (int64_t s = at.first_query; s < at.end_query; ++s) {
        for (int64_t h = heads.first; h < heads.first + heads.n; ++h) {
            attention_logits(record, s, h, logits);
            for (int64_t t = at.first_key; t < std::min(at.end_key, s + 1); ++t) {
                double& to = pooled[static_cast<size_t>(t - at.first_key)];
                to = std::max(to, static_cast<double>(logits[static_cast<size_t>(t)]));
            }
        }
    }
}

void make_softmax(std::span<double> x) {
    const double largest = *std::ranges::max_element(x);
    for (double& y : x) y = std::exp(y - largest);
}

/// A loss of one group's importance, and its slope in each number of it.
struct GroupLoss {
    double loss = 0;
    std::vector<double> slope;
};

GroupLoss divergence(std::span<const float> importance, std::span<const float> share,
                     double divisor) {
    const auto largest = static_cast<double>(*std::ranges::max_element(importance));
    double sum = 0;
    for (const float x : importance) sum += std::exp(static_cast<double>(x) - largest);
    const double base = largest + std::log(sum);
    GroupLoss of;
    for (size_t i = 0; i < importance.size(); ++i) {
        const double log = static_cast<double>(importance[i]) - base;
        const auto p = static_cast<double>(share[i]);
        if (p > 0) of.loss += p * (std::log(p) - log);
        of.slope.push_back((std::exp(log) - p) / divisor);
    }
    of.loss /= divisor;
    return of;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// The b of which sigmoid(x - b) sums to `n_kept`, which is less than there are; by halving.
double cut_of(std::span<const float> x, double n_kept) {
    constexpr int kHalvings = 60;
    constexpr double kBeyond = 40;  // where a sigmoid is 0 or 1
    const auto [least, most] = std::ranges::minmax_element(x);
    double low = static_cast<double>(*least) - kBeyond;
    double high = static_cast<double>(*most) + kBeyond;
    for (int i = 0; i < kHalvings; ++i) {
        const double b = (low + high) / 2;
        double sum = 0;
        for (const float y : x) sum += sigmoid(static_cast<double>(y) - b);
        (sum > n_kept ? low : high) = b;
    }
    return (low + high) / 2;
}

/// Places of `share` from the largest down; of equals the earlier first.
std::vector<size_t> by_share(std::span<const float> share) {
    std::vector<size_t> order(share.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return share[a] > share[b]; });
    return order;
}

GroupLoss loss_of_cuts(std::span<const float> importance, std::span<const float> share) {
    const std::vector<size_t> order = by_share(share);
    const auto n = static_cast<double>(share.size());
    GroupLoss of = {.loss = 0, .slope = std::vector<double>(share.size())};
    for (const double c : kCutShares) {
        const double n_kept = std::max(1.0, std::round(c * n));
        if (n_kept >= n) continue;
        const double b = cut_of(importance, n_kept);
        for (size_t i = 0; i < order.size(); ++i) {
            const double x = static_cast<double>(importance[order[i]]) - b;
            const double stays = static_cast<double>(i) < n_kept ? 1 : 0;
            of.loss += (std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))) - stays * x) / n;
            of.slope[order[i]] += (sigmoid(x) - stays) / n;
        }
    }
    return of;
}

GroupLoss loss_of_logs(std::span<const float> importance, std::span<const float> logs,
                       std::span<const float> cuts) {
    const auto n = static_cast<double>(importance.size());
    GroupLoss of;
    for (size_t i = 0; i < importance.size(); ++i) {
        const GateLoss one = gate_loss(importance[i], logs[i], cuts);
        of.loss += static_cast<double>(one.loss) / n;
        of.slope.push_back(static_cast<double>(one.slope) / n);
    }
    return of;
}

/// Of all groups, their mean; slopes group after group.
GroupLoss loss_of(const Importance& found, const IndexerTarget& target, IndexerLoss kind) {
    const auto n_key = static_cast<size_t>(target.at.n_keys());
    const auto n_group = static_cast<double>(target.n_group);
    GroupLoss all;
    for (size_t first = 0; first < target.share.size(); first += n_key) {
        const auto importance = std::span(found.largest).subspan(first, n_key);
        const auto share = std::span(target.share).subspan(first, n_key);
        GroupLoss of;
        switch (kind) {
            case IndexerLoss::kDivergence:
                of = divergence(importance, share, target.divisor);
                break;
            case IndexerLoss::kCuts:
                of = loss_of_cuts(importance, share);
                break;
            case IndexerLoss::kLogs:
                require(!target.logs.empty(), "logarithms are learnt from a repetition only");
                of = loss_of_logs(importance, std::span(target.logs).subspan(first, n_key),
                                  target.cuts);
                break;
        }
        all.loss += of.loss / n_group;
        for (const double x : of.slope) all.slope.push_back(x / n_group);
    }
    return all;
}

void add_shares(std::vector<float>& to, std::span<const double> pooled) {
    const double sum = std::accumulate(pooled.begin(), pooled.end(), 0.0);
    require(sum > 0 && std::isfinite(sum), "attention of a document is not finite or all zero");
    for (const double x : pooled) to.push_back(static_cast<float>(x / sum));
}

}  // namespace

IndexerTarget indexer_target(const LayerRecord& record, IndexerForm form,
                             const IndexerLesson& lesson) {
    record.check();
    IndexerTarget target;
    target.at = looking_of(record, form, lesson);
    target.n_group = lesson.n_group;
    check_leaves_keys(lesson, target.at.end_key + lesson.n_recent);
    const bool by_logits = form == IndexerForm::kLogitMax;
    const double least = by_logits ? -std::numeric_limits<double>::infinity() : 0.0;
    const int64_t n_head = record.shape.n_head / lesson.n_group;
    for (int64_t g = 0; g < lesson.n_group; ++g) {
        std::vector<double> pooled(static_cast<size_t>(target.at.n_keys()), least);
        if (by_logits) {
            pool_logits(record, {g * n_head, n_head}, target.at, pooled);
            make_softmax(pooled);
        } else {
            pool_weights(record, {g * n_head, n_head}, target.at, pooled);
            target.divisor = static_cast<double>(pooled.size());
        }
        add_shares(target.share, pooled);
    }
    return target;
}

IndexerTarget repetition_target(std::span<const float> scores, int64_t n_head_kv,
                                const IndexerLesson& lesson, std::span<const float> cuts) {
    const int64_t n = std::ssize(scores) / n_head_kv;
    check_leaves_keys(lesson, n);
    IndexerTarget target;
    target.at = {.first_query = 0,
                 .end_query = n,
                 .first_key = lesson.n_sink,
                 .end_key = n - lesson.n_recent};
    target.n_group = lesson.n_group;
    for (const float cut : cuts) target.cuts.push_back(log_score(cut));
    const int64_t n_head = n_head_kv / lesson.n_group;
    for (int64_t g = 0; g < lesson.n_group; ++g) {
        std::vector<double> pooled;
        for (int64_t t = target.at.first_key; t < target.at.end_key; ++t) {
            const auto of = scores.subspan(static_cast<size_t>(t * n_head_kv + g * n_head),
                                           static_cast<size_t>(n_head));
            const float largest = *std::ranges::max_element(of);
            pooled.push_back(std::sqrt(static_cast<double>(largest)));
            target.logs.push_back(log_score(largest));
        }
        add_shares(target.share, pooled);
    }
    return target;
}

double indexer_loss(const IndexerNet& net, const IndexerTarget& target, IndexerLoss kind,
                    float weight, const IndexerParts<float>& gradient) {
    const Importance found = net.importance(target.at);
    const GroupLoss of = loss_of(found, target, kind);
    std::vector<float> upstream;
    upstream.reserve(of.slope.size());
    for (const double x : of.slope) {
        upstream.push_back(static_cast<float>(static_cast<double>(weight) * x));
    }
    net.backward(target.at, found, upstream, gradient);
    return of.loss;
}

double indexer_loss(const IndexerNet& net, const IndexerTarget& target, IndexerLoss kind) {
    return loss_of(net.importance(target.at), target, kind).loss;
}

}  // namespace palimpsest
