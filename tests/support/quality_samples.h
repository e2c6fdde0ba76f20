#pragma once

#include <string>

#include "bench/quality/quality_result.h"

namespace palimpsest::testing {

/// A result of the full cache on one sample of a task.
inline QualityResult full_result(const std::string& task, const std::string& sample, double score) {
    QualityResult r;
    r.task = task;
    r.group = "ruler";
    r.metric = "all";
    r.length = 2048;
    r.seed = 42;
    r.sample = sample;
    r.prompt = "hash of " + task + sample;
    r.source = "generated";
    r.model = "tiny.gguf 0123";
    r.score = score;
    r.n_context = 2000;
    r.n_written = 10;
    r.bytes = r.full_bytes = r.peak_bytes = 1000;
    r.prefill_s = 4;
    r.decode_s = 0.5;
    r.commit = "abc";
    r.processor = "a processor";
    r.threads = 2;
    return r;
}

/// The same sample under a policy that holds half.
inline QualityResult policy_result(const std::string& policy, const std::string& task,
                                   const std::string& sample, double score) {
    QualityResult r = full_result(task, sample, score);
    r.policy = policy;
    r.allocator = "uniform";
    r.budget = "evict 50 %";
    r.protocol = "one-shot";
    r.kept = 0.5;
    r.bytes = 500;
    return r;
}

}  // namespace palimpsest::testing
