#include "engine/default_model.h"

#include <cstdlib>

namespace palimpsest {

namespace {

std::string environment(const char* name) {
    // Read once at the start of a program; nothing here changes the environment.
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    return value == nullptr ? "" : value;
}

}  // namespace

std::string default_cache_folder() {
    if (std::string own = environment("PALIMPSEST_CACHE"); !own.empty()) return own;
    if (const std::string xdg = environment("XDG_CACHE_HOME"); !xdg.empty()) {
        return xdg + "/palimpsest";
    }
    return environment("HOME") + "/.cache/palimpsest";
}

std::string default_model_path() {
    if (std::string named = environment("PALIMPSEST_MODEL"); !named.empty()) return named;
    return default_cache_folder() + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace palimpsest
