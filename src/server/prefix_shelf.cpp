#include "server/prefix_shelf.h"

#include <filesystem>

#include "core/error.h"
#include "memory/prefix/prefix_file.h"
#include "server/api_error.h"
#include "text/input_files.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kEnding = ".prefix.gguf";

PrefixShelf::Entry read(const Runtime& engine, const std::string& path) {
    PrefixShelf::Entry e = {.path = path,
                            .documents = read_prefixes_for(engine.loaded().file(), {{path}})};
    require(!e.documents.empty(), "'", path, "' has no prefix memory in it");
    require_same_text(e.documents.front()->header(), engine.loaded().require_tokenizer());
    return e;
}

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

PrefixShelf::PrefixShelf(const Runtime& engine, const MemoryChoice& usual,
                         const std::string& folder) {
    for (const std::string& path : usual.prefixes) usual_.emplace(path, read(engine, path));
    if (folder.empty()) return;
    std::error_code failed;
    for (const fs::directory_entry& file : fs::directory_iterator(folder, failed)) {
        const std::string name = file.path().filename().string();
        if (!name.ends_with(kEnding)) continue;
        named_.emplace(name.substr(0, name.size() - kEnding.size()),
                       read(engine, file.path().string()));
    }
    if (failed) {
        throw Error(ErrorCode::kNotFound,
                    cat("cannot read the folder '", folder, "': ", failed.message()));
    }
    require(!named_.empty(), "the folder '", folder, "' has no file NAME", kEnding,
            "; 'palimpsest prefix build' makes them");
    std::vector<std::string> paths = usual.prefixes;
    for (const auto& [name, entry] : named_) paths.push_back(entry.path);
    require_own_names(paths);
}

const PrefixDocument* PrefixShelf::first_of(const MemoryChoice& choice) const {
    if (choice.prefixes.empty()) return nullptr;
    const std::string& path = choice.prefixes.front();
    if (const auto at = usual_.find(path); at != usual_.end()) {
        return at->second.documents.front().get();
    }
    for (const auto& [name, entry] : named_) {
        if (entry.path == path) return entry.documents.front().get();
    }
    check(false, "a prefix memory that no request could choose");
    return nullptr;
}

std::vector<Segment> behind_prefix(const PrefixDocument& prefix,
                                   std::vector<Segment> conversation) {
    try {
        return behind(prefix.header().tokens, std::move(conversation));
    } catch (const Error&) {
        throw ApiError(400,
                       cat("the prefix memory '", prefix.header().name,
                           "' is what the system says, before the user speaks: a request with it "
                           "can have no tools that the template puts there"),
                       "memory.prefix");
    }
}

}  // namespace palimpsest
