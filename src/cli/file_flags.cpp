#include "cli/file_flags.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "engine/default_model.h"
#include "model/load.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr const char* kReads = "FILE";
constexpr const char* kModel = "MODEL";
constexpr const char* kSidecar = "SIDECAR";
constexpr const char* kWrites = "OUTPUT";

/// Texts that may be empty: they say something then.
constexpr auto kMayBeEmpty = std::to_array<std::string_view>({"--system", "prompt", "text"});

bool is_marked(const CLI::Option& option, std::string_view mark) {
    const std::string type = option.get_type_name();
    return type == mark || type.starts_with(std::string(mark) + ":");
}

struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const Identity&) const = default;
};

/// Which regular file a path leads to; a device or a pipe loses nothing by being written to.
std::optional<Identity> identity_of(const std::string& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
    return Identity{info.st_dev, info.st_ino};
}

constexpr int kDeepest = 64;  // folder in folder

/// Is the file `what`, or does the folder `what` hold it? Links to folders are not followed. (By
/// the system's calls: the standard library's iterators end the process where memory is out.)
bool is_or_holds(const std::string& what, const Identity& file, int depth = 0) {
    struct stat info {};
    const bool is_there = (depth == 0 ? stat : lstat)(what.c_str(), &info) == 0;
    if (!is_there || !S_ISDIR(info.st_mode)) return identity_of(what) == file;
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(what.c_str()), closedir);
    if (folder == nullptr || depth == kDeepest) return false;
    while (const dirent* entry = readdir(folder.get())) {
        const std::string_view name = entry->d_name;
        if (name == "." || name == "..") continue;
        std::string path = what;
        path += '/';
        path += name;
        if (is_or_holds(path, file, depth + 1)) return true;
    }
    return false;
}

/// Two paths of files that may not be there yet.
bool is_one_place(const std::string& a, const std::string& b) {
    std::error_code error;
    const std::optional<Identity> there = identity_of(a);
    if (there) return there == identity_of(b);
    if (fs::exists(a, error) || fs::exists(b, error)) return false;
    const auto whole = [&error](const std::string& path) {
        return fs::weakly_canonical(fs::absolute(path, error), error);
    };
    return whole(a) == whole(b);
}

const CLI::App& innermost(const CLI::App& program) {
    const CLI::App* at = &program;
    for (auto next = program.get_subcommands(); !next.empty(); next = at->get_subcommands()) {
        at = next.front();
    }
    return *at;
}

std::vector<std::string> values_of(const CLI::Option& option) {
    if (option.count() > 0) return option.results();
    const std::string usual = option.get_default_str();
    return usual.empty() ? std::vector<std::string>() : std::vector<std::string>{usual};
}

void add_values(const CLI::Option& option, std::vector<NamedFile>& to) {
    for (const std::string& value : values_of(option)) {
        to.push_back({option.get_name(), value == "-" ? "/dev/stdin" : value});
    }
}

/// What the command reads, said or unsaid.
std::vector<NamedFile> inputs_of(const CLI::App& command) {
    std::vector<NamedFile> files;
    std::string model;
    bool is_model_read = false;
    bool is_sidecar_beside = false;
    for (const CLI::Option* option : command.get_options()) {
        const bool is_model = is_marked(*option, kModel);
        const bool is_sidecar = is_marked(*option, kSidecar);
        if (is_model || is_sidecar || is_marked(*option, kReads)) add_values(*option, files);
        if (is_model) model = option->count() > 0 ? files.back().path : default_model_path();
        is_model_read = is_model_read || is_model;
        is_sidecar_beside = is_sidecar_beside || (is_sidecar && option->count() == 0);
    }
    if (is_model_read) files.push_back({"the model", model});
    if (is_sidecar_beside) files.push_back({"the model's sidecar", sidecar_beside(model)});
    return files;
}

std::vector<NamedFile> outputs_of(const CLI::App& command) {
    std::vector<NamedFile> files;
    for (const CLI::Option* option : command.get_options()) {
        if (is_marked(*option, kWrites)) add_values(*option, files);
    }
    std::erase_if(files, [](const NamedFile& f) { return f.path == "/dev/stdin"; });
    return files;
}

void refuse_empty(const CLI::Option& option) {
    const std::string name = option.get_name();
    const bool is_empty = std::ranges::any_of(option.results(), &std::string::empty);
    require(!is_empty || std::ranges::find(kMayBeEmpty, name) != kMayBeEmpty.end(), name,
            " is empty; give it a value, or leave it out");
}

void refuse_twice(const CLI::Option& option) {
    std::vector<NamedFile> files;
    add_values(option, files);
    for (size_t i = 0; i < files.size(); ++i) {
        const auto id = identity_of(files[i].path);
        for (size_t j = i + 1; id && j < files.size(); ++j) {
            require(id != identity_of(files[j].path), files[j].flag, " names '", files[j].path,
                    "' twice");
        }
    }
}

}  // namespace

CLI::Option* reads_file(CLI::Option* option) { return option->type_name(kReads); }
CLI::Option* reads_model(CLI::Option* option) { return option->type_name(kModel); }
CLI::Option* reads_sidecar(CLI::Option* option) { return option->type_name(kSidecar); }
CLI::Option* writes_file(CLI::Option* option) { return option->type_name(kWrites); }

void require_apart(std::span<const NamedFile> outputs, std::span<const NamedFile> inputs) {
    for (size_t i = 0; i < outputs.size(); ++i) {
        const NamedFile& out = outputs[i];
        for (const NamedFile& other : outputs.subspan(i + 1)) {
            require(!is_one_place(out.path, other.path), out.flag, " and ", other.flag,
                    " both write '", out.path, "'; name two files");
        }
        const std::optional<Identity> there = identity_of(out.path);
        for (const NamedFile& in : inputs) {
            require(!there || !is_or_holds(in.path, *there), out.flag, " would replace '", out.path,
                    "', which is read (", in.flag, "); write to another file");
        }
    }
}

void check_flags(const CLI::App& program) {
    const CLI::App& command = innermost(program);
    for (const CLI::Option* option : command.get_options()) {
        refuse_empty(*option);
        if (is_marked(*option, kReads)) refuse_twice(*option);
    }
    require_apart(outputs_of(command), inputs_of(command));
}

}  // namespace palimpsest
