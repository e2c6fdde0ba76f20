#pragma once

#include <cstdint>
#include <memory>
#include <string>

#pragma GCC visibility push(default)

namespace palimpsest {

class Runtime;

struct EngineOptions {
    std::string model =
        {};               // a GGUF file; empty: $PALIMPSEST_MODEL, or the one that set-up fetched
    int threads = 0;      // 0: one for every processor
    int64_t chunk = 512;  // tokens read in one step
    std::string reading = "auto";  // how rows are multiplied: auto, quantised, int8, bf16 or f32
};

/// A model, loaded and ready to run. Conversations are made from it, any number of them, and all
/// use it by turns: an engine and what was made from it belong to one thread at a time.
class Engine {
 public:
    /// Throws Error: kNotFound, kCorrupt or kUnsupported, with a sentence on what is wrong with the
    /// file; kInvalidArgument for options outside their range.
    explicit Engine(const EngineOptions& options = {});
    ~Engine();
    Engine(Engine&&) noexcept;
    Engine& operator=(Engine&&) noexcept;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    /// What the file calls the model.
    [[nodiscard]] const std::string& model_name() const;
    /// As in the file: "llama", "qwen3", ...
    [[nodiscard]] const std::string& architecture() const;
    /// Tokens that the model was trained to see at once.
    [[nodiscard]] int64_t trained_context() const;
    /// Has it words, or only token ids?
    [[nodiscard]] bool has_vocabulary() const;

    /// What it is made of; for this project's own programs.
    [[nodiscard]] Runtime& runtime() const;

 private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

/// Threads that options mean.
[[nodiscard]] int thread_count(const EngineOptions& options);

/// The model file that options mean.
[[nodiscard]] std::string model_path(const EngineOptions& options);

}  // namespace palimpsest

#pragma GCC visibility pop
