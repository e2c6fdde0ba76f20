#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "memory/prefix/codebook.h"
#include "memory/prefix/prefix_layout.h"
#include "memory/prefix/prefix_trace.h"

namespace palimpsest {

/// What a user should know of work that was found damaged; may be empty.
using OnNote = std::function<void(const std::string&)>;

/// Opens a folder, or makes it; what is in it is kept if it was claimed for the same purpose, and
/// removed otherwise. Throws kInvalidArgument if it holds what no build left there, or cannot be
/// written.
void claim_folder(const std::filesystem::path& folder, const std::string& purpose);

/// Removes a folder that claim_folder() made, unless another process works in it, or an empty one.
/// Any other folder stays as it is.
void forget_folder(const std::filesystem::path& folder);

/// What traces saw of a prefix, on disk: one file a layer, so that only a dictionary's records are
/// ever in memory, and an interrupted build goes on where it stopped. Queries and outputs in f16.
/// Beside each, a check sum a trace: what was damaged since is recorded again.
class PrefixRecords {
 public:
    /// Tokens of a trace that are recorded together: what attention saw of more takes hundreds of
    /// megabytes.
    static constexpr int64_t kMostAtOnce = 256;

    /// `lengths` are the traces' tokens. Claims `folder`.
    PrefixRecords(std::filesystem::path folder, const std::string& purpose,
                  const MemoryShape& shape, std::vector<int64_t> lengths, const OnNote& note = {});

    /// Traces whose records are complete.
    [[nodiscard]] int64_t n_done() const { return n_done_; }
    [[nodiscard]] int64_t n_traces() const { return std::ssize(lengths_); }
    /// Records the next trace, or of a longer one its next kMostAtOnce tokens. Throws kExhausted if
    /// the disk is full, kUnsupported if f16 cannot hold a value.
    void add(std::span<const TracedLayer> layers);

    /// All records of a layer's codebook.
    [[nodiscard]] StateRecords read(int64_t layer, const PrefixLayout& layout,
                                    int64_t codebook) const;

    [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
    [[nodiscard]] std::filesystem::path file(int64_t layer) const;
    [[nodiscard]] std::filesystem::path sums(int64_t layer) const;
    [[nodiscard]] size_t bytes(int64_t n_traces) const;
    [[nodiscard]] int64_t n_whole(int64_t layer) const;
    [[nodiscard]] int64_t n_unchanged(int64_t layer, int64_t n_traces) const;
    void add(int64_t layer, const TracedLayer& of);

    std::filesystem::path folder_;
    MemoryShape shape_;
    std::vector<int64_t> lengths_;
    int64_t n_done_ = 0;
    int64_t n_begun_ = 0;        // tokens of the next trace that are recorded already
    std::vector<Digest> begun_;  // of these, a layer
};

}  // namespace palimpsest
