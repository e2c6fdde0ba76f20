#include "prefix/prefix_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "engine/session.h"
#include "memory/attention/attention.h"
#include "memory/cache/kv_cache.h"
#include "memory/kernels/attention_state.h"

namespace palimpsest {

namespace {

/// Sums over positions, all hidden states exact.
class ExactRegime {
 public:
    ExactRegime(const PrefixDocument& document, const MemoryShape& shape)
        : document_(document),
          shape_(shape),
          sums_(static_cast<size_t>(shape.n_layer)),
          found_(static_cast<size_t>(shape.d_head)),
          scratch_(shape, 1) {
        const auto n = static_cast<size_t>(shape.n_layer * layout().n_codebooks());
        similarity_.resize(n);
    }

    void add(int64_t first, int64_t n, std::span<const TracedLayer> layers, int64_t answer) {
        for (int64_t l = 0; l < shape_.n_layer; ++l) {
            const TracedLayer& seen = layers[static_cast<size_t>(l)];
            set_own(l, n, seen);
            for (int64_t i = 0; i < n; ++i) {
                const double e = add_position(l, seen, i);
                if (first + i == answer - 1) {
                    answer_sum_ += e;
                    ++n_answer_;
                }
            }
        }
    }

    [[nodiscard]] PrefixErrors errors() const {
        PrefixErrors all;
        for (const Sums& s : sums_) {
            const auto n = static_cast<double>(std::max<int64_t>(1, s.n));
            const auto rows = n * static_cast<double>(shape_.n_head);
            all.layers.push_back({.e_out = s.out / n,
                                  .e_state = s.state > 0 ? std::sqrt(s.state_error / s.state) : 0,
                                  .e_lse = s.lse / rows,
                                  .e_weight = s.weight / rows});
            all.e_out += all.layers.back().e_out / static_cast<double>(shape_.n_layer);
            all.e_out_worst = std::max(all.e_out_worst, all.layers.back().e_out);
            all.n_positions = std::max(all.n_positions, s.n);
        }
        all.e_out_answer = n_answer_ > 0 ? answer_sum_ / static_cast<double>(n_answer_) : 0;
        for (std::vector<float> s : similarity_) {
            if (s.empty()) s.push_back(-1);
            const auto at = static_cast<std::ptrdiff_t>(s.size() / 100);
            std::ranges::nth_element(s, s.begin() + at);
            all.floors.push_back(s[static_cast<size_t>(at)]);
        }
        return all;
    }

 private:
    struct Sums {
        int64_t n = 0;
        double out = 0, state = 0, state_error = 0, lse = 0, weight = 0;
    };
    [[nodiscard]] const PrefixLayout& layout() const { return document_.header().layout; }

    /// What queries see beside the dictionaries: the trace, and entries as the document keeps them.
    void set_own(int64_t layer, int64_t n, const TracedLayer& seen) {
        if (!document_.keeps_entries(layer)) {
            own_ = seen.own;
            own_lse_ = seen.own_lse;
            return;
        }
        own_ = seen.alone;
        own_lse_ = seen.alone_lse;
        for (int64_t h = 0; h < shape_.n_head; ++h) {
            for (int64_t i = 0; i < n; i += kMaxRows) {
                join_kept(layer, h, {i, std::min(n, i + kMaxRows)}, seen);
            }
        }
    }

    /// Joins attention over kept entries into some positions of one head.
    void join_kept(int64_t layer, int64_t head, SlotRange positions, const TracedLayer& seen) {
        const int64_t d = shape_.d_head;
        const auto n = static_cast<size_t>(positions.end - positions.begin);
        std::vector<float> outputs(n * static_cast<size_t>(d));
        std::vector<float> lse(n);
        std::vector<QueryRow> rows(n);
        const auto where = [&](size_t r) {
            return static_cast<size_t>((positions.begin + static_cast<int64_t>(r)) * shape_.n_head +
                                       head);
        };
        const int64_t head_kv = head / shape_.group();
        for (size_t r = 0; r < n; ++r) {
            const auto at = static_cast<std::ptrdiff_t>(r) * d;
            rows[r] = {.q = seen.queries.data() + static_cast<std::ptrdiff_t>(where(r)) * d,
                       .out = outputs.data() + at,
                       .lse = &lse[r],
                       .begin = 0,
                       .end = document_.n_kept(layer, head_kv)};
        }
        attend_rows(document_.kept(layer, head_kv), rows, 1.0F / std::sqrt(static_cast<float>(d)),
                    scratch_.of_thread(0));
        for (size_t r = 0; r < n; ++r) {
            const auto width = static_cast<size_t>(d);
            float& own = own_lse_[where(r)];
            own = join_state(std::span(own_).subspan(where(r) * width, width), own,
                             std::span(outputs).subspan(r * width, width), lse[r]);
        }
    }

    /// Returns E_out of one position.
    double add_position(int64_t layer, const TracedLayer& seen, int64_t i) {
        const PrefixLayout& at = layout();
        Merged merged;
        std::vector<float> key(static_cast<size_t>(at.width()));
        for (int64_t w = 0; w < at.n_codebooks() * at.rows(); ++w) {
            const int64_t c = w / at.rows();
            const int64_t r = w % at.rows();
            for (int64_t b = 0; b < at.blocks(); ++b) {
                const auto d = static_cast<size_t>(at.d_head);
                const auto first = static_cast<size_t>(i * at.n_head + at.head(c, r, b)) * d;
                std::copy_n(seen.keys.data() + first, d, key.data() + b * at.d_head);
            }
            const PrefixEntry entry = document_.find(layer, c, key);
            similarity_[static_cast<size_t>(layer * at.n_codebooks() + c)].push_back(
                entry.similarity);
            for (int64_t b = 0; b < at.blocks(); ++b) {
                const float lse = document_.state(layer, c, entry.index, b, found_);
                const int64_t where = i * at.n_head + at.head(c, r, b);
                merged.add(add_head(sums_[static_cast<size_t>(layer)], seen, where, lse));
            }
        }
        const double e = merged.squares > 0 ? std::sqrt(merged.error / merged.squares) : 0;
        sums_[static_cast<size_t>(layer)].out += e;
        ++sums_[static_cast<size_t>(layer)].n;
        return e;
    }

    /// Squares of a merged output, and of its error.
    struct Merged {
        double squares = 0, error = 0;
        void add(const Merged& other) {
            squares += other.squares;
            error += other.error;
        }
    };

    /// Adds what the state in found_, of logarithm `theirs`, does to one head of one position.
    Merged add_head(Sums& sums, const TracedLayer& seen, int64_t where, float theirs) const {
        const size_t d = found_.size();
        const auto at = static_cast<size_t>(where);
        const auto row = [&](const std::vector<float>& of) {
            return std::span(of).subspan(at * d, d);
        };
        const float lse = seen.lse[at];
        const float own = seen.own_lse[at];
        // A window that no longer reaches the prefix: nothing is looked up.
        if (lse == kEmptyState) theirs = kEmptyState;
        std::vector<float> exact(row(seen.own).begin(), row(seen.own).end());
        std::vector<float> merged(row(own_).begin(), row(own_).end());
        join_state(exact, own, row(seen.outputs), lse);
        join_state(merged, own_lse_[at], found_, theirs);
        Merged sum;
        for (size_t x = 0; x < d; ++x) {
            sum.squares += double{exact[x]} * double{exact[x]};
            sum.error += std::pow(double{merged[x]} - double{exact[x]}, 2);
        }
        if (lse == kEmptyState) return sum;
        for (size_t x = 0; x < d; ++x) {
            const auto truth = double{row(seen.outputs)[x]};
            sums.state += truth * truth;
            sums.state_error += std::pow(double{found_[x]} - truth, 2);
        }
        sums.lse += std::abs(double{theirs} - double{lse});
        sums.weight += std::abs(double{weight_of_state(theirs, own_lse_[at])} -
                                double{weight_of_state(lse, own)});
        return sum;
    }

    const PrefixDocument& document_;
    MemoryShape shape_;
    std::vector<Sums> sums_;            // [layer]
    std::vector<float> found_;          // [d_head]: the entry's state at hand
    std::vector<float> own_, own_lse_;  // [n][n_head]: of the layer at hand
    AttentionScratch scratch_;
    std::vector<std::vector<float>> similarity_;  // [layer][codebook]
    double answer_sum_ = 0;
    int64_t n_answer_ = 0;
};

/// Logits at the positions that say a trace's answer, row after row.
std::vector<float> answer_logits(Session& session, const TraceTokens& trace, int64_t n_vocab) {
    std::vector<float> rows;
    const int64_t start = session.position();
    const int64_t first = std::max<int64_t>(0, trace.answer - 1);
    const int64_t last = std::max(first + 1, std::ssize(trace.tokens) - 1);
    session.feed(trace.tokens, {.on_logits = [&](int64_t position, std::span<const float> logits) {
                     const int64_t i = position - start;
                     if (i < first || i >= last) return;
                     rows.insert(rows.end(), logits.begin(), logits.begin() + n_vocab);
                 }});
    return rows;
}

void compare(std::span<const float> full, std::span<const float> other, size_t n_vocab,
             PrefixAgreement& to) {
    for (size_t at = 0; at + n_vocab <= full.size(); at += n_vocab) {
        const auto p = full.subspan(at, n_vocab);
        const auto q = other.subspan(at, n_vocab);
        const auto best_p = std::ranges::max_element(p);
        const auto best_q = std::ranges::max_element(q);
        to.same += best_p - p.begin() == best_q - q.begin() ? 1 : 0;
        ++to.n;
        double zp = 0;
        double zq = 0;
        for (size_t i = 0; i < n_vocab; ++i) {
            zp += std::exp(double{p[i]} - double{*best_p});
            zq += std::exp(double{q[i]} - double{*best_q});
        }
        double kl = 0;
        const double lp = double{*best_p} + std::log(zp);
        const double lq = double{*best_q} + std::log(zq);
        for (size_t i = 0; i < n_vocab; ++i) {
            kl += std::exp(double{p[i]} - lp) * ((double{p[i]} - lp) - (double{q[i]} - lq));
        }
        to.divergence += kl;
    }
}

}  // namespace

void PrefixRuntime::tell(std::string_view phase, int64_t done, int64_t total) const {
    if (progress && !progress(phase, done, total)) {
        throw Error(ErrorCode::kExhausted, "stopped; the same command goes on from here");
    }
}

double mcnemar(int64_t a, int64_t b) {
    const auto n = static_cast<double>(a + b);
    double tail = 0;
    double log_term = -n * std::log(2.0);  // of n choose k, divided by 2^n
    for (int64_t i = 0; i <= std::min(a, b); ++i) {
        const auto k = static_cast<double>(i);
        tail += std::exp(log_term);
        log_term += std::log((n - k) / (k + 1));
    }
    return std::min(1.0, 2 * tail);
}

ShareInterval wilson(int64_t hits, int64_t n) {
    if (n <= 0) return {.low = 0, .high = 1};
    constexpr double kZ = 1.959964;
    const auto count = static_cast<double>(n);
    const double p = static_cast<double>(hits) / count;
    const double middle = p + kZ * kZ / (2 * count);
    const double half = kZ * std::sqrt(p * (1 - p) / count + kZ * kZ / (4 * count * count));
    const double by = 1 + kZ * kZ / count;
    return {.low = (middle - half) / by, .high = (middle + half) / by};
}

namespace {

/// Both regimes of one document, trace after trace.
class Checking {
 public:
    Checking(const PrefixRuntime& with, std::shared_ptr<const PrefixDocument> document,
             std::shared_ptr<const PrefixDocument> mean_state)
        : with_(with),
          document_(std::move(document)),
          mean_state_(std::move(mean_state)),
          shape_(with.engine.shape()),
          regime_(*document_, shape_) {}

    void add(const ExactPrefix& exact, const TraceTokens& trace) {
        const int64_t n = std::ssize(trace.tokens);
        const auto on_step = [&](int64_t first, int64_t count, std::span<const TracedLayer> seen) {
            regime_.add(first, count, seen, trace.answer);
        };
        const auto full =
            logits_of(trace, std::make_unique<TraceMemory>(with_.engine.backend(), exact, n,
                                                           document_->header().keys, on_step));
        const auto width = static_cast<size_t>(with_.engine.config().n_vocab);
        compare(full, logits_with(trace, document_), width, memory_);
        if (mean_state_) compare(full, logits_with(trace, mean_state_), width, mean_);
        compare(full, logits_with(trace, nullptr), width, none_);
    }

    [[nodiscard]] PrefixErrors errors() const {
        PrefixErrors errors = regime_.errors();
        errors.memory = memory_;
        errors.mean_state = mean_;
        errors.no_prefix = none_;
        for (PrefixAgreement* a : {&errors.memory, &errors.mean_state, &errors.no_prefix}) {
            a->divergence /= static_cast<double>(std::max<int64_t>(1, a->n));
        }
        return errors;
    }

 private:
    std::vector<float> logits_of(const TraceTokens& trace, std::unique_ptr<ContextMemory> of) {
        const auto session = with_.engine.make_session(std::move(of));
        return answer_logits(*session, trace, with_.engine.config().n_vocab);
    }

    std::vector<float> logits_with(const TraceTokens& trace,
                                   const std::shared_ptr<const PrefixDocument>& document) {
        KvCacheOptions options = {.n_ctx = std::ssize(trace.tokens)};
        if (document) options.prefix.documents = {document};
        return logits_of(trace, with_.engine.make_cache(options));
    }

    const PrefixRuntime& with_;
    std::shared_ptr<const PrefixDocument> document_, mean_state_;
    MemoryShape shape_;
    ExactRegime regime_;
    PrefixAgreement memory_, mean_, none_;
};

}  // namespace

PrefixErrors check_prefix(const PrefixRuntime& with, const ExactPrefixes& exact,
                          const std::shared_ptr<const PrefixDocument>& document,
                          const std::shared_ptr<const PrefixDocument>& mean_state,
                          std::span<const TraceTokens> traces) {
    // Before anything is looked up: a file may say that it is of this model and have other heads.
    check_prefixes({.documents = {document}}, with.engine.shape());
    Checking checking(with, document, mean_state);
    const int64_t n = std::ssize(traces);
    for (int64_t i = 0; i < exact.n; ++i) {
        const ExactPrefix& one = exact.read(i);
        for (int64_t t = 0; t < n; ++t) {
            checking.add(one, traces[static_cast<size_t>(t)]);
            with.tell("checking", i * n + t + 1, exact.n * n);
        }
    }
    PrefixErrors errors = checking.errors();
    errors.n_traces = n;
    errors.n_pieces = exact.n;
    return errors;
}

PrefixErrors check_prefix(const PrefixRuntime& with, const ExactPrefix& exact,
                          const std::shared_ptr<const PrefixDocument>& document,
                          const std::shared_ptr<const PrefixDocument>& mean_state,
                          std::span<const TraceTokens> traces) {
    return check_prefix(
        with, {.n = 1, .read = [&](int64_t /*i*/) -> const ExactPrefix& { return exact; }},
        document, mean_state, traces);
}

std::string errors_for_people(const PrefixErrors& e, std::string_view which) {
    std::array<char, 160> line{};
    std::string out =
        cat("errors on ", e.n_traces, " ", which, "traces, ", e.n_positions,
            " positions, hidden states exact",
            e.n_pieces > 1 ? cat(";\nthe whole prefix is longer than the model's ",
                                 "window: against each of its ", e.n_pieces, " pieces alone")
                           : std::string(),
            "\n");
    std::snprintf(line.data(), line.size(),
                  "  E_out    mean %.3f   worst layer %.3f   at the answer %.3f   (good: %.3f, "
                  "%.3f)\n",
                  e.e_out, e.e_out_worst, e.e_out_answer, PrefixErrors::kMostError,
                  PrefixErrors::kMostAnswerError);
    out += line.data();
    out += "  layer      E_out    E_a    E_l    E_w\n";
    for (size_t i = 0; i < e.layers.size(); ++i) {
        const PrefixLayerErrors& l = e.layers[i];
        std::snprintf(line.data(), line.size(), "  %5d      %.3f  %.3f  %.3f  %.3f\n",
                      static_cast<int>(i), l.e_out, l.e_state, l.e_lse, l.e_weight);
        out += line.data();
    }
    out += cat("agreement with ", e.n_pieces > 1 ? "the pieces" : "the full prefix",
               " at answers, hidden states its own\n");
    const auto row = [&](const char* what, const PrefixAgreement& a) {
        if (a.n == 0) return;
        const ShareInterval i = wilson(a.same, a.n);
        std::snprintf(line.data(), line.size(), "  %-22s %.3f  (%.3f to %.3f, n = %d)   KL %.3f\n",
                      what, a.share(), i.low, i.high, static_cast<int>(a.n), a.divergence);
        out += line.data();
    };
    row("this memory", e.memory);
    row("control: mean state", e.mean_state);
    row("control: no prefix", e.no_prefix);
    return out;
}

}  // namespace palimpsest
