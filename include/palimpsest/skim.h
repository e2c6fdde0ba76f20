#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "palimpsest/conversation.h"
#include "palimpsest/latent_context.h"

#pragma GCC visibility push(default)

namespace palimpsest {

struct SkimTexts;

/// A document that is skimmed.
struct SkimDocument {
    std::string name;  // as citations say it
    std::string text;
};

/// A piece of a document that can be expanded.
struct SkimChunk {
    size_t document = 0;        // which
    size_t begin = 0, end = 0;  // bytes of it
    int64_t first_line = 1, last_line = 1;
    std::string text;
};

/// How documents are cut.
enum class ChunkRule {
    /// At line ends, within longer lines behind sentences, within longer sentences between words;
    /// nothing of the text is lost.
    kLines,
    /// As the published agent does it: sentences joined by one space, those that are too long uncut
    /// (arXiv:2606.09659, its code; section 5.2 of the notes).
    kSentences,
};

/// How rounds follow each other.
enum class SkimForm {
    kChat,    // one conversation: what was read stays read, and expanded chunks come as turns
    kRounds,  // a fresh prompt every round, as the published agent does it; what all have in common
              // is read once
};

/// Who picks the chunks to expand.
enum class SkimChooser {
    kModel,
    kWords,  // rare words of the question, before the model is asked: for models that were never
             // trained to ask
};

struct SkimOptions {
    ConversationOptions conversation = {};  // its system text and regions are the agent's own
    AnswerOptions answer = {};
    SkimForm form = SkimForm::kChat;
    SkimChooser chooser = SkimChooser::kModel;
    ChunkRule rule = ChunkRule::kLines;
    int64_t chunk_tokens = 512;  // most in one
    int64_t n_rounds = 5;        // most
    bool is_constrained = true;  // nothing but a directive can be written
    std::string prefix = {};     // stands before the document
};

/// What one round came to.
struct SkimRound {
    std::vector<int64_t> expanded = {};  // chunks shown after it, from 1 on
    bool is_forced = false;              // it answered too early, and was shown what it had named
    int64_t positions_read = 0;          // by the decoder
    int64_t tokens_written = 0;
    std::string written = {};
};

struct SkimResult {
    std::string answer;
    bool is_directive = false;  // it was given as an answer; false: it is all that was written
    bool is_cancelled = false;
    std::vector<int64_t> expanded;  // all, in the order of the document
    std::vector<SkimRound> rounds;
    int64_t n_source = 0;        // tokens of all documents
    int64_t n_latents = 0;       // that stand for them
    int64_t positions_read = 0;  // by the decoder, in all rounds
    size_t bytes_held = 0;       // by its memory, at the end
    /// Share of the tokens that the last prompt would have had without latents, and has not.
    double saved = 0;
};

/// Reads documents as latents, chunk by chunk, lets a model ask for the original text of some, and
/// answers from that ("End-to-End Context Compression at Scale", arXiv:2606.09659, section 6).
///
///     Skimmer skimmer(engine, latent, {{"report.txt", text}}, {});
///     const SkimResult r = skimmer.ask("Who signed it?");
///     for (const int64_t chunk : r.expanded) std::cout << skimmer.citation(chunk) << "\n";
class Skimmer {
 public:
    /// `engine` and `latent` must outlive it. Throws kInvalidArgument if there is nothing to read.
    Skimmer(const Engine& engine, const LatentContext& latent, std::vector<SkimDocument> documents,
            SkimOptions options);
    ~Skimmer();
    Skimmer(const Skimmer&) = delete;
    Skimmer& operator=(const Skimmer&) = delete;

    [[nodiscard]] const std::vector<SkimChunk>& chunks() const { return chunks_; }
    [[nodiscard]] const std::vector<SkimDocument>& documents() const { return documents_; }
    /// The original text of a chunk, from 1 on: what a tool `expand` gives. Throws kInvalidArgument
    /// if there is none of that number.
    [[nodiscard]] const std::string& expand(int64_t chunk) const;
    /// Where a chunk stands, "report.txt:12-20". Throws as expand() does.
    [[nodiscard]] std::string citation(int64_t chunk) const;

    /// After every step: what goes on, and positions done of how many. False cancels.
    using OnProgress = std::function<bool(const Generation::Progress&)>;
    /// Throws as Conversation::ask() does.
    [[nodiscard]] SkimResult ask(const std::string& question, const OnProgress& on_progress = {});

 private:
    class Talk;
    class ChatTalk;
    class RoundsTalk;

    [[nodiscard]] std::unique_ptr<Talk> begin(const std::string& question,
                                              const OnProgress& on_progress) const;
    [[nodiscard]] SkimTexts texts(int64_t rounds_left) const;
    [[nodiscard]] std::vector<TextPart> document() const;
    [[nodiscard]] std::string original(const std::vector<int64_t>& chunks) const;
    void finish(const Talk& talk, SkimResult& result) const;

    const Engine& engine_;
    const LatentContext& latent_;
    std::vector<SkimDocument> documents_;
    SkimOptions options_;
    std::shared_ptr<const LatentRegions> regions_;
    std::vector<SkimChunk> chunks_;
    // Of all chunks: tokens of the decoder's and of the encoder's, latents.
    int64_t n_source_ = 0, n_encoded_ = 0, n_latents_ = 0;
};

}  // namespace palimpsest

#pragma GCC visibility pop
