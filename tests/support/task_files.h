#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "bench/tasks/task.h"
#include "support/golden.h"

namespace palimpsest::testing {

/// A counter for tests without a model: four characters of a word are a token, a template is 20.
int64_t count_test_tokens(const Sample& sample);

/// A request for `n` samples, counted so.
SampleRequest request_of(int64_t length, int64_t n = 1, uint64_t seed = 42);

/// Sentences of plain words, without digits, always the same for one number.
std::string prose(int64_t n_sentence);

/// Stretches of prose, in each a heading, a name, a number and a date of its own.
std::string prose_with_facts(int64_t n_stretch);

/// The samples of the task of this name.
std::vector<Sample> samples_of(std::string_view task, const SampleRequest& request);

size_t count_of(std::string_view text, std::string_view part);

/// A hash of all that a prompt and its judgement depend on.
uint64_t hash_of(const std::vector<Sample>& samples);

/// The metric's answer to what is right: the references, all that it asks for.
std::string right_answer(const TaskKind& kind, const Sample& sample);

}  // namespace palimpsest::testing
