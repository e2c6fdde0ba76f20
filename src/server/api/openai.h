#pragma once

#include "server/api/chat_task.h"

namespace palimpsest {

// What OpenAI's APIs write alike.

[[nodiscard]] std::string openai_finish(const FinishedAnswer& answer);
[[nodiscard]] Json openai_usage(const FinishedWork& work);
[[nodiscard]] Json openai_likelihoods(const Service& service,
                                      const std::vector<TokenLikelihood>& likelihoods);

/// `messages`, and `response_format`, of chat completions.
void read_openai_messages(const Service& service, const Fields& fields, ChatTask& task);
void read_response_format(const Service& service, const Fields& fields, ChatTask& task);

}  // namespace palimpsest
