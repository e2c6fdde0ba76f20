#include "server/api/openai.h"

#include "text/utf8.h"

namespace palimpsest {

std::string openai_finish(const FinishedAnswer& answer) {
    if (!answer.parsed.calls.empty()) return "tool_calls";
    return answer.reason == StopReason::kLength ? "length" : "stop";
}

Json openai_usage(const FinishedWork& work) {
    const WorkResult& r = work.result;
    Json usage = {{"prompt_tokens", r.n_prompt},
                  {"completion_tokens", work.n_written()},
                  {"total_tokens", r.n_prompt + work.n_written()},
                  {"prompt_tokens_details", {{"cached_tokens", r.n_cached}}}};
    if (!r.memory.policy.empty()) usage["memory"] = memory_usage(r.memory);
    return usage;
}

Json openai_likelihoods(const Service& service, const std::vector<TokenLikelihood>& likelihoods) {
    const auto of = [&service](const TokenLikelihood& l) {
        const std::string bytes = service.tokenizer().bytes(l.token);
        Json json = {{"token", replace_invalid_utf8(bytes)}, {"logprob", l.log_probability}};
        json["bytes"] = Json::array();
        for (const char c : bytes) json["bytes"].push_back(static_cast<unsigned char>(c));
        return json;
    };
    Json content = Json::array();
    for (const TokenLikelihood& l : likelihoods) {
        Json token = of(l);
        token["top_logprobs"] = Json::array();
        for (const TokenLikelihood& other : l.likeliest) token["top_logprobs"].push_back(of(other));
        content.push_back(std::move(token));
    }
    return {{"content", std::move(content)}};
}

}  // namespace palimpsest
