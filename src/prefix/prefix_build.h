#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/prefix_text.h"
#include "prefix/prefix_check.h"
#include "prefix/prefix_kept.h"
#include "prefix/prefix_pieces.h"

namespace palimpsest {

/// How a dictionary is looked through: as a whole, or in lists of alike entries.
enum class PrefixLookup { kLinear, kTwoLevel, kFaster };

struct PrefixBuildOptions {
    std::string name = {};      // of the document
    int64_t heads_per_key = 1;  // 0: all that share a KV head
    bool is_shared = false;
    PrefixKeys keys = PrefixKeys::kPre;
    bool whiten = false;
    PrefixStorage storage = PrefixStorage::kI8;
    int64_t k = 0;            // entries a dictionary; 0: what the budget holds
    size_t budget_bytes = 0;  // of held bytes; 0: a quarter of the prefix's cache
    /// Of what is held, the share that goes to the prefix's own entries which are attended to most:
    /// they are kept beside the dictionaries, whose states leave them out. None given: half, and
    /// what the traces are too few for, or nothing where none can be kept.
    std::optional<double> kept_share = 0.0;
    KeptBy kept_by = KeptBy::kRepetition;
    uint64_t seed = 1;        // of the clustering
    int64_t n_chunks = 1;     // pieces that the prefix is read in, apart from each other
    int64_t n_held_out = 64;  // traces that are only checked with, at most an eighth of all
    bool is_forced = false;   // more entries than the records allow
    bool keep_exact = false;  // the prefix's own entries in the file, for the gate
    PrefixLookup lookup = PrefixLookup::kFaster;
    Aggregation aggregation = Aggregation::kWeighted;
    std::string work_folder = {};  // where records wait; it is removed when all is done
};

struct PrefixBuild {
    std::shared_ptr<const PrefixDocument> document;
    PrefixErrors errors;
    int64_t n_records = 0;  // of a dictionary
    // Traces left out.
    int64_t n_in_prefix = 0, n_too_long = 0, n_empty = 0, n_repeated = 0;
    bool k_was_lowered = false;  // to what the records allow
    size_t cache_bytes = 0;      // of the prefix's keys and values, f16
    double prefill_s = 0, traces_s = 0, clustering_s = 0, checking_s = 0;  // of this run
};

/// Section 6.1 of the specification. A prefix in pieces has the records of all of them in the same
/// clusters, whose sums are means (section 3.4): every piece has an attention sink of its own.
/// Throws kInvalidArgument for what cannot be: a prefix longer than the model's window, no usable
/// traces, more entries than records / 8. An interrupted build goes on from what its work folder
/// has.
PrefixBuild build_prefix(const PrefixRuntime& with, const PrefixText& text,
                         const std::vector<TraceText>& traces, const PrefixBuildOptions& options);

}  // namespace palimpsest
