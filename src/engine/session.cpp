#include "engine/session.h"

namespace palimpsest {

namespace {

/// Calls `hook` with every row of `rows`.
void tell_rows(const std::function<void(int64_t, std::span<const float>)>& hook, int64_t position,
               std::span<const float> rows, int64_t width) {
    if (!hook) return;
    const auto n = static_cast<size_t>(width);
    for (size_t at = 0; at < rows.size(); at += n) hook(position++, rows.subspan(at, n));
}

}  // namespace

Session::Session(const Model& model, Backend& backend, std::unique_ptr<ContextMemory> memory,
                 const SessionOptions& options)
    : model_(model),
      sequence_(model.config(), std::move(memory), options),
      evaluator_(model, backend) {}

LaneResult Session::run() {
    const Lane lane = sequence_.next_lane();
    LaneResult result;
    try {
        result = evaluator_.step(std::span(&lane, 1)).front();
    } catch (const Error& e) {
        sequence_.took({.failure = e, .is_broken = true});
        throw;
    }
    sequence_.took(result);
    if (result.failure) throw Error(*result.failure);
    return result;
}

void Session::step() { static_cast<void>(run()); }

bool Session::feed(std::vector<TokenId> tokens, const FeedHooks& hooks) {
    std::vector<Segment> prompt(1);
    prompt.front().tokens = std::move(tokens);
    return feed(std::move(prompt), hooks);
}

bool Session::feed(std::vector<Segment> prompt, const FeedHooks& hooks) {
    sequence_.feed(std::move(prompt), {.may_forget = hooks.may_forget,
                                       .all_logits = static_cast<bool>(hooks.on_logits),
                                       .hidden = static_cast<bool>(hooks.on_hidden),
                                       .question = hooks.question});
    while (sequence_.wants()) {
        const int64_t position = sequence_.position();
        const Sequence::Progress before = sequence_.progress();
        const LaneResult result = run();
        const Sequence::Progress now = sequence_.progress();
        tell_rows(hooks.on_logits, position, result.logits, model_.config().n_vocab);
        tell_rows(hooks.on_hidden, position, result.hidden, model_.config().n_embd);
        const bool is_repeating = before.activity == Sequence::Activity::kRepeating;
        if (!is_repeating && !sequence_.is_between_steps()) continue;
        const auto& hook = is_repeating ? hooks.on_rehearsal : hooks.on_progress;
        const bool goes_on = now.activity == before.activity;
        const bool is_wanted = !hook || hook(goes_on ? now.done : before.total, before.total);
        // A repetition that has come to its end cannot be stopped any more.
        if (is_wanted || (is_repeating && !sequence_.wants())) continue;
        sequence_.cancel();
        return false;
    }
    return true;
}

void Session::accept(TokenId token) {
    sequence_.accept(token);
    step();
}

}  // namespace palimpsest
