#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "model/linear.h"
#include "model/model.h"

namespace palimpsest {

/// What families of one form differ by.
struct FamilyTraits {
    bool rope_adjacent = false;     // ModelConfig::rope_adjacent
    bool norms_heads = false;       // every head's queries and keys are normed before rotation
    bool attends = true;            // some layer does
    bool feeds_forward = true;      // blocks have gate, up and down
    bool has_experts = false;       // or experts, if the file says so
    bool has_states = false;        // layers without key-value heads are recurrent
    bool states_alternate = false;  // RecurrentLayer::alternates
};

/// What a model is made from.
struct FamilyInputs {
    ModelConfig cfg;
    const FamilyTraits& traits;
    const ModelKeys& keys;  // supplies the family's own
    Weights& weights;
    const LinearProducts& products;  // outlives the model
};

/// One line a family: how a model of this architecture is made from its file.
struct Family {
    std::string_view architecture;  // as in `general.architecture`
    /// Throws as Weights does.
    std::unique_ptr<Model> (*make)(const FamilyInputs& in);
    FamilyTraits traits;
    std::string_view summary;
};

[[nodiscard]] std::span<const Family> families();

/// Throws kUnsupported, naming the architecture and listing those there are.
const Family& find_family(std::string_view architecture);

// One a form: family_FORM.cpp.
std::unique_ptr<Model> make_pre_norm(const FamilyInputs& in);
std::unique_ptr<Model> make_gemma3(const FamilyInputs& in);
std::unique_ptr<Model> make_mamba2(const FamilyInputs& in);
std::unique_ptr<Model> make_delta_net(const FamilyInputs& in);
std::unique_ptr<Model> make_granite(const FamilyInputs& in);

}  // namespace palimpsest
