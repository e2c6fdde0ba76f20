#pragma once

#include <iosfwd>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/evaluator.h"
#include "engine/read_tokens.h"
#include "engine/rehearsal.h"

namespace palimpsest {

struct SequenceOptions {
    int64_t n_chunk = 512;          // positions a step of reading
    RehearsalTexts rehearsal = {};  // for memories that want it; empty: it repeats unasked
    std::string model = {};         // fingerprint of the model, for saved states
};

struct FeedOptions {
    /// False: the prompt is read on top of what the memory holds, and nothing goes for it.
    bool may_forget = true;
    /// Logits of every position are wanted, not of the last alone; steps are shorter then.
    bool all_logits = false;
    bool hidden = false;       // and hidden states after the last norm, of every position
    bool mean_hidden = false;  // the mean of these is wanted, over all positions
    /// What is asked about the prompt, for memories that keep what it attends to. Empty: what
    /// follows the last of its segments that are context; none of them: nothing is.
    std::vector<TokenId> question = {};
};

/// Tokens behind the last segment that is context, of a prompt that has one.
[[nodiscard]] std::vector<TokenId> question_in(std::span<const Segment> prompt);

/// One conversation's state: what was read, the memory, what is to be read next. It says what it
/// wants, lane after lane, and takes what came of it; a Session runs one alone, a Batch many in one
/// graph. What a memory wants to have repeated is a lane like any other. Not thread-safe.
class Sequence {
 public:
    enum class Activity { kNothing, kReading, kRepeating, kWriting };
    struct Progress {
        Activity activity = Activity::kNothing;
        int64_t done = 0, total = 0;  // positions of the prompt, or of its repetition
    };

    /// `config` must outlive the sequence. A memory that has read before goes on from there; of
    /// what it read nothing is known.
    Sequence(const ModelConfig& config, std::unique_ptr<ContextMemory> memory,
             SequenceOptions options = {});

    /// Has a prompt read. Throws kInvalidArgument for an empty one or tokens that do not exist,
    /// kExhausted if it does not fit into the context; nothing has happened then.
    void feed(std::vector<Segment> prompt, const FeedOptions& options = {});
    /// Has one token read, as written.
    void accept(TokenId token);
    /// Leaves the rest of what was to be read unread. A repetition cannot be left: the sequence has
    /// failed then, and is good for reset() only.
    void cancel();

    /// Is there more to read?
    [[nodiscard]] bool wants() const { return progress().activity != Activity::kNothing; }
    [[nodiscard]] Progress progress() const;
    /// What is to be run next, of at most `limit` positions. It refers to this object, and lasts
    /// until took(). Throws what making rows throws that are still to come: the sequence wants
    /// nothing then.
    [[nodiscard]] Lane next_lane(int64_t limit = std::numeric_limits<int64_t>::max());
    /// What came of it.
    void took(const LaneResult& result);

    /// Is what comes next, if anything, not a repetition of the step that was just read?
    [[nodiscard]] bool is_between_steps() const { return !repetition_ || repetition_->is_shown; }

    /// Why what was to be read was not: tokens or memory refused it. Until something else is fed; a
    /// memory that broke, until reset().
    [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }

    /// Over the vocabulary, of the next position; its own until more is read. Empty: none were
    /// wanted.
    [[nodiscard]] std::span<const float> logits() const { return logits_; }
    /// Of the prompt that was read last, n_embd values; empty if it was not wanted.
    [[nodiscard]] std::span<const float> mean_hidden() const { return mean_hidden_; }
    [[nodiscard]] int64_t position() const { return tokens_.n_positions(); }
    /// Values in a ready row.
    [[nodiscard]] int64_t row_width() const { return config_.n_embd; }
    [[nodiscard]] const ReadTokens& tokens() const { return tokens_; }
    /// Positions that can still be read or written.
    [[nodiscard]] int64_t room() const { return memory_->room(); }
    [[nodiscard]] const ContextMemory& memory() const { return *memory_; }
    /// Tells it from every other sequence of this process.
    [[nodiscard]] uint64_t serial() const { return memory_->serial(); }
    /// Can it go back, as its memory says, or for want of anything to go back from?
    [[nodiscard]] bool can_rewind() const { return memory_->can_rewind(); }
    /// Between two turns: as if it had read no further than `position`, for which it wants a token
    /// then. If can_rewind().
    void rewind(int64_t position);
    /// Forgets everything; it is as new.
    void reset();

    /// The state between two steps: the model it is of, the tokens, the memory. Throws
    /// kInvalidArgument while there is more to read.
    void save(std::ostream& out) const;
    /// Throws kInvalidArgument if it was saved with another model, and is then as it was; kCorrupt
    /// if it does not fit, and is then as new.
    void load(std::istream& in);

 private:
    /// A rehearsal of positions [begin, end), piece after piece.
    struct Repetition {
        int64_t begin = 0, end = 0;
        bool is_prefill = false;           // more of the prompt follows
        bool is_shown = false;             // as an activity of its own
        int64_t piece = 0;                 // where the running piece begins
        std::vector<Segment> asking = {};  // what is read for it
        int64_t length = 0, done = 0;      // of `asking`, positions
    };
    struct Read {  // ready rows that may have to be repeated
        int64_t begin = 0;
        std::vector<float> rows = {};
    };

    void begin_anew();
    [[nodiscard]] Rehearses rehearses() const;
    [[nodiscard]] bool asks_question() const;
    void set_question(std::span<const Segment> prompt);
    [[nodiscard]] int64_t length(const Segment& segment) const;
    [[nodiscard]] int64_t check_prompt(std::span<const Segment> prompt) const;
    [[nodiscard]] int64_t read_chunk() const;
    void require_room(int64_t n) const;
    [[nodiscard]] std::vector<Run> runs(std::span<const Segment> of, int64_t from, int64_t n) const;
    [[nodiscard]] Lane reading_lane(int64_t limit);
    [[nodiscard]] Lane rehearsal_lane(int64_t limit);
    void begin_repetition(int64_t begin, int64_t end, bool is_prefill, bool is_shown);
    void begin_piece();
    void end_piece();
    [[nodiscard]] int64_t piece_end() const;
    [[nodiscard]] std::vector<Segment> repetition_of(int64_t begin, int64_t end) const;
    void took_repetition(int64_t n);
    void add_hidden(std::span<const float> rows);
    void note_read(int64_t from, int64_t n);
    void note_rows(const Segment& s, int64_t from, int64_t n);
    void forget_prompt();

    const ModelConfig& config_;
    SequenceOptions options_;
    std::unique_ptr<ContextMemory> memory_;
    ReadTokens tokens_;
    std::vector<Read> rows_;  // of a memory that rehearses
    std::vector<float> logits_, mean_hidden_;
    std::optional<Error> failure_;
    bool is_broken_ = false;

    std::vector<Segment> prompt_;  // neighbours of one form joined; empty: nothing is to be read
    FeedOptions how_;
    bool is_written_ = false;                   // the prompt is a token of the answer
    int64_t total_ = 0, done_ = 0, start_ = 0;  // positions of the prompt; position before it
    int64_t pending_ = 0;                       // positions of the lane that was handed out
    std::optional<Repetition> repetition_;
};

}  // namespace palimpsest
