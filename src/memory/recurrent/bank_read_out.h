#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/gguf_writer.h"
#include "core/weights.h"
#include "memory/context_memory.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {

// Trained read-out of banks ("Log-Linear Attention", arXiv:2506.04761, section 3.3): a token's
// weight of its head's state of rank r is softplus(scale_r (W x)_r) / ln 2, x being the normed
// input of its block, and the open state having rank 0. With W = 0 every weight is 1.

inline constexpr const char* kReadOutArchitecture = "palimpsest-bank";
inline constexpr const char* kReadOutModel = "palimpsest.bank.model";  // its fingerprint
// Of every recurrent layer, after "blk.N."; the weights may be missing everywhere.
inline constexpr const char* kBankWeigh = "bank_weigh.weight";   // W: [n_embd, n_head n_states]
inline constexpr const char* kBankScale = "bank_scale.weight";   // [n_states, n_head]
inline constexpr const char* kBankThreshold = "bank_threshold";  // [1], instead of the options'

/// The key that says which bank it is.
void describe_bank(const BankOptions& bank, GgufWriter& to);

/// A bank of one model, as a training left it. Tensors live as long as this object.
class BankReadOut {
 public:
    struct Layer {
        Tensor weigh = nullptr, scale = nullptr;  // nullptr: every state counts 1
        float threshold = 0;
    };

    /// `model`: the fingerprint of the one that it is used with. Throws kUnsupported for another
    /// kind of file or one of another model, kCorrupt for what contradicts itself or the shape, and
    /// as reading a file does.
    BankReadOut(const std::string& path, const Backend& backend, const MemoryShape& shape,
                const std::string& model);

    [[nodiscard]] const BankOptions& bank() const { return bank_; }
    /// Of recurrent layers, in order.
    [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }
    /// Tells one from another.
    [[nodiscard]] const std::string& fingerprint() const { return fingerprint_; }

 private:
    GgufFile file_;
    FileWeights weights_;
    BankOptions bank_;
    std::vector<Layer> layers_;
    std::string fingerprint_;
};

/// Does the name of a bank name such a file?
[[nodiscard]] bool is_read_out(std::string_view bank);

}  // namespace palimpsest
