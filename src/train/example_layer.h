#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "memory/context_memory.h"
#include "train/example.h"
#include "train/layer_record.h"

namespace palimpsest {

/// Sizes of every layer of a model. Logits are scaled as they are but in Gemma 3 of 27B.
[[nodiscard]] AttentionShape attention_shape(const MemoryShape& shape);

/// One layer of an example, as f32.
class ExampleLayer {
 public:
    /// The example must hold hidden rows, queries and entries of the layer.
    ExampleLayer(const Example& of, int64_t layer, const AttentionShape& shape, int64_t n_prompt);
    ~ExampleLayer() = default;
    ExampleLayer(const ExampleLayer&) = delete;
    ExampleLayer& operator=(const ExampleLayer&) = delete;

    [[nodiscard]] const LayerRecord& record() const { return record_; }

 private:
    std::vector<float> hidden_, q_raw_, q_, k_, v_;
    LayerRecord record_;
};

/// A number that two different examples do not share: of what its first layer that notes anything
/// was given.
[[nodiscard]] uint64_t example_key(const Example& of);

/// How often each example occurs among blocks, in the order of their first blocks. Objectives that
/// learn from whole documents take a block for the document it is of.
[[nodiscard]] std::vector<std::pair<const Example*, int64_t>> documents_of(
    std::span<const Block> blocks);

/// What was found out about examples once, by a key and by layer; the oldest go.
template <typename Found>
class ExampleNotes {
 public:
    /// The notes under a key, such as an example's, one a layer; made by `make(layer)` for every
    /// layer at once, through `in_layers`, if there are none.
    template <typename InLayers, typename Make>
    const std::vector<Found>& of(uint64_t key, size_t n_layers, const InLayers& in_layers,
                                 const Make& make) {
        if (const auto known = notes_.find(key); known != notes_.end()) return known->second;
        if (order_.size() >= kMost) {
            notes_.erase(order_.front());
            order_.erase(order_.begin());
        }
        std::vector<Found> found(n_layers);
        in_layers([&](size_t i) { found[i] = make(i); });
        order_.push_back(key);
        return notes_.emplace(key, std::move(found)).first->second;
    }

 private:
    static constexpr size_t kMost = 64;
    std::unordered_map<uint64_t, std::vector<Found>> notes_;
    std::vector<uint64_t> order_;
};

}  // namespace palimpsest
