#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/prefix_text.h"
#include "engine/session.h"
#include "prefix/prefix_check.h"

namespace palimpsest {

/// Reads a prefix; the Session owns the memory that `exact` points to.
struct ReadPrefix {
    std::unique_ptr<Session> session;
    ExactPrefix* exact = nullptr;
};

/// Where a prefix waits for later runs, and which position comes after it.
struct ReadPlace {
    std::string saved_in = {};  // a file; empty: nowhere
    int64_t end = 0;            // 0: its length
};

/// Throws kInvalidArgument for one that is longer than the model's window.
ReadPrefix read_prefix(const PrefixRuntime& with, const PrefixText& text,
                       const ReadPlace& place = {});

/// A prefix as it is read: as a whole, or cut into pieces that are read apart, each with the
/// template and a beginning of its own (Okoshi et al., 2026, section 3.4). All pieces end at the
/// same position; behind it traces are followed, and requests will start.
class PrefixPieces {
 public:
    /// Pieces that were read wait in `folder` for later runs; empty: they do not. `with` and `text`
    /// must outlive it. Throws kInvalidArgument, naming --chunks, if a piece is longer than the
    /// model's window.
    PrefixPieces(const PrefixRuntime& with, const PrefixText& text, int64_t n,
                 std::string folder = "");

    [[nodiscard]] int64_t size() const { return std::ssize(texts_); }
    [[nodiscard]] const std::vector<PrefixText>& texts() const { return texts_; }
    [[nodiscard]] int64_t end() const { return end_; }
    void wait_in(std::string folder) { folder_ = std::move(folder); }

    /// Entries of a prefix in one piece that are set apart whenever it is read (ExactPrefix).
    void set_apart(std::vector<std::vector<int32_t>> chosen);

    /// A piece, read if it is not there. It lasts until another one is asked for.
    const ExactPrefix& read(int64_t i);
    [[nodiscard]] double seconds_reading() const { return seconds_; }

    /// Checks a document against the whole prefix; against each of the pieces, if the whole is
    /// longer than the model's window. `mean_state` may be nullptr.
    PrefixErrors check(const std::shared_ptr<const PrefixDocument>& document,
                       const std::shared_ptr<const PrefixDocument>& mean_state,
                       std::span<const TraceTokens> traces);

 private:
    const PrefixRuntime& with_;
    const PrefixText& whole_;
    std::vector<PrefixText> texts_;
    int64_t end_ = 0;
    std::string folder_;
    std::vector<std::vector<int32_t>> apart_;
    ReadPrefix last_;
    int64_t last_is_ = -1;
    double seconds_ = 0;
};

}  // namespace palimpsest
