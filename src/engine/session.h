#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace palimpsest {

using SessionOptions = SequenceOptions;

/// What a caller may want to know while a prompt is read.
struct FeedHooks {
    /// After every step: positions read of this prompt, and in all. Returning false stops there.
    std::function<bool(int64_t done, int64_t total)> on_progress = {};
    /// After every step of having a prompt repeated once it was read: positions repeated, and in
    /// all. Returning false stops there; nothing is cut then, and the session is good for reset().
    std::function<bool(int64_t done, int64_t total)> on_rehearsal = {};
    /// Every position's logits, in order.
    std::function<void(int64_t position, std::span<const float> logits)> on_logits = {};
    /// And every position's hidden state after the last norm.
    std::function<void(int64_t position, std::span<const float> hidden)> on_hidden = {};
    /// False: the prompt is read on top of what the memory holds, and nothing goes for it.
    bool may_forget = true;
    std::vector<TokenId> question = {};  // FeedOptions::question
};

/// One sequence, run alone, step by step or a prompt at once. Not thread-safe; sessions that share
/// a Backend take turns.
class Session {
 public:
    /// `model` and `backend` must outlive the session.
    Session(const Model& model, Backend& backend, std::unique_ptr<ContextMemory> memory,
            const SessionOptions& options = {});

    /// Runs one lane of the sequence, which must want one. Throws what its memory refused.
    void step();

    /// Reads a prompt, n_chunk positions at a time. Returns false if a hook stopped it: what was
    /// read up to then stays read. Throws kInvalidArgument for an empty prompt and kExhausted,
    /// with nothing read, for one that does not fit into the context.
    bool feed(std::vector<Segment> prompt, const FeedHooks& hooks = {});
    bool feed(std::vector<TokenId> tokens, const FeedHooks& hooks = {});

    /// Takes one token as read; logits() then speak of the one after it.
    void accept(TokenId token);

    [[nodiscard]] Sequence& sequence() { return sequence_; }
    [[nodiscard]] const Sequence& sequence() const { return sequence_; }

    // As the sequence has them.
    [[nodiscard]] std::span<const float> logits() const { return sequence_.logits(); }
    [[nodiscard]] int64_t position() const { return sequence_.position(); }
    [[nodiscard]] const ReadTokens& tokens() const { return sequence_.tokens(); }
    [[nodiscard]] int64_t room() const { return sequence_.room(); }
    [[nodiscard]] const ContextMemory& memory() const { return sequence_.memory(); }
    void reset() { sequence_.reset(); }

 private:
    [[nodiscard]] LaneResult run();

    const Model& model_;
    Sequence sequence_;
    Evaluator evaluator_;
};

}  // namespace palimpsest
