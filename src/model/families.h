#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "model/model.h"

namespace palimpsest {

/// One line a family: how a model of this architecture is made from its file.
struct Family {
    std::string_view architecture;  // as in `general.architecture`
    /// Throws as Weights does. `file` supplies keys of the family's own.
    std::unique_ptr<Model> (*make)(ModelConfig cfg, const GgufFile& file, Weights& weights);
    bool rope_adjacent;  // ModelConfig::rope_adjacent
    std::string_view summary;
};

[[nodiscard]] std::span<const Family> families();

/// Throws kUnsupported, naming the architecture and listing those there are.
const Family& find_family(std::string_view architecture);

std::unique_ptr<Model> make_llama(ModelConfig cfg, const GgufFile& file, Weights& weights);
std::unique_ptr<Model> make_qwen2(ModelConfig cfg, const GgufFile& file, Weights& weights);
std::unique_ptr<Model> make_qwen3(ModelConfig cfg, const GgufFile& file, Weights& weights);
std::unique_ptr<Model> make_gemma3(ModelConfig cfg, const GgufFile& file, Weights& weights);

}  // namespace palimpsest
