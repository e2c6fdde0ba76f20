#include "memory/residue/residues.h"

#include <array>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr std::array<ResidueKind, 4> kKinds = {{
    {"none", nullptr, "what goes is gone"},
    {"merge", make_merge, "values that go are averaged into the nearest key that stays"},
    {"latent", make_latent, "a trained state that answers beside attention (arXiv:2605.25475)",
     true},
    {"centroids", make_centroids, "mean entries of what goes, joined in the same softmax"},
}};

}  // namespace

std::span<const ResidueKind> residue_kinds() { return kKinds; }

const ResidueKind& find_residue(std::string_view name) {
    std::vector<std::string_view> names;
    for (const ResidueKind& kind : kKinds) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("residue", name, names));
}

}  // namespace palimpsest
