#include "memory/cache/hybrid_memory.h"

#include <algorithm>
#include <array>
#include <istream>
#include <ostream>

#include "core/error.h"
#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'H', 'Y', '0', '0', '1'};

MemoryShape part_of(const MemoryShape& shape, bool attends) {
    MemoryShape part = shape;
    part.windows.clear();
    part.layers.clear();
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.attends(i) == attends) part.layers.push_back(shape.layer(i));
    }
    part.n_layer = std::ssize(part.layers);
    return part;
}

void add(MemoryReport::Bytes& to, const MemoryReport::Bytes& more) {
    to.entries += more.entries;
    to.bookkeeping += more.bookkeeping;
    to.policy += more.policy;
    to.residue += more.residue;
    to.states += more.states;
    to.scratch += more.scratch;
}

}  // namespace

MemoryShape attention_part(const MemoryShape& shape) { return part_of(shape, true); }

MemoryShape recurrent_part(const MemoryShape& shape) { return part_of(shape, false); }

HybridMemory::HybridMemory(const MemoryShape& shape, std::unique_ptr<ContextMemory> attention,
                           std::unique_ptr<ContextMemory> recurrence)
    : attention_(std::move(attention)), recurrence_(std::move(recurrence)) {
    check(attention_ != nullptr && recurrence_ != nullptr, "a hybrid memory has two parts");
    std::array<int64_t, 2> count = {};
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        attends_.push_back(shape.attends(i));
        place_.push_back(count.at(attends_.back() ? 1 : 0)++);
    }
    if (count[0] == 0 || count[1] == 0) {
        throw Error(ErrorCode::kUnsupported,
                    cat("a hybrid memory for ", count[1], " layers that attend and ", count[0],
                        " recurrent ones; where one kind is missing, one memory will do"));
    }
}

int64_t HybridMemory::place(int64_t layer, bool attends) const {
    check(
        layer >= 0 && layer < std::ssize(place_) && attends_[static_cast<size_t>(layer)] == attends,
        "a layer is called as what it is");
    return place_[static_cast<size_t>(layer)];
}

std::vector<Segment> HybridMemory::admit(std::vector<Segment> prompt) {
    return recurrence_->admit(attention_->admit(std::move(prompt)));
}

uint64_t HybridMemory::plan(const Step& step) {
    const std::pair keys = {attention_->plan(step), recurrence_->plan(step)};
    if (keys != keys_ || key_ == 0) ++key_;
    keys_ = keys;
    return key_;
}

Tensor HybridMemory::attend(Graph& g, const AttentionInputs& in) {
    AttentionInputs own = in;
    own.layer = place(in.layer, true);
    return attention_->attend(g, own);
}

Tensor HybridMemory::recur(Graph& g, const RecurrenceInputs& in) {
    RecurrenceInputs own = in;
    own.layer = place(in.layer, false);
    return recurrence_->recur(g, own);
}

Tensor HybridMemory::with_before(Graph& g, int64_t layer, Tensor channels) {
    return recurrence_->with_before(g, place(layer, false), channels);
}

void HybridMemory::settle(const Step& step) {
    attention_->settle(step);
    recurrence_->settle(step);
}

void HybridMemory::reset() {
    attention_->reset();
    recurrence_->reset();
}

std::span<const int32_t> HybridMemory::positions(int64_t layer, int64_t head) const {
    if (!attends_.at(static_cast<size_t>(layer))) return {};
    return attention_->positions(place_[static_cast<size_t>(layer)], head);
}

std::span<const float> HybridMemory::states(int64_t layer) const {
    if (attends_.at(static_cast<size_t>(layer))) return {};
    return recurrence_->states(place_[static_cast<size_t>(layer)]);
}

MemoryUsage HybridMemory::usage() const {
    MemoryUsage usage = attention_->usage();
    usage.bytes += recurrence_->usage().bytes;
    return usage;
}

MemoryReport HybridMemory::report() const {
    MemoryReport all = attention_->report();
    const MemoryReport states = recurrence_->report();
    add(all.bytes, states.bytes);
    all.peak_bytes += states.peak_bytes;  // at most: the two need not have come at once
    std::vector<MemoryReport::Layer> layers;
    for (size_t i = 0; i < place_.size(); ++i) {
        const auto& of = attends_[i] ? all.layers : states.layers;
        layers.push_back(of.at(static_cast<size_t>(place_[i])));
    }
    all.layers = std::move(layers);
    all.states = states.states;
    return all;
}

int64_t HybridMemory::next_position() const { return attention_->next_position(); }

Rehearses HybridMemory::rehearses() const { return attention_->rehearses(); }
Rehearsed HybridMemory::rehearsed() const { return attention_->rehearsed(); }

int64_t HybridMemory::room() const { return std::min(attention_->room(), recurrence_->room()); }

void HybridMemory::save(std::ostream& out) const {
    out.write(kMagic.data(), kMagic.size());
    attention_->save(out);
    recurrence_->save(out);
}

void HybridMemory::load_parts(std::istream& in) {
    attention_->load(in);
    recurrence_->load(in);
    const int64_t seen = attention_->usage().positions_seen;
    const int64_t taken_in = recurrence_->usage().positions_seen;
    if (seen != taken_in) {
        throw Error(ErrorCode::kCorrupt,
                    cat("the saved memory does not fit: its entries are of ", seen,
                        " positions, its recurrent states of ", taken_in));
    }
}

void HybridMemory::load(std::istream& in) {
    if (take<std::array<char, 8>>(in) != kMagic) {
        throw Error(ErrorCode::kCorrupt,
                    "the saved memory does not fit: it is not of layers of two kinds");
    }
    try {
        load_parts(in);
    } catch (const Error&) {
        reset();
        throw;
    }
}

}  // namespace palimpsest
