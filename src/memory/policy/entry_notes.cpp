#include "memory/policy/entry_notes.h"

#include <algorithm>

#include "memory/binary_stream.h"
#include "memory/policy/observer.h"

namespace palimpsest {

EntryNotes::EntryNotes(const MemoryShape& shape, std::string_view owner)
    : shape_(shape),
      owner_(owner),
      all_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)),
      held_(all_.size()) {}

void EntryNotes::grow(int64_t n, int64_t seen, float value) {
    for (size_t i = 0; i < all_.size(); ++i) {
        if (shape_.window(static_cast<int64_t>(i) / shape_.n_head_kv) > 0) continue;
        if (seen != planned_at_) held_[i] = std::ssize(all_[i]);
        const auto size = static_cast<size_t>(held_[i] + n);
        all_[i].reserve(size);  // to the entry: it is counted
        all_[i].resize(size, value);
    }
    planned_at_ = seen;
}

void EntryNotes::fill(float value) {
    for (auto& of : all_) std::ranges::fill(of, value);
}

void EntryNotes::keep(int64_t layer, int64_t head, std::span<const int32_t> kept) {
    std::vector<float>& notes = of(layer, head);
    for (size_t i = 0; i < kept.size(); ++i) notes[i] = notes[static_cast<size_t>(kept[i])];
    notes.resize(kept.size());
}

void EntryNotes::held(int64_t layer, std::span<const std::span<const int32_t>> heads) const {
    for (size_t h = 0; h < heads.size(); ++h) {
        check_notes(owner_, std::ssize(of(layer, static_cast<int64_t>(h))), std::ssize(heads[h]));
    }
}

void EntryNotes::clear() {
    for (auto& of : all_) of.clear();
    planned_at_ = -1;
}

size_t EntryNotes::bytes() const {
    size_t n = 0;
    for (const auto& of : all_) n += of.capacity() * sizeof(float);
    return n;
}

void EntryNotes::save(std::ostream& out) const {
    for (const auto& of : all_) put_all(out, of);
}

void EntryNotes::load(std::istream& in) {
    std::vector<std::vector<float>> all(all_.size());
    for (auto& of : all) of = take_all<float>(in, int64_t{1} << 24);
    clear();
    all_ = std::move(all);
}

}  // namespace palimpsest
