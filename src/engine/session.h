#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/rehearsal.h"
#include "model/model.h"

namespace palimpsest {

/// Runs steps of lanes, each in one graph. Keeps the last graph and runs it again when the next
/// step has the same topology, which decoding has. Not thread-safe.
class Evaluator {
 public:
    /// Both must outlive the evaluator.
    Evaluator(const Model& model, Backend& backend) : model_(model), backend_(backend) {}

    /// One step of every lane. Returns the wanted rows of logits, lane after lane, n_vocab values
    /// each; valid until the next call. Throws what the memories' plan() throws (then nothing has
    /// happened), kInvalidArgument for tokens outside the vocabulary, kExhausted.
    std::span<const float> evaluate(std::span<const Lane> lanes);

 private:
    [[nodiscard]] std::vector<uint64_t> plan(std::span<const Lane> lanes) const;
    void build(std::span<const Lane> lanes);

    const Model& model_;
    Backend& backend_;
    std::vector<Lane> lanes_;  // those of the graph; its inputs read them
    std::vector<uint64_t> topology_;
    std::unique_ptr<Graph> graph_;
    Tensor logits_ = nullptr;
    std::vector<float> values_;
};

struct SessionOptions {
    int64_t n_chunk = 512;          // positions a step of prefill
    RehearsalTexts rehearsal = {};  // for memories that want it; empty: it repeats unasked
};

/// What a caller may want to know while a prompt is read.
struct FeedHooks {
    /// After every step: positions read of this prompt, and in all. Returning false stops there.
    std::function<bool(int64_t done, int64_t total)> on_progress = {};
    /// After every step of having a prompt repeated once it was read: positions repeated, and in
    /// all. Returning false stops there; nothing is cut then, and the session is good for reset().
    std::function<bool(int64_t done, int64_t total)> on_rehearsal = {};
    /// Every position's logits, in order.
    std::function<void(int64_t position, std::span<const float> logits)> on_logits = {};
    /// False: the prompt is read on top of what the memory holds, and nothing goes for it.
    bool may_forget = true;
};

/// One conversation: a model, a memory, a place in the sequence. Not thread-safe; sessions that
/// share a Backend take turns.
class Session {
 public:
    /// `model` and `backend` must outlive the session. A memory that has read before goes on from
    /// there; tokens() then has -1 for what it read.
    Session(const Model& model, Backend& backend, std::unique_ptr<ContextMemory> memory,
            const SessionOptions& options = {});

    /// Reads a prompt, n_chunk positions at a time. Returns false if a hook stopped it: what was
    /// read up to then stays read. Throws kInvalidArgument for an empty prompt and kExhausted,
    /// with nothing read, for one that does not fit into the context.
    bool feed(std::vector<Segment> prompt, const FeedHooks& hooks = {});
    bool feed(std::vector<TokenId> tokens, const FeedHooks& hooks = {});

    /// Takes one token as read; logits() then speak of the one after it.
    void accept(TokenId token);

    /// Over the vocabulary, of the next position. Valid until the next feed() or accept(), by
    /// whoever calls it.
    [[nodiscard]] std::span<const float> logits() const { return logits_; }
    [[nodiscard]] int64_t position() const { return position_; }
    /// Ids of all positions so far; -1 for a ready row.
    [[nodiscard]] std::span<const TokenId> tokens() const { return tokens_; }
    /// Positions that can still be read or written.
    [[nodiscard]] int64_t room() const { return memory_->room(); }
    [[nodiscard]] const ContextMemory& memory() const { return *memory_; }
    /// Forgets everything; the session is as new.
    void reset();

 private:
    bool rehearse(int64_t begin, int64_t end, bool is_prefill, const FeedHooks& hooks);
    bool rehearse_piece(int64_t begin, int64_t end, bool is_prefill, bool is_last,
                        const std::function<bool(int64_t done)>& goes_on);
    [[nodiscard]] int64_t read_chunk() const;
    void step(std::span<const TokenId> tokens, std::span<const float> rows, bool more,
              const FeedHooks& hooks);
    [[nodiscard]] int64_t length(const Segment& segment) const;
    [[nodiscard]] int64_t check_prompt(std::span<const Segment> prompt) const;
    void require_room(int64_t n) const;
    void note_read(std::span<const TokenId> tokens, int64_t n);
    friend class SessionBatch;

    const Model& model_;
    SessionOptions options_;
    std::unique_ptr<ContextMemory> memory_;
    Evaluator evaluator_;
    int64_t position_ = 0;
    std::vector<TokenId> tokens_;
    std::span<const float> logits_;
};

/// Several sessions of one model that read together, a step of each in one graph: weights are then
/// read once for all. Not thread-safe.
class SessionBatch {
 public:
    /// Both must outlive the batch.
    SessionBatch(const Model& model, Backend& backend)
        : n_vocab_(model.config().n_vocab), evaluator_(model, backend) {}

    /// All read the same tokens on top of what they hold: nothing is evicted for them. Throws
    /// kInvalidArgument for an empty prompt, kExhausted, with nothing read, if one has no room.
    void read(std::span<Session* const> sessions, std::span<const TokenId> tokens);

    /// Each takes one token of its own, as Session::accept() does.
    void accept(std::span<Session* const> sessions, std::span<const TokenId> tokens);

 private:
    void step(std::span<Session* const> sessions, std::span<const Lane> lanes);

    int64_t n_vocab_;
    Evaluator evaluator_;
};

}  // namespace palimpsest
