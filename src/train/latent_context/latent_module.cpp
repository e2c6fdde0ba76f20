#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "train/latent_context/latent_training.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

using Train = bool (*)(const LatentTrainingOptions&, const LatentTrainingHooks&);

constexpr const char* kModule = "libpalimpsest_torch.so";

/// Beside the program, or where it is installed.
std::vector<std::string> places() {
    std::error_code error;
    const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
    return {(folder / kModule).string(), (folder / ".." / "lib" / kModule).string(),
            (folder / ".." / "lib" / "palimpsest" / kModule).string()};
}

Train loaded_module() {
    std::error_code error;
    for (const std::string& path : places()) {
        if (!fs::exists(path, error)) continue;
        // For good: LibTorch does not like to be let go of.
        void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (module == nullptr) {
            throw Error(ErrorCode::kUnsupported, cat("cannot load '", path, "': ", dlerror()));
        }
        void* found = dlsym(module, "palimpsest_train_latent_context");
        check(found != nullptr, "the module has its entry");
        return reinterpret_cast<Train>(found);
    }
    throw Error(ErrorCode::kUnsupported,
                cat("latent context is trained with LibTorch, which this build is without; ",
                    "install it (scripts/setup.sh torch), then build everything (make release)"));
}

}  // namespace

bool train_latent_context(const LatentTrainingOptions& options, const LatentTrainingHooks& hooks) {
    return loaded_module()(options, hooks);
}

}  // namespace palimpsest
