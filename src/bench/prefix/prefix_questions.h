#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/prefix/prefix_result.h"
#include "bench/prefix/prefix_task.h"
#include "memory/cache/kv_cache.h"
#include "prefix/prefix_build.h"

namespace palimpsest {

/// The tests of a prefix task, or its validation, asked behind whatever stands for the prefix.
class PrefixQuestions {
 public:
    /// All must outlive it.
    PrefixQuestions(const PrefixRuntime& with, const PrefixTask& task,
                    const std::vector<PrefixTask::Item>& asked);

    /// Logits of the labels, test by test.
    using Answers = std::vector<std::vector<float>>;

    /// Every test behind what `make` has in memory, a memory each. Fills time, and what a prefix
    /// memory says of its lookups.
    using MakeMemory = std::function<std::unique_ptr<ContextMemory>()>;
    Answers ask(const MakeMemory& make, PrefixResult& into) const;

    /// Every test behind tokens that are read with it.
    using Before = std::function<std::vector<TokenId>(const std::string& prompt)>;
    Answers ask_with(const Before& before, PrefixResult& into) const;

    /// Counts what is right, and what is as `full` says.
    void count(const Answers& answers, const Answers& full, PrefixResult& into) const;

 private:
    [[nodiscard]] std::vector<float> labels_of(std::span<const float> logits) const;

    const PrefixRuntime& with_;
    const PrefixTask& task_;
    const std::vector<PrefixTask::Item>& asked_;
    std::vector<std::vector<TokenId>> tests_;
};

}  // namespace palimpsest
