#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/runtime.h"
#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/load.h"
#include "support/golden.h"

namespace palimpsest::testing {

/// A model too small to say anything, and complete in every part. Weights are random and the same
/// for the same options on every machine. It has no vocabulary: it runs from token ids.
struct TinyModelOptions {
    /// llama, gemma3, mamba2, qwen35, qwen35moe, qwen3moe, qwen3next, granite, granitemoe or
    /// granitehybrid
    std::string architecture = "llama";
    int64_t n_layer = 2, n_head = 4, n_head_kv = 2, d_head = 16;
    int64_t n_ctx = 256;
    int64_t window = 8;                    // gemma3: positions that a sliding layer sees
    int64_t window_period = 2;             // gemma3, qwen35: every so many-th layer sees everything
    int64_t n_state = 4, n_state_key = 2;  // mamba2, qwen35: recurrent heads, and their keys
    int64_t d_state_key = 16, d_state = 16;   // channels of keys and values; qwen35: equal
    int64_t n_expert = 0, n_expert_used = 2;  // of families that may have some; 0: as they must
    bool is_legacy = false;                   // qwen3next: as its first converter wrote it
    uint32_t seed = 1;
    ggml_type weights = GGML_TYPE_F32;  // of matrices whose rows are whole blocks of it
    Reading reading = Reading::kAuto;
};

inline constexpr int64_t kTinyVocab = 40;
inline constexpr int64_t kTinyWidth = 32;

/// The bytes of its GGUF file.
std::string tiny_model_bytes(const TinyModelOptions& options = {});

/// The file itself, for one test.
TemporaryFile tiny_model_file(const TinyModelOptions& options = {});

/// The same with a byte-level BPE vocabulary and a ChatML template, as add_bpe_vocabulary() has
/// them: it answers nonsense, and at once.
std::string speaking_model_bytes(const TinyModelOptions& options = {});

/// Random token ids that the model knows.
std::vector<TokenId> tiny_tokens(int64_t n, uint32_t seed = 1);

/// The model, loaded, with a backend to run it.
class TinyModel {
 public:
    explicit TinyModel(const TinyModelOptions& options = {}, int n_threads = 1);

    [[nodiscard]] Backend& backend() { return backend_; }
    [[nodiscard]] const Model& model() const { return loaded_.model(); }
    [[nodiscard]] const LoadedModel& loaded() const { return loaded_; }
    /// Chunks of 512 positions.
    [[nodiscard]] const Runtime& runtime() const { return runtime_; }
    [[nodiscard]] MemoryShape shape() const { return loaded_.config().memory_shape(); }

    /// A memory of the first kind that suits, f32 entries if nothing else is said.
    [[nodiscard]] std::unique_ptr<ContextMemory> memory(
        ggml_type entries = GGML_TYPE_F32, AttentionPath path = AttentionPath::kFused) const;
    /// A session over `memory`; with chunks of n_chunk positions.
    [[nodiscard]] Session session(std::unique_ptr<ContextMemory> memory, int64_t n_chunk = 512);
    [[nodiscard]] Session session(int64_t n_chunk = 512) { return session(memory(), n_chunk); }

 private:
    int64_t n_ctx_;
    TemporaryFile file_;
    Backend backend_;
    LoadedModel loaded_;
    Runtime runtime_;
};

/// Logits of every position of a prompt, row after row.
std::vector<float> all_logits(Session& session, const std::vector<TokenId>& tokens);

/// The likeliest token, n times, each read before the next is picked.
std::vector<TokenId> write_greedily(Session& session, int64_t n);

}  // namespace palimpsest::testing
