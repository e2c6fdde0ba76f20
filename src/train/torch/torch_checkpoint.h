#pragma once

#include <torch/torch.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace palimpsest {

/// What a training goes on from: a line of what it must agree in, a line of how far it is, and what
/// TorchAdam::state() returned.
struct TorchCheckpoint {
    std::string settings, progress;
    std::vector<torch::Tensor> state;

    /// Throws kInvalidArgument, naming `folder`, if a training of other settings wrote it.
    void require_settings(const std::string& own, const std::string& folder) const;
};

/// The file in a training's folder, which is made. Throws as write_sealed() does.
void save_checkpoint(const std::string& folder, const TorchCheckpoint& checkpoint);
/// nullopt if there is none, or it is damaged, of which `on_note` (which may be empty) hears.
[[nodiscard]] std::optional<TorchCheckpoint> load_checkpoint(
    const std::string& folder, const std::function<void(const std::string&)>& on_note);

}  // namespace palimpsest
