#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "memory/policy/part_inputs.h"
#include "memory/residue/residue.h"

namespace palimpsest {

struct ResidueKind {
    std::string_view name;
    /// nullptr: the evicted leave nothing.
    std::unique_ptr<Residue> (*make)(const PartInputs& in);
    std::string_view summary;
    bool is_learned = false;  // needs trained weights
};

[[nodiscard]] std::span<const ResidueKind> residue_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const ResidueKind& find_residue(std::string_view name);

std::unique_ptr<Residue> make_merge(const PartInputs& in);
std::unique_ptr<Residue> make_latent(const PartInputs& in);
std::unique_ptr<Residue> make_centroids(const PartInputs& in);

}  // namespace palimpsest
