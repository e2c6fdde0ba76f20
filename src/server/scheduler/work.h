#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "palimpsest/memory_choice.h"
#include "server/api_error.h"

namespace palimpsest {

/// How much an answer says of its memory.
enum class MemoryDetail { kNone, kSummary, kSpans };

/// A conversation as its client knows it, for who comes back later.
struct Transcript {
    std::string title = {};
    std::string messages = {};  // a JSON list, as they were sent
    int64_t n_messages = 0;     // of them
    /// An answer as one more of them.
    std::function<std::string(const GenerateResult&)> answer = {};
};

/// What a request wants of the model.
struct Work {
    std::vector<Segment> prompt = {};  // the whole conversation, in tokens
    MemoryChoice memory = {};
    /// One for every answer that is wanted. None: the mean of hidden states is.
    std::vector<std::unique_ptr<AnswerWriter>> writers = {};
    int64_t most_tokens = 0;   // of one answer
    std::string owner = {};    // whose sequences it may go on from, and who may go on from its
    std::string session = {};  // what its client calls the conversation; empty: nothing
    std::string id = {};       // of the response
    std::string from = {};     // our id of a conversation that is gone on with; empty: any
    bool is_kept = true;       // may others of its owner go on from it?
    bool is_private = false;   // if so, it is neither listed nor saved
    MemoryDetail detail = MemoryDetail::kSummary;
    Transcript transcript = {};
    std::chrono::steady_clock::time_point came = std::chrono::steady_clock::now();
};

/// How far a prompt has been read.
struct WorkProgress {
    int64_t read = 0, total = 0;  // tokens
    int64_t held = 0;             // entries a head, at most
};

/// What a memory holds when an answer is there.
struct WorkMemory {
    std::string policy = {}, budget = {};
    /// Tokens; but for the first, by what became of them.
    int64_t tokens_in = 0, kept = 0, partly = 0, latent = 0, dropped = 0;
    int64_t bytes = 0, peak_bytes = 0;
    std::string report = {};  // JSON; empty: none was wanted
};

/// What came of a request.
struct WorkResult {
    int64_t n_prompt = 0, n_cached = 0;  // tokens; the latter were held already
    std::vector<GenerateResult> answers = {};
    std::vector<float> mean_hidden = {};
    WorkMemory memory = {};
    double waited_s = 0, read_s = 0, first_token_s = 0, written_s = 0;
};

/// What an answer has more than before.
struct WorkPiece {
    size_t choice = 0;
    std::string text = {};
    std::vector<TokenLikelihood> likelihoods = {};
};

/// Who is told. Called on the scheduler's thread, which must not wait for anything.
class WorkListener {
 public:
    WorkListener() = default;
    virtual ~WorkListener() = default;
    WorkListener(const WorkListener&) = delete;
    WorkListener& operator=(const WorkListener&) = delete;

    virtual void on_progress(const WorkProgress& progress) = 0;
    virtual void on_piece(WorkPiece piece) = 0;
    // One of these is the last.
    virtual void on_done(WorkResult result) = 0;
    virtual void on_failed(const ApiError& error) = 0;
};

}  // namespace palimpsest
