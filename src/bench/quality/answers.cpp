#include "bench/quality/answers.h"

#include <algorithm>
#include <chrono>

#include "engine/sampler.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

/// One answer as it is being written.
struct Writing {
    Session* session = nullptr;
    size_t index = 0;  // of the answer
    std::vector<TokenId> tokens = {};
};

bool is_finished(const Writing& w, const Answer& answer, const AskedSample& asked) {
    if (answer.n_tokens >= asked.sample.n_new || w.session->room() < 1) return true;
    return asked.metric.only_rises && asked.metric.score(answer.text, asked.sample) >= 1;
}

}  // namespace

void note_text(const std::string& text, const Sample& sample, const Metric& metric,
               QualityResult& to) {
    to.output = text;
    to.score = metric.score(text, sample);
    if (metric.predicted != nullptr) to.predicted = metric.predicted(text, sample);
}

std::vector<Answer> write_answers(std::span<Session* const> sessions, Batch& batch,
                                  const AskedSample& asked) {
    const Tokenizer& tokenizer = asked.tokenizer;
    std::vector<Sequence*> all;
    for (Session* s : sessions) {
        s->sequence().feed({{.tokens = {asked.rest.begin(), asked.rest.end()}}},
                           {.may_forget = false});
        all.push_back(&s->sequence());
    }
    batch.run(all);
    const auto start = Clock::now();
    // Always the likeliest.
    Sampler sampler({.never = asked.never}, tokenizer.n_vocab(), tokenizer.vocab());
    std::vector<Answer> answers(sessions.size());
    std::vector<Writing> open;
    for (size_t i = 0; i < sessions.size(); ++i) open.push_back({sessions[i], i});
    while (!open.empty()) {
        std::vector<Sequence*> next;
        std::erase_if(open, [&](Writing& w) {
            Answer& answer = answers[w.index];
            answer.seconds = std::chrono::duration<double>(Clock::now() - start).count();
            const TokenId token = sampler.pick(w.session->logits());
            if (tokenizer.ends_text(token)) return true;
            w.tokens.push_back(token);
            ++answer.n_tokens;
            answer.text = replace_invalid_utf8(tokenizer.decode(w.tokens));
            if (is_finished(w, answer, asked)) return true;
            w.session->sequence().accept(token);
            next.push_back(&w.session->sequence());
            return false;
        });
        batch.run(next);
    }
    return answers;
}

}  // namespace palimpsest
