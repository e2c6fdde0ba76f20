#include "memory/context_memory.h"

#include <atomic>

#include "core/error.h"

namespace palimpsest {

namespace {

uint64_t next_serial() {
    static std::atomic<uint64_t> last = 0;
    return ++last;
}

}  // namespace

ContextMemory::ContextMemory() : serial_(next_serial()) {}

void ContextMemory::save(std::ostream& /*out*/) const {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be saved");
}

void ContextMemory::load(std::istream& /*in*/) {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be loaded");
}

}  // namespace palimpsest
