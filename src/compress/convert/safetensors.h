#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"

namespace palimpsest {

/// How numbers are stored that can be read here.
enum class FloatType { kF32, kF16, kBf16 };

/// One tensor of a checkpoint. Views into its file.
struct CheckpointTensor {
    FloatType type = FloatType::kF32;
    std::vector<int64_t> shape;  // slowest first, as the file has it
    std::span<const std::byte> data;
    const MappedFile* file = nullptr;

    [[nodiscard]] int64_t size() const;
    /// Numbers [first, first + to.size()) as f32.
    void read(int64_t first, std::span<float> to) const;
};

/// The tensors of one part of a checkpoint, in one safetensors file or several, which an index
/// names. Mapped; every size and offset was checked against the files. Immutable.
class Checkpoint {
 public:
    /// `folder` has `NAME.safetensors` or `NAME.safetensors.index.json` with the files that it
    /// names. Throws kNotFound, kCorrupt or kUnsupported, naming file and tensor.
    Checkpoint(const std::string& folder, const std::string& name);
    /// One file.
    explicit Checkpoint(const std::string& path);

    [[nodiscard]] bool has(std::string_view name) const { return tensors_.contains(name); }
    /// Throws kNotFound if it is not there.
    [[nodiscard]] const CheckpointTensor& tensor(std::string_view name) const;
    [[nodiscard]] const std::map<std::string, CheckpointTensor, std::less<>>& tensors() const {
        return tensors_;
    }

 private:
    void add_file(const std::string& path);

    std::string name_;
    std::vector<std::unique_ptr<MappedFile>> files_;
    std::map<std::string, CheckpointTensor, std::less<>> tensors_;
};

}  // namespace palimpsest
