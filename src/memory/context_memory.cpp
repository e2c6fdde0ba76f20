#include "memory/context_memory.h"

#include "core/error.h"

namespace palimpsest {

void ContextMemory::save(std::ostream& /*out*/) const {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be saved");
}

void ContextMemory::load(std::istream& /*in*/) {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be loaded");
}

}  // namespace palimpsest
