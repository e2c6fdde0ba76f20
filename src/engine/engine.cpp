#include "palimpsest/engine.h"

#include "core/error.h"
#include "engine/default_model.h"
#include "engine/runtime.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostChunk = 65536;

/// Threads; before a model is loaded in vain.
int checked(const EngineOptions& o) {
    require(o.chunk >= 1 && o.chunk <= kMostChunk, "a chunk of ", o.chunk,
            " tokens; it must be 1 to ", kMostChunk);
    return thread_count(o);
}

}  // namespace

/// In the order in which they need each other.
struct Engine::Parts {
    Backend backend;
    LoadedModel loaded;
    Runtime runtime;

    explicit Parts(const EngineOptions& o)
        : backend(checked(o)),
          loaded(model_path(o), backend, reading_named(o.reading)),
          runtime(loaded, backend, o.chunk) {}
};

Engine::Engine(const EngineOptions& options) try : parts_(std::make_unique<Parts>(options)) {
} catch (const Error& e) {
    if (!options.model.empty() || e.code() != ErrorCode::kNotFound) throw;
    throw Error(ErrorCode::kNotFound,
                cat(e.what(), "; name a model (GGUF) with --model FILE, or fetch the default with ",
                    "'make setup' in a checkout"));
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

const std::string& Engine::model_name() const { return parts_->loaded.config().name; }
const std::string& Engine::architecture() const { return parts_->loaded.config().architecture; }
int64_t Engine::trained_context() const { return parts_->loaded.config().n_ctx_train; }
bool Engine::has_vocabulary() const { return parts_->loaded.tokenizer() != nullptr; }
Runtime& Engine::runtime() const { return parts_->runtime; }

int thread_count(const EngineOptions& options) {
    return options.threads > 0 ? options.threads : Backend::available_threads();
}

std::string model_path(const EngineOptions& options) {
    return options.model.empty() ? default_model_path() : options.model;
}

}  // namespace palimpsest
