#include "memory/policy/observer.h"

#include <algorithm>

namespace palimpsest {

Observers Observers::clone() const {
    Observers copy;
    for (const auto& o : all_) copy.all_.push_back(o->clone());
    return copy;
}

Rehearsed Observers::rehearsed() const {
    Rehearsed all = Rehearsed::kNothing;
    for (const auto& o : all_) {
        const Rehearsed one = o->rehearsed();
        if (one == Rehearsed::kNothing) continue;
        require(all == Rehearsed::kNothing || all == one,
                "one part of a memory wants its input repeated, another its question asked");
        all = one;
    }
    return all;
}

std::vector<Observer*> Observers::of(const Step& step) const {
    std::vector<Observer*> noting;
    for (const auto& o : all_) {
        if (step.kind != StepKind::kRehearsal || o->rehearsed() != Rehearsed::kNothing)
            noting.push_back(o.get());
    }
    return noting;
}

void Observers::keep(int64_t layer, int64_t head, std::span<const int32_t> kept) {
    for (const auto& o : all_) o->keep(layer, head, kept);
}

void Observers::held(int64_t layer, std::span<const std::span<const int32_t>> heads) {
    for (const auto& o : all_) o->held(layer, heads);
}

void Observers::shift(int64_t positions) {
    for (const auto& o : all_) o->shift(positions);
}

void Observers::reset() {
    for (const auto& o : all_) o->reset();
}

size_t Observers::bytes() const {
    size_t n = 0;
    for (const auto& o : all_) n += o->bytes();
    return n;
}

size_t Observers::bytes_per_entry() const {
    size_t n = 0;
    for (const auto& o : all_) n += o->bytes_per_entry();
    return n;
}

void Observers::save(std::ostream& out) const {
    for (const auto& o : all_) o->save(out);
}

void Observers::load(std::istream& in) {
    for (const auto& o : all_) o->load(in);
}

}  // namespace palimpsest
