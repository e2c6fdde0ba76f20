#include "bench/prefix/prefix_questions.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine/session.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

size_t best(const std::vector<float>& logits) {
    return static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
}

double divergence(const std::vector<float>& p, const std::vector<float>& q) {
    const auto log_sum = [](const std::vector<float>& x) {
        const double most = *std::ranges::max_element(x);
        double sum = 0;
        for (const float v : x) sum += std::exp(double{v} - most);
        return most + std::log(sum);
    };
    const double lp = log_sum(p);
    const double lq = log_sum(q);
    double kl = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        kl += std::exp(double{p[i]} - lp) * (double{p[i]} - lp - double{q[i]} + lq);
    }
    return kl;
}

/// Measures the feeding of a session.
double seconds_of(Session& session, const std::vector<TokenId>& tokens) {
    const auto start = Clock::now();
    session.feed(tokens, {.may_forget = false});
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

PrefixQuestions::PrefixQuestions(const PrefixRuntime& with, const PrefixTask& task,
                                 const std::vector<PrefixTask::Item>& asked)
    : with_(with), task_(task), asked_(asked) {
    for (const PrefixTask::Item& item : asked) {
        tests_.push_back(with.engine.loaded().require_tokenizer().encode(item.prompt));
    }
}

std::vector<float> PrefixQuestions::labels_of(std::span<const float> logits) const {
    std::vector<float> of;
    for (const TokenId t : task_.label_tokens) of.push_back(logits[static_cast<size_t>(t)]);
    return of;
}

PrefixQuestions::Answers PrefixQuestions::ask(const MakeMemory& make, PrefixResult& into) const {
    Answers answers;
    int64_t lookups = 0;
    int64_t below = 0;
    for (const std::vector<TokenId>& test : tests_) {
        const auto session = with_.engine.make_session(make());
        into.request_s += seconds_of(*session, test) / static_cast<double>(tests_.size());
        answers.push_back(labels_of(session->logits()));
        const MemoryReport::Prefix seen = session->memory().report().prefix;
        lookups += seen.lookups;
        below += seen.below_floor;
        with_.tell("answering", std::ssize(answers), std::ssize(tests_));
    }
    if (lookups > 0) into.below_floor = static_cast<double>(below) / static_cast<double>(lookups);
    return answers;
}

PrefixQuestions::Answers PrefixQuestions::ask_with(const Before& before, PrefixResult& into) const {
    Answers answers;
    for (size_t i = 0; i < tests_.size(); ++i) {
        std::vector<TokenId> tokens = before(asked_[i].prompt);
        tokens.insert(tokens.end(), tests_[i].begin(), tests_[i].end());
        const auto session =
            with_.engine.make_session(with_.engine.make_cache({.n_ctx = std::ssize(tokens)}));
        into.request_s += seconds_of(*session, tokens) / static_cast<double>(tests_.size());
        answers.push_back(labels_of(session->logits()));
        with_.tell("answering", std::ssize(answers), std::ssize(tests_));
    }
    return answers;
}

void PrefixQuestions::count(const Answers& answers, const Answers& full, PrefixResult& r) const {
    r.n = std::ssize(answers);
    for (size_t i = 0; i < answers.size(); ++i) {
        const PrefixTask::Item& test = asked_[i];
        const auto label = static_cast<size_t>(test.label);
        const bool is_right = best(answers[i]) == label;
        const bool full_is_right = best(full[i]) == label;
        r.n_right += is_right ? 1 : 0;
        r.n_same += best(answers[i]) == best(full[i]) ? 1 : 0;
        r.n_only_full += full_is_right && !is_right ? 1 : 0;
        r.n_only_this += is_right && !full_is_right ? 1 : 0;
        r.n_traced += test.is_traced ? 1 : 0;
        r.n_traced_right += test.is_traced && is_right ? 1 : 0;
        r.divergence += divergence(full[i], answers[i]) / static_cast<double>(r.n);
    }
}

}  // namespace palimpsest
