#pragma once

namespace palimpsest {

/// The function of that name in the module that is built where LibTorch is (src/train/torch), which
/// is loaded for what trains with it alone: no other command waits for so large a library. `what`
/// is trained, for the message. Throws kUnsupported if there is no such module.
[[nodiscard]] void* torch_entry(const char* function, const char* what);

}  // namespace palimpsest
