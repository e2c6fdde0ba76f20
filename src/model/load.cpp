#include "model/load.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/fingerprint.h"
#include "core/tensor_values.h"
#include "memory/eviction/allocation.h"
#include "model/families.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr const char* kSidecarEnding = ".evict.gguf";

/// Where an installation keeps the weights that come along: beside bin/ and lib/, or, in a Python
/// package, beside its module.
std::vector<std::string> installed_weights() {
    Dl_info info;
    if (dladdr(reinterpret_cast<const void*>(&sidecar_beside), &info) == 0) return {};
    std::error_code error;
    const fs::path file = fs::canonical(info.dli_fname, error);
    if (error) return {};
    const fs::path folder = file.parent_path();
    return {(folder.parent_path() / "share" / "palimpsest" / "weights").string(),
            (folder / "weights").string()};
}

/// Empty: there is none.
std::string usual_sidecar(const std::string& model_path, const std::string& fingerprint) {
    std::error_code error;
    if (std::string path = sidecar_beside(model_path); fs::exists(path, error)) return path;
    for (const std::string& folder : installed_weights()) {
        if (std::string path = sidecar_among(folder, fingerprint); !path.empty()) return path;
    }
    return "";
}

/// A tensor that nobody reads would be a model of another kind, computed wrongly.
void check_all_used(const FileWeights& weights, const ModelConfig& cfg) {
    const std::vector<std::string_view> unused = weights.unused();
    if (unused.empty()) return;
    const std::string more =
        unused.size() > 1 ? cat(" (nor are ", unused.size() - 1, " others)") : "";
    throw Error(ErrorCode::kUnsupported,
                cat("tensor '", unused.front(), "' is not used by models of architecture '",
                    cfg.architecture, "' with ", cfg.n_layer, " blocks", more,
                    "; without it answers would be wrong"));
}

std::unique_ptr<Model> make_model(const std::string& path, const GgufFile& file,
                                  FileWeights& weights, const LinearProducts& products) {
    try {
        const ModelKeys keys(file);
        // The family first: another architecture has other keys, and their absence is no news.
        const Family& family = find_family(keys.architecture());
        ModelConfig cfg = read_config(keys);
        cfg.rope_adjacent = family.traits.rope_adjacent;
        auto model = family.make({std::move(cfg), family.traits, keys, weights, products});
        keys.check_all_used();
        check_all_used(weights, model->config());
        return model;
    } catch (const Error& e) {
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
}

}  // namespace

LoadedModel::LoadedModel(const std::string& path, const Backend& backend, Reading reading)
    : path_(path),
      file_(GgufFile::open(path)),
      products_(reading),
      weights_(file_, backend, [this](ggml_type type) { return products_.reads_plain(type); }) {
    // Before the vocabulary: what is wrong with the model is found in a moment.
    model_ = make_model(path, file_, weights_, products_);
    tokenizer_ = Tokenizer::load(path, file_);
    if (tokenizer_ != nullptr && tokenizer_->n_vocab() > config().n_vocab) {
        throw Error(ErrorCode::kCorrupt,
                    cat("'", path, "': the vocabulary has ", tokenizer_->n_vocab(),
                        " tokens, the token table ", config().n_vocab, " rows"));
    }
}

ReadingFacts LoadedModel::reading() const {
    // A matrix that every block of some family has.
    for (const char* name : {"ffn_up", "ffn_up_shexp", "ssm_in", "attn_q", "attn_qkv"}) {
        const GgufTensor* w = file_.find_tensor(cat("blk.0.", name, ".weight"));
        if (w != nullptr) return products_.facts_for(w->type);
    }
    throw Error(ErrorCode::kInternal, "a loaded model without a matrix in its first block");
}

std::vector<float> LoadedModel::output_projection(int64_t layer) const {
    const GgufTensor* w = file_.find_tensor(cat("blk.", layer, ".attn_output.weight"));
    check(w != nullptr, "a loaded model has its output projections");
    return tensor_values(*w);
}

const Tokenizer& LoadedModel::require_tokenizer() const {
    if (tokenizer_ != nullptr) return *tokenizer_;
    throw Error(ErrorCode::kUnsupported,
                cat("'", path_, "' has no vocabulary; it runs from token ids only"));
}

std::string sidecar_beside(const std::string& model_path) {
    const fs::path path(model_path);
    return (path.parent_path() / (path.stem().string() + kSidecarEnding)).string();
}

std::string sidecar_among(const std::string& folder, const std::string& fingerprint) {
    std::error_code error;
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
        if (entry.path().string().ends_with(kSidecarEnding)) paths.push_back(entry.path().string());
    }
    std::ranges::sort(paths);
    for (const std::string& path : paths) {
        if (GgufFile::open(path).text("evict.base_fingerprint") == fingerprint) return path;
    }
    return "";
}

std::shared_ptr<const EvictionWeights> load_sidecar(const std::string& named,
                                                    const LoadedModel& model,
                                                    const Backend& backend) {
    const BaseModel base = {
        .architecture = std::string(model.file().text("general.architecture").value_or("")),
        .fingerprint = model_fingerprint(model.file())};
    const std::string path = named.empty() ? usual_sidecar(model.path(), base.fingerprint) : named;
    if (path.empty()) return nullptr;
    auto weights =
        std::make_shared<const EvictionWeights>(path, backend, model.config().memory_shape(), base);
    check_trained_allocator(*weights);
    return weights;
}

}  // namespace palimpsest
