#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// The hyper-parameters of a model file: its keys under its own architecture's name, which is left
/// out here ("block_count"). Remembers which were asked for, so that one that says something which
/// nobody reads is not passed over. All throw kNotFound for a key that must be there and is not,
/// kCorrupt, naming the key, for a value that cannot be.
class ModelKeys {
 public:
    /// Throws kNotFound if the file has no architecture. `file` must outlive the object.
    explicit ModelKeys(const GgufFile& file);

    [[nodiscard]] const GgufFile& file() const { return file_; }
    [[nodiscard]] const std::string& architecture() const { return architecture_; }

    [[nodiscard]] bool has(std::string_view key) const;

    struct Range {
        int64_t least, most;
    };
    [[nodiscard]] int64_t count(std::string_view key, Range range) const;
    [[nodiscard]] int64_t count_or(std::string_view key, Range range, int64_t fallback) const;
    /// One number for all layers, or a list of as many equal ones: kUnsupported if they differ.
    [[nodiscard]] int64_t layers_count(std::string_view key, Range range, int64_t n_layer) const;
    /// The same, where 0 stands for a layer that has none: at least one has some.
    [[nodiscard]] int64_t some_layers_count(std::string_view key, Range range,
                                            int64_t n_layer) const;
    /// One flag a layer, if the key holds a list; empty if it does not, or is absent.
    [[nodiscard]] std::vector<int64_t> layers_flags(std::string_view key, int64_t n_layer) const;

    [[nodiscard]] bool flag_or(std::string_view key, bool fallback) const;
    [[nodiscard]] float positive_or(std::string_view key, float fallback) const;
    /// The same, or 0, which stands for "not at all".
    [[nodiscard]] float positive_or_none(std::string_view key) const;
    [[nodiscard]] std::string text_or(std::string_view key, std::string_view fallback) const;

    /// What the key says has no effect on this model, whatever it is.
    void pass_over(std::string_view key) const;

    /// Throws kUnsupported, naming it, if a key was neither asked for nor is known to be harmless.
    void check_all_used() const;

 private:
    [[nodiscard]] int64_t equal_counts(std::string_view key, Range range, int64_t n_layer,
                                       bool may_be_none) const;
    [[nodiscard]] std::string ask(std::string_view key) const;
    void check_range(const std::string& name, int64_t value, Range range) const;

    const GgufFile& file_;
    std::string architecture_;
    mutable std::set<std::string, std::less<>> asked_;  // whole names
};

}  // namespace palimpsest
