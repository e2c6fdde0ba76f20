#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <vector>

#include "bench/tasks/task.h"
#include "core/random.h"

namespace palimpsest {

/// Makes a sample of so many units (words, sentences, documents): the more, the longer. Equal
/// numbers give equal samples.
using Recipe = std::function<Sample(int64_t)>;

struct UnitRange {
    int64_t least = 1;
    int64_t most = std::numeric_limits<int64_t>::max() / 4;
};

/// Throws kInvalidArgument for a request of no samples, of no length, or without a counter.
void check_request(std::string_view task, const SampleRequest& request);

/// Random numbers of one sample: of its task, length and seed, and no other sample's.
[[nodiscard]] Random sample_random(std::string_view task, const SampleRequest& request,
                                   int64_t index);

/// The number of units of the longest sample that has at most request.length tokens. Throws
/// kInvalidArgument, with both numbers, if that of fewest units has more.
[[nodiscard]] int64_t most_units(std::string_view task, const SampleRequest& request,
                                 const Recipe& recipe, UnitRange range = {});

/// Does a sample stay more than 2 % below the length?
[[nodiscard]] bool is_short(const SampleRequest& request, const Sample& sample);

/// n samples, which `make` gives one by one; ids count from 0.
[[nodiscard]] std::vector<Sample> make_samples(std::string_view task, const SampleRequest& request,
                                               const std::function<Sample(Random)>& make);

}  // namespace palimpsest
