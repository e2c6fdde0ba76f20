#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "memory/option_reader.h"
#include "memory/residue.h"

namespace palimpsest {

struct ResidueKind {
    std::string_view name;
    /// nullptr: the evicted leave nothing.
    std::unique_ptr<Residue> (*make)(const MemoryShape& shape, OptionReader& options);
    std::string_view summary;
};

[[nodiscard]] std::span<const ResidueKind> residue_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const ResidueKind& find_residue(std::string_view name);

std::unique_ptr<Residue> make_merge(const MemoryShape& shape, OptionReader& options);

}  // namespace palimpsest
