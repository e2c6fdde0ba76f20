#include "train/torch_module.h"

#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr const char* kModule = "libpalimpsest_torch.so";

/// Beside the program, or where it is installed.
std::vector<std::string> places() {
    std::error_code error;
    const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
    return {(folder / kModule).string(), (folder / ".." / "lib" / kModule).string(),
            (folder / ".." / "lib" / "palimpsest" / kModule).string()};
}

}  // namespace

void* torch_entry(const char* function, const char* what) {
    std::error_code error;
    for (const std::string& path : places()) {
        if (!fs::exists(path, error)) continue;
        // For good: LibTorch does not like to be let go of.
        void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (module == nullptr) {
            throw Error(ErrorCode::kUnsupported, cat("cannot load '", path, "': ", dlerror()));
        }
        void* found = dlsym(module, function);
        if (found == nullptr) {
            throw Error(ErrorCode::kUnsupported,
                        cat("'", path, "' is of another version: it cannot train ", what));
        }
        return found;
    }
    throw Error(ErrorCode::kUnsupported,
                cat(what, " is trained with LibTorch, which this build is without; install it ",
                    "(scripts/setup.sh torch), then build everything (make release)"));
}

}  // namespace palimpsest
