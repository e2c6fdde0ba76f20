#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/weights.h"
#include "memory/policy/eviction_weights.h"
#include "model/linear.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// Everything one model file gives. Immutable; shared by any number of sessions.
class LoadedModel {
 public:
    /// Throws kNotFound, kCorrupt or kUnsupported with a sentence on what is wrong with the file,
    /// or with this way of reading on this machine.
    LoadedModel(const std::string& path, const Backend& backend, Reading reading = Reading::kAuto);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] const Model& model() const { return *model_; }
    [[nodiscard]] const ModelConfig& config() const { return model_->config(); }
    [[nodiscard]] const GgufFile& file() const { return file_; }
    [[nodiscard]] const FileWeights& weights() const { return weights_; }
    [[nodiscard]] const LinearProducts& products() const { return products_; }
    /// Of most of its weights.
    [[nodiscard]] ReadingFacts reading() const;
    /// A layer's attention output weights as f32, [n_embd][n_head * d_head], row after row.
    [[nodiscard]] std::vector<float> output_projection(int64_t layer) const;
    /// nullptr if the file has no vocabulary: such a model runs from token ids.
    [[nodiscard]] const Tokenizer* tokenizer() const { return tokenizer_.get(); }
    /// Throws kUnsupported if there is none.
    [[nodiscard]] const Tokenizer& require_tokenizer() const;

 private:
    std::string path_;
    GgufFile file_;
    LinearProducts products_;
    FileWeights weights_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<Model> model_;
};

/// Where trained weights for evicting from a model's cache are looked for when no file is named:
/// beside the model, its name ending in ".evict.gguf" instead of ".gguf".
[[nodiscard]] std::string sidecar_beside(const std::string& model_path);

/// The first file in a folder that says it was trained for the model of a fingerprint, whatever
/// that model's file is called; empty: there is none, or no such folder. Throws as GgufFile does.
[[nodiscard]] std::string sidecar_among(const std::string& folder, const std::string& fingerprint);

/// The weights of the file that is named, or else those beside the model, or else those for this
/// model that came with the program (share/palimpsest/weights where it is installed). nullptr: none
/// is named and there is none. Throws as EvictionWeights does.
std::shared_ptr<const EvictionWeights> load_sidecar(const std::string& named,
                                                    const LoadedModel& model,
                                                    const Backend& backend);

}  // namespace palimpsest
