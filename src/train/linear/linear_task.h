#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "text/tokenizer.h"

namespace palimpsest {

// What models with recurrent layers learn, and are examined in: recalling pairs, finding needles in
// documentation, telling the next byte of it.

/// Equally long sequences, and what is to be told of them.
struct LinearBatch {
    int64_t n_sequences = 0, length = 0;
    std::vector<int64_t> tokens;   // [n_sequences][length]
    std::vector<int64_t> targets;  // alike: the token that is to be told at a position; -1: none
    std::vector<float> weights;    // alike: how much a target counts in what is learnt
    std::vector<uint64_t> sets;    // alike: the sets that a target is counted in, bit by bit
    std::vector<uint8_t> opens;    // alike: does other content begin here?

    LinearBatch() = default;
    LinearBatch(int64_t n_sequences, int64_t length);
    /// Place of a sequence's position in all of these.
    [[nodiscard]] size_t at(int64_t sequence, int64_t position) const {
        return static_cast<size_t>(sequence * length + position);
    }
    void set_target(size_t place, int64_t token, uint64_t in_sets, float weight = 1);
};

struct LinearTaskOptions {
    std::string name = "recall";              // one of linear_task_kinds()
    int64_t length = 128;                     // of sequences that are learnt
    int64_t n_examined = 128;                 // sequences of every set
    int64_t n_vocab = 512;                    // recall: as many keys as values
    std::vector<int64_t> pairs = {};          // recall: any of these; empty: 4, 8 .. length / 4
    std::vector<std::string> documents = {};  // texts to learn from
    std::vector<std::string> held_out = {};   // and to be examined in
    double needle_share = 0.2;                // needles: of sequences with some
};

/// Everything random follows from what is handed in.
class LinearTask {
 public:
    LinearTask() = default;
    virtual ~LinearTask() = default;
    LinearTask(const LinearTask&) = delete;
    LinearTask& operator=(const LinearTask&) = delete;

    [[nodiscard]] virtual int64_t n_vocab() const = 0;
    [[nodiscard]] virtual LinearBatch learnt(int64_t n_sequences, Random& random) const = 0;
    /// Names of sets, by bit.
    [[nodiscard]] virtual const std::vector<std::string>& sets() const = 0;
    /// The same ones every time, at most `n_sequences` in a batch.
    [[nodiscard]] virtual std::vector<LinearBatch> examined(int64_t n_sequences) const = 0;
    /// Tells one that gives the same sequences from others.
    [[nodiscard]] virtual uint64_t fingerprint() const = 0;
    /// Of a token's text.
    [[nodiscard]] virtual int64_t bytes_of(int64_t /*token*/) const { return 1; }
};

/// A line a task.
struct LinearTaskKind {
    std::string_view name, summary;
    /// `tokenizer`: of the model that learns; nullptr: a token is a byte. It must outlive the task.
    std::unique_ptr<LinearTask> (*make)(const LinearTaskOptions& options,
                                        const Tokenizer* tokenizer);
};
[[nodiscard]] std::span<const LinearTaskKind> linear_task_kinds();

/// Of a task's options, but for its texts.
[[nodiscard]] uint64_t fingerprint(const LinearTaskOptions& options);

/// Throws kNotFound for an unknown name, kInvalidArgument for options that contradict each other,
/// and as reading documents does.
[[nodiscard]] std::unique_ptr<LinearTask> make_linear_task(const LinearTaskOptions& options,
                                                           const Tokenizer* tokenizer);

// One a file.
std::unique_ptr<LinearTask> make_recall_task(const LinearTaskOptions& options,
                                             const Tokenizer* tokenizer);
std::unique_ptr<LinearTask> make_needle_task(const LinearTaskOptions& options,
                                             const Tokenizer* tokenizer);
std::unique_ptr<LinearTask> make_text_task(const LinearTaskOptions& options,
                                           const Tokenizer* tokenizer);

// ---- texts as tokens ----

inline constexpr int64_t kByteVocabulary = 259;  // bytes, and what begins and ends a text, and pads

/// The texts of a task as tokens: a model's own, or bytes.
class LinearTexts {
 public:
    /// Lines of the held-out texts that the others have too are left out of them. `tokenizer` may
    /// be nullptr; it must outlive this. Throws kInvalidArgument if either part has no more than
    /// `length` tokens, and as reading documents does.
    LinearTexts(const LinearTaskOptions& options, const Tokenizer* tokenizer, int64_t length);

    [[nodiscard]] int64_t n_vocab() const;
    [[nodiscard]] int64_t bytes_of(int64_t token) const;
    [[nodiscard]] std::vector<int64_t> tokens_of(const std::string& text) const;
    [[nodiscard]] uint64_t fingerprint() const;

    /// Fills a sequence from any place of what is learnt, or of what is held out, and returns the
    /// token after it.
    int64_t cut(LinearBatch& batch, int64_t sequence, bool held_out, Random& random) const;

 private:
    const Tokenizer* tokenizer_;
    std::vector<int64_t> learnt_, held_out_;
};

}  // namespace palimpsest
