#include "server/prefix_shelf.h"

#include <filesystem>

#include "core/error.h"
#include "memory/prefix/prefix_file.h"
#include "text/input_files.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kEnding = ".prefix.gguf";

/// Conversations are known by their prefixes' names, without folders.
void require_own_names(const std::vector<std::string>& paths) {
    std::map<std::string, std::string> seen;
    for (const std::string& path : paths) {
        const auto& [at, is_new] = seen.emplace(base_name(path), path);
        std::error_code ignored;
        require(is_new || fs::equivalent(path, at->second, ignored), "'", at->second, "' and '",
                path, "' have one name, by which conversations could not tell them apart");
    }
}

}  // namespace

void PrefixShelf::take(const Runtime& engine, const std::string& path) {
    PrefixDocuments all = read_prefixes_for(engine.loaded().file(), {{path}});
    require(!all.empty(), "'", path, "' has no prefix memory in it");
    require_same_text(all.front()->header(), engine.loaded().require_tokenizer());
    read_.emplace(path, std::move(all));
}

PrefixShelf::PrefixShelf(const Runtime& engine, const MemoryChoice& usual,
                         const std::string& folder) {
    std::vector<std::string> paths = usual.prefixes;
    std::error_code failed;
    if (!folder.empty()) {
        for (const fs::directory_entry& file : fs::directory_iterator(folder, failed)) {
            const std::string name = file.path().filename().string();
            if (!name.ends_with(kEnding)) continue;
            named_.emplace(name.substr(0, name.size() - kEnding.size()), file.path().string());
            paths.push_back(file.path().string());
        }
    }
    if (failed) {
        throw Error(ErrorCode::kNotFound,
                    cat("cannot read the folder '", folder, "': ", failed.message()));
    }
    require(folder.empty() || !named_.empty(), "the folder '", folder, "' has no file NAME",
            kEnding, "; 'palimpsest prefix build' makes them");
    require_own_names(paths);
    for (const std::string& path : paths) take(engine, path);
}

PrefixDocuments PrefixShelf::documents(const MemoryChoice& choice) const {
    PrefixDocuments all;
    for (const std::string& path : choice.prefixes) {
        const PrefixDocuments& some = of(path);
        all.insert(all.end(), some.begin(), some.end());
    }
    require_one_kind(all);
    return all;
}

}  // namespace palimpsest
