#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"
#include "palimpsest/generation.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// Writes an answer with a sequence, token by token; somebody else runs the sequence.
class AnswerWriter {
 public:
    /// `tokenizer` may be nullptr: then there are ids and no text, and nothing ends it but its
    /// length. It must outlive the writer. Throws kInvalidArgument for options that cannot work:
    /// before anything is read, for a bad option must not cost a prefill.
    AnswerWriter(const Tokenizer* tokenizer, int64_t n_vocab, const AnswerOptions& options);

    /// `sequence` has read everything: picks the next token and, unless that ends the answer, has
    /// it read. Returns false when the answer is over.
    bool next(Sequence& sequence);
    /// What was written since the last call.
    [[nodiscard]] std::string take_text();
    /// Nobody wants more of it. An answer that the model has ended is as it was.
    void cancel();
    [[nodiscard]] bool is_over() const { return is_over_; }

    [[nodiscard]] const GenerateResult& result() const { return result_; }
    [[nodiscard]] GenerateResult& result() { return result_; }

 private:
    /// Passes text on, but holds back what may yet turn out to be the beginning of a stop text.
    class StopFilter {
     public:
        explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
        /// What may be shown after `more` has come; sets `stopped` if a stop text is complete.
        std::string push(std::string_view more, bool& stopped);
        std::string finish();
        /// The one that was complete.
        [[nodiscard]] const std::string& found() const { return found_; }

     private:
        [[nodiscard]] size_t longest_beginning() const;
        std::vector<std::string> stops_;
        std::string held_, found_;
    };

    void show(const std::string& text);
    void end(StopReason reason);
    void note_likelihood(TokenId token, std::span<const float> logits);

    const Tokenizer* tokenizer_;
    AnswerOptions options_;
    Sampler sampler_;
    std::optional<TextStream> stream_;
    StopFilter filter_;
    std::string fresh_;  // text that nobody took yet
    bool is_over_ = false;
    GenerateResult result_;
};

struct GenerateHooks {
    /// Whole UTF-8 pieces in order; returning false cancels.
    std::function<bool(std::string_view)> on_text = {};
    std::function<bool(int64_t done, int64_t total)> on_prefill = {};  // false cancels
    /// While a memory has the prompt repeated. False cancels, and leaves a session to be reset.
    std::function<bool(int64_t done, int64_t total)> on_rehearsal = {};
};

/// Reads the prompt and writes an answer. Running out of context while writing is kLength, not an
/// error.
GenerateResult generate(Session& session, const Tokenizer& tokenizer, std::vector<Segment> prompt,
                        const AnswerOptions& options, const GenerateHooks& hooks = {});

}  // namespace palimpsest
