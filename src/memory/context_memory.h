#pragma once

#include <cstdint>
#include <iosfwd>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/graph.h"
#include "core/types.h"
#include "memory/rotation.h"
#include "palimpsest/report.h"

namespace palimpsest {

/// Positions that are repeated at once, and what may ask for that beside them.
inline constexpr int64_t kMostRepeated = 2048, kMostAsking = 512;

/// What a step of a rehearsal repeats.
struct Rehearsal {
    int64_t begin = 0, end = 0;   // positions in the input that are repeated
    bool ends_piece = false;      // what was read of the repetition so far is dropped after it
    bool ends_rehearsal = false;  // no other piece follows
};

/// What is run in a rehearsal: what was just read, once more, or the question that is asked about
/// it, if one is known.
enum class Rehearsed { kNothing, kRepetition, kQuestion };

/// When a memory wants to be rehearsed.
enum class Rehearses { kNever, kAfterEachStep, kAfterThePrompt };

/// What becomes of a step's positions.
enum class StepKind {
    kRead,       // they are part of the sequence; what must go for them goes afterwards
    kAside,      // they are read on top of what is held, and stay; nothing goes for them
    kRehearsal,  // they repeat positions that were just read, so that the memory can tell which
                 // entries a repetition needs; nothing of them stays
};

/// The positions one graph evaluation adds to one sequence.
struct Step {
    int64_t n = 0;            // new positions, >= 1
    int64_t first_pos = 0;    // RoPE position of the first one
    bool is_prefill = false;  // more input is known to follow
    StepKind kind = StepKind::kRead;
    Rehearsal rehearsal = {};  // of that kind only
    bool is_rehearsed = true;  // does a rehearsal follow, for a memory that wants them?
};

/// What one attention layer hands to the memory of one sequence. Shapes in ggml order.
struct AttentionInputs {
    int64_t layer = 0;
    Tensor hidden = nullptr;  // [n_embd, n]               f32, normed block input
    Tensor q = nullptr;       // [d_head, n_head,    n]    f32, after RoPE
    Tensor k = nullptr;       // [d_head, n_head_kv, n]    f32, after RoPE
    Tensor v = nullptr;       // [d_head, n_head_kv, n]    f32
    Tensor q_raw = nullptr;   // q before RoPE
    Tensor k_raw = nullptr;   // k before RoPE
    float scale = 1.0F;       // usually 1 / sqrt(d_head)
    bool may_round = false;   // to bf16, as the model's products of this step do
};

/// A layer that stores keys and values, and attends to them.
struct AttentionLayer {
    int64_t n_head_kv = 0, d_head = 0;
    int64_t window = 0;      // last positions it sees; 0: all
    bool has_sinks = false;  // each query head has a learned logit of its own in the softmax
};

/// A layer that carries a state of fixed size from position to position, instead of entries.
struct RecurrentLayer {
    std::string_view kind = {};            // its rule, e.g. "gated-delta"; outlives the shape
    int64_t n_head = 0;                    // states, each [n_rows][n_columns]
    int64_t n_key_head = 0;                // queries and keys; several states share one
    bool alternates = false;               // state j has key head j mod n_key_head; false: states
                                           // of one key head stand together
    int64_t n_rows = 0, n_columns = 0;     // of keys, of values
    int64_t n_channels = 0, n_before = 0;  // of a short convolution: what it is given, and how many
                                           // earlier positions it reaches back; 0: there is none

    [[nodiscard]] int64_t key_head(int64_t head) const {
        return alternates ? head % n_key_head : head / (n_head / n_key_head);
    }
    /// The place that published checkpoints give a state: those of one key head together.
    [[nodiscard]] int64_t published_head(int64_t head) const {
        const int64_t group = n_head / n_key_head;
        return alternates ? (head % n_key_head) * group + head / n_key_head : head;
    }
};

using LayerShape = std::variant<AttentionLayer, RecurrentLayer>;

/// What a memory must know of a model before it meets one.
struct MemoryShape {
    int64_t n_layer = 0;
    int64_t n_head = 0, n_head_kv = 0, d_head = 0;  // of layers that attend
    std::vector<int64_t>
        windows;              // a layer's last positions it sees; 0: all. Empty: all layers all
    int64_t n_embd = 0;       // width of ready rows; 0: it is given none
    int64_t n_ctx_train = 0;  // positions the model was trained for; 0: unknown
    Rotation rotation = {};   // of keys in layers that see all
    Rotation rotation_window = {};  // of keys in layers with a window
    /// Every layer by itself, n_layer of them, and then `windows` is empty. Empty: all attend, and
    /// are alike but for `windows`.
    std::vector<LayerShape> layers = {};

    [[nodiscard]] LayerShape layer(int64_t i) const;
    [[nodiscard]] bool attends(int64_t i) const {
        return layers.empty() || std::holds_alternative<AttentionLayer>(at(i));
    }
    /// 0 for a layer that does not attend.
    [[nodiscard]] int64_t window(int64_t i) const {
        if (layers.empty()) return windows.empty() ? 0 : windows[static_cast<size_t>(i)];
        const auto* of = std::get_if<AttentionLayer>(&at(i));
        return of == nullptr ? 0 : of->window;
    }
    /// Has any layer a window?
    [[nodiscard]] bool slides() const;
    [[nodiscard]] const Rotation& rotation_of(int64_t i) const {
        return window(i) > 0 ? rotation_window : rotation;
    }
    [[nodiscard]] int64_t group() const { return n_head / n_head_kv; }

 private:
    [[nodiscard]] const LayerShape& at(int64_t i) const { return layers[static_cast<size_t>(i)]; }
};

/// For memories that hold entries of every layer in the same way: what the first layer has that
/// they cannot serve (a recurrence, learned sinks, heads unlike the others'); empty: there is none.
[[nodiscard]] std::string unlike_layer(const MemoryShape& shape);

/// What one recurrent layer hands to the memory of one sequence. Shapes in ggml order, all f32.
struct RecurrenceInputs {
    int64_t layer = 0;
    Tensor hidden = nullptr;  // [n_embd, n], normed block input
    Tensor q = nullptr;       // [n_rows,    n_key_head, n], reads the state
    Tensor k = nullptr;       // [n_rows,    n_key_head, n], where v is written
    Tensor v = nullptr;       // [n_columns, n_head, n]
    Tensor decay = nullptr;   // [n_head, n]: log of the share of the state that stays, <= 0;
                              // nullptr: all of it
    Tensor write = nullptr;   // [n_head, n]: how strongly v is written; nullptr: 1
    Tensor skip = nullptr;    // [n_head]: how much of v goes past the state, into what is returned
};

struct MemoryUsage {
    int64_t positions_seen = 0;  // fed since reset()
    int64_t entries_held = 0;    // largest count over layers and heads
    size_t bytes = 0;            // memory owned, bookkeeping included
};

/// How a sequence remembers its past. One object per sequence; not thread-safe.
///
/// Called in this order and never otherwise:
///   admit() once a prompt; then for each step plan(), attend() or recur() once a layer, settle().
/// plan() may be called again instead of going on: the last call counts. If the graph fails
/// to run, only reset() may follow.
class ContextMemory {
 public:
    ContextMemory();
    virtual ~ContextMemory() = default;
    ContextMemory(const ContextMemory&) = delete;
    ContextMemory& operator=(const ContextMemory&) = delete;

    /// Of this object and no other that this process ever makes, wherever it lies: what tells
    /// graphs of one memory from those of another.
    [[nodiscard]] uint64_t serial() const { return serial_; }

    /// What really enters the model. Default: the prompt as it is.
    virtual std::vector<Segment> admit(std::vector<Segment> prompt) { return prompt; }

    /// Host side, before the graph is built: decide where the new positions go.
    /// Returns a key; equal keys promise an equal graph, so the last one may be reused.
    /// Throws kExhausted if they cannot be held, and is then without effect.
    virtual uint64_t plan(const Step& step) = 0;

    /// Graph side: store k and v, answer q. Returns [d_head * n_head, n] f32.
    /// Called when the graph is built; a reused graph runs again without it.
    virtual Tensor attend(Graph& g, const AttentionInputs& in) = 0;

    /// Graph side, of a recurrent layer: position after position, takes k and v into the layer's
    /// state and reads it with q, by the rule that the layer's kind names. Returns
    /// [n_columns * n_head, n] f32. As attend() otherwise. Default: throws kUnsupported.
    virtual Tensor recur(Graph& g, const RecurrenceInputs& in);

    /// Graph side, of a recurrent layer with a short convolution, before recur(): `channels`
    /// [n_channels, n] f32 with those of the n_before last positions in front, zeros where there is
    /// none. Returns [n_channels, n_before + n] f32. Default: throws kUnsupported.
    virtual Tensor with_before(Graph& g, int64_t layer, Tensor channels);

    /// Host side, after the graph has run: read back what attend() marked as output; forget.
    virtual void settle(const Step& step) = 0;

    /// Forgets everything; the object is as new.
    virtual void reset() = 0;

    [[nodiscard]] virtual MemoryUsage usage() const = 0;

    /// The same in full, and what was let go.
    [[nodiscard]] virtual MemoryReport report() const = 0;

    /// Positions in the input of the entries a KV head holds, ascending; empty for a layer that
    /// holds none.
    [[nodiscard]] virtual std::span<const int32_t> positions(int64_t /*layer*/,
                                                             int64_t /*head*/) const {
        return {};
    }

    /// A recurrent layer's states [n_head][n_rows][n_columns]; empty for one that attends.
    [[nodiscard]] virtual std::span<const float> states(int64_t /*layer*/) const { return {}; }

    /// RoPE position of the next one to come. A memory that renumbers what it holds says so here.
    [[nodiscard]] virtual int64_t next_position() const { return usage().positions_seen; }

    /// Whoever feeds it runs a Rehearsal of what was read, if it wants one.
    [[nodiscard]] virtual Rehearses rehearses() const { return Rehearses::kNever; }
    [[nodiscard]] virtual Rehearsed rehearsed() const { return Rehearsed::kNothing; }

    /// How many more positions it can take in.
    [[nodiscard]] virtual int64_t room() const { return std::numeric_limits<int64_t>::max(); }

    /// Can it go back to an earlier position as if it had read no further? Not once it lets entries
    /// go, nor where a state took in what it read.
    [[nodiscard]] virtual bool can_rewind() const { return false; }
    /// Between two steps: forgets positions from `position` on, of those seen. If can_rewind().
    virtual void rewind(int64_t position);

    /// The state between two steps. Default: throws kUnsupported.
    virtual void save(std::ostream& out) const;
    /// Throws kCorrupt if `in` was not written by the same kind with the same options.
    virtual void load(std::istream& in);

 private:
    uint64_t serial_;
};

}  // namespace palimpsest
