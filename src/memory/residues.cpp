#include "memory/residues.h"

#include <array>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr std::array<ResidueKind, 2> kKinds = {{
    {"none", nullptr, "what goes is gone"},
    {"merge", make_merge, "values that go are averaged into the nearest key that stays"},
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
