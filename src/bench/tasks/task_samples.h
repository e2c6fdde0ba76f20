#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bench/tasks/task.h"

namespace palimpsest {

// What makes each kind's samples, as TaskKind::samples says; one file each, named in tasks.cpp.
using Samples = std::vector<Sample>;

// RULER's 13 tasks: ready_samples() if the request names ready ones.
Samples needle_samples(std::string_view task, const SampleRequest& request);
Samples variable_samples(std::string_view task, const SampleRequest& request);
Samples common_word_samples(std::string_view task, const SampleRequest& request);
Samples frequent_word_samples(std::string_view task, const SampleRequest& request);
Samples document_samples(std::string_view task, const SampleRequest& request);

/// Of the group `document`: what stands once in a window of any text.
Samples fact_samples(std::string_view task, const SampleRequest& request);
Samples grid_samples(std::string_view task, const SampleRequest& request);
Samples many_shot_samples(std::string_view task, const SampleRequest& request);
Samples many_icl_samples(std::string_view task, const SampleRequest& request);
Samples longbench_samples(std::string_view task, const SampleRequest& request);
/// n of each part.
Samples longbench_e_samples(std::string_view task, const SampleRequest& request);
Samples text_samples(std::string_view task, const SampleRequest& request);

/// The first n of the lines of READY/LENGTH/TASK.jsonl, answers of at most n_new tokens.
Samples ready_samples(std::string_view task, const SampleRequest& request, int64_t n_new);

}  // namespace palimpsest
