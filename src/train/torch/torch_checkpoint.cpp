#include "train/torch/torch_checkpoint.h"

#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "core/sealed_file.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

std::string path_in(const std::string& folder) {
    return (fs::path(folder) / "training.checkpoint").string();
}

}  // namespace

void TorchCheckpoint::require_settings(const std::string& own, const std::string& folder) const {
    require(settings == own, "the checkpoint in '", folder,
            "' is of a training with other settings; name another folder, or the same settings");
}

void save_checkpoint(const std::string& folder, const TorchCheckpoint& checkpoint) {
    std::error_code error;
    fs::create_directories(folder, error);
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    out << checkpoint.settings << '\n' << checkpoint.progress << '\n';
    torch::save(checkpoint.state, out);
    write_sealed(path_in(folder), out.str());
}

std::optional<TorchCheckpoint> load_checkpoint(
    const std::string& folder, const std::function<void(const std::string&)>& on_note) {
    std::optional<std::string> content;
    try {
        content = read_sealed(path_in(folder));
    } catch (const Error& e) {
        if (e.code() != ErrorCode::kCorrupt) throw;
        if (on_note) on_note(cat(e.what(), "; the training begins anew"));
    }
    if (!content) return std::nullopt;
    const size_t first = content->find('\n');
    const size_t second = content->find('\n', first + 1);
    TorchCheckpoint checkpoint = {.settings = content->substr(0, first),
                                  .progress = content->substr(first + 1, second - first - 1),
                                  .state = {}};
    torch::load(checkpoint.state, content->data() + second + 1, content->size() - second - 1);
    return checkpoint;
}

}  // namespace palimpsest
