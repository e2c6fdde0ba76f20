#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/prefix_text.h"
#include "engine/runtime.h"
#include "memory/prefix/prefix_trace.h"

namespace palimpsest {

/// Errors of one layer's lookups where all hidden states are exact (section 9.3 of the
/// specification): means over positions.
struct PrefixLayerErrors {
    double e_out = 0;     // |merged - exact| / |exact|, all heads together
    double e_state = 0;   // |found - true| / |true| of the prefix's own outputs, over all
    double e_lse = 0;     // |found - true| of logarithms, in nats
    double e_weight = 0;  // |found - true| of the prefix's weight
};

/// What a memory says at answers where the full prefix says something: the response is the
/// trace's, hidden states are the memory's own.
struct PrefixAgreement {
    int64_t n = 0, same = 0;  // answer positions, and those with the same likeliest token
    double divergence = 0;    // mean KL(full || memory)

    [[nodiscard]] double share() const {
        return n > 0 ? static_cast<double>(same) / static_cast<double>(n) : 0;
    }
};

/// How good a memory is on traces it was not made from.
struct PrefixErrors {
    std::vector<PrefixLayerErrors> layers;
    double e_out = 0, e_out_worst = 0, e_out_answer = 0;
    PrefixAgreement memory, mean_state, no_prefix;  // mean_state: one entry for all queries
    int64_t n_traces = 0, n_positions = 0;
    int64_t n_pieces = 1;       // of the prefix, each measured against on its own
    std::vector<float> floors;  // [layer][codebook]: first percentile of similarities

    /// Default acceptance; from a pilot with the default model.
    static constexpr double kMostError = 0.07, kMostAnswerError = 0.055;
    [[nodiscard]] bool is_good() const {
        return e_out <= kMostError && e_out_answer <= kMostAnswerError;
    }
};

/// The 95 % interval of a share, by Wilson's formula.
struct ShareInterval {
    double low = 0, high = 0;
};
[[nodiscard]] ShareInterval wilson(int64_t hits, int64_t n);

/// McNemar's test, exact and two-sided: how likely pairs that differ are at least so unevenly
/// divided, if either way were as likely. `a`, `b`: pairs that differ one way and the other.
[[nodiscard]] double mcnemar(int64_t a, int64_t b);

/// Called as work goes on; returning false stops it.
using PrefixProgress = std::function<bool(std::string_view phase, int64_t done, int64_t total)>;

/// What work on a prefix runs with.
struct PrefixRuntime {
    const Runtime& engine;
    PrefixProgress progress = {};                          // may be empty
    std::function<void(const std::string&)> on_note = {};  // of damaged work; may be empty

    void note(const std::string& text) const {
        if (on_note) on_note(text);
    }
    /// Throws kExhausted if the caller wants to stop.
    void tell(std::string_view phase, int64_t done, int64_t total) const;
};

/// Exact prefixes, one after another; what `read` returns lasts until its next call.
struct ExactPrefixes {
    int64_t n = 0;
    std::function<const ExactPrefix&(int64_t i)> read;
};

/// Checks a document against every one of some prefixes. `mean_state` may be nullptr.
PrefixErrors check_prefix(const PrefixRuntime& with, const ExactPrefixes& exact,
                          const std::shared_ptr<const PrefixDocument>& document,
                          const std::shared_ptr<const PrefixDocument>& mean_state,
                          std::span<const TraceTokens> traces);

/// Checks a document against one.
PrefixErrors check_prefix(const PrefixRuntime& with, const ExactPrefix& exact,
                          const std::shared_ptr<const PrefixDocument>& document,
                          const std::shared_ptr<const PrefixDocument>& mean_state,
                          std::span<const TraceTokens> traces);

/// Tables of both regimes beside their controls. `which` traces they were measured on: "held-out ".
std::string errors_for_people(const PrefixErrors& errors, std::string_view which);

}  // namespace palimpsest
