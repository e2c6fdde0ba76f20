#pragma once

#include <functional>
#include <optional>
#include <span>

#include "engine/runtime.h"
#include "engine/session.h"
#include "train/example.h"

namespace palimpsest {

/// Scores of the first so many positions say nothing: they always stay.
inline constexpr int64_t kTrainedSinks = 4;

/// Runs a frozen model over documents and notes what objectives learn from. Scores are those of the
/// policy `kvzip`: of every entry, the largest weight that repeating the document pays to it.
class ExampleReader {
 public:
    /// `engine` must outlive the reader.
    ExampleReader(const Runtime& engine, const Captured& wanted);

    /// Reads one document from nothing. The same tokens give the same example, bit for bit.
    /// `goes_on` is asked now and then; nothing is returned if it says no. Throws as
    /// Session::feed() does.
    [[nodiscard]] std::optional<Example> read(std::span<const TokenId> tokens,
                                              const std::function<bool()>& goes_on = {});

 private:
    const Runtime& engine_;
    Captured wanted_;
};

}  // namespace palimpsest
