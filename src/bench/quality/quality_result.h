#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// Divergence of a memory's predictions from the full cache's over a run of positions.
struct DivergenceBin {
    int64_t begin = 0, end = 0;  // positions after the context
    double kl = 0;               // mean, in nats
};

/// What results call a memory that reads text.
inline constexpr std::string_view kTextMemory = "kv";

/// One sample under one memory: a line of a results file.
struct QualityResult {
    // What was asked, and of what. Together the key: a result with the same key is the same.
    std::string task, group, metric;
    int64_t length = 0;  // tokens asked for
    uint64_t seed = 0;
    std::string sample;   // its id
    std::string prompt;   // a hash of its texts
    std::string source;   // where they are from
    std::string model;    // the file's name and a hash of its head
    std::string prefix;   // memories of prefixes before it, with hashes; empty: none
    std::string reading;  // how its products are computed; empty: in older lines, as ggml does
    std::string memory{kTextMemory};  // or "latent 4x": over latents of 4 tokens
    std::string policy = "full", allocator = "none", residue = "none";
    std::string options;                // of policy, allocator and residue: "a=1,b=2"
    std::string weights;                // hashes of the sidecar, the adapter that was used
    std::string entries = "f16";        // type
    std::string budget = "everything";  // "evict 50 %", "1024 entries a head", "25 %"
    std::string protocol = "full";      // "full", "one-shot", "streaming"
    std::string question = "agnostic";  // known when the context was compressed: "aware"
    int64_t chunk = 512;
    bool has_template = true;

    // What came of it.
    double score = 0;  // 0 to 1; metric "kl": mean divergence from the full cache in nats
    std::string output;
    std::string label, predicted;                          // classes, where there are some
    double depth = -1;                                     // of the needle; -1: none
    int64_t n_context = 0, n_question = 0, n_written = 0;  // tokens
    double kept = 1;                                       // share of the context's entries
    size_t bytes = 0, peak_bytes = 0;  // of the memory when the answer begins, and most before
    size_t full_bytes = 0;             // what everything would take
    double prefill_s = 0, cut_s = 0;   // reading; of it, or after it, scoring and evicting
    double decode_s = 0;               // writing, `lanes` answers at once
    int64_t lanes = 1;
    double nll = 0, nll_full = 0;  // metric "kl": mean negative log-likelihood, in nats
    std::vector<DivergenceBin> kl_by_position = {};
    std::string commit, processor;
    int64_t threads = 0;

    /// Equal for equal questions to equal memories.
    [[nodiscard]] std::string key() const;
};

/// One line, without its end.
std::string to_json_line(const QualityResult& result);

/// Throws kCorrupt for what is no result, kUnsupported for one of another version of this format.
QualityResult parse_quality_result(std::string_view line);

/// All results in the text of a file; lines of other kinds (speed) are skipped. `name` is for
/// messages, which say the line's number. An interrupted run may leave half of a last line, which
/// is not an error. `whole_bytes`, if given, gets the length up to the last line that is ended:
/// whoever goes on writing starts there, and what stands behind it is not among the results.
std::vector<QualityResult> read_quality_results(std::string_view text, std::string_view name,
                                                size_t* whole_bytes = nullptr);

}  // namespace palimpsest
