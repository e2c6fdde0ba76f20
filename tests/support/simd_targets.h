#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <string>
#include <vector>

#include "memory/kernels/attention_kernel.h"

namespace palimpsest::testing {

/// Makes the kernels choose among these instruction sets only; 0: all that the processor has.
inline void choose_among(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().DeInit();  // choose again at the next call
}

struct Target {
    std::string name;
    int64_t sets = 0;
};

/// The instruction sets that the kernels are compiled for and this processor has, widest first.
inline std::vector<Target> all_targets() {
    std::vector<Target> found;
    choose_among(0);
    // Highway numbers wider sets lower: take the lowest away, see what is chosen then.
    for (int64_t sets = hwy::SupportedTargets(); sets != 0; sets &= sets - 1) {
        choose_among(sets);
        if (found.empty() || found.back().name != attention_target()) {
            found.push_back({attention_target(), sets});
        }
    }
    choose_among(0);
    return found;
}

/// Runs `test` at every instruction set.
template <typename Test>
void for_each_target(const Test& test) {
    for (const Target& target : all_targets()) {
        SCOPED_TRACE(target.name);
        choose_among(target.sets);
        test();
    }
    choose_among(0);
}

}  // namespace palimpsest::testing
