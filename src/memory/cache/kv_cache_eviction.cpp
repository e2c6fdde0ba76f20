// The part of KvCache that lets entries go: scoring, cutting, renumbering.

#include <algorithm>
#include <atomic>
#include <chrono>

#include "memory/cache/kv_cache.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

bool KvCache::exceeds(const CutTarget& target) const {
    int64_t held = 0;
    int64_t allowed = 0;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (!evictor_->evicts(layer)) continue;
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            held += std::ssize(head(layer, h).positions);
            allowed += target.entries;
        }
    }
    return held > allowed;
}

std::vector<LayerCandidates> KvCache::score_layers() {
    std::vector<LayerCandidates> layers;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (!evictor_->evicts(layer)) continue;
        LayerCandidates& of = layers.emplace_back();
        of.view = {.layer = layer,
                   .shape = &shape_,
                   .heads = {},
                   .n_seen = seen_,
                   .next_position = next_position_,
                   .scale = scales_[static_cast<size_t>(layer)]};
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& held = head(layer, h);
            of.view.heads.push_back({.positions = held.positions,
                                     .rotary = held.rotary.empty()
                                                   ? std::span<const int32_t>(held.positions)
                                                   : std::span<const int32_t>(held.rotary),
                                     .rows = store_.rows(layer, h)});
            of.is_protected.push_back(evictor_->protection().mark(held.positions, seen_));
        }
    }
    std::atomic<size_t> next = 0;
    backend_.on_all_threads([&](int thread, int /*n_threads*/) {
        for (size_t i = next++; i < layers.size(); i = next++) {
            layers[i].view.scratch = scratch_.of_thread(thread);
            evictor_->score(layers[i]);
        }
    });
    return layers;
}

void KvCache::cut(const CutTarget& target) {
    const auto start = Clock::now();
    std::vector<LayerCandidates> layers = score_layers();
    scoring_s_ += seconds_since(start);
    const auto scored = Clock::now();
    const auto kept = evictor_->choose(backend_, layers, scratch_, target);
    Cut told = before_cut(layers);
    std::atomic<size_t> next = 0;
    backend_.on_all_threads([&](int thread, int /*n_threads*/) {
        for (size_t i = next++; i < layers.size(); i = next++) {
            for (size_t h = 0; h < kept[i].size(); ++h) {
                keep(layers[i].view.layer, static_cast<int64_t>(h), kept[i][h],
                     scratch_.of_thread(thread));
            }
            tell_held(layers[i].view.layer);
        }
    });
    ++n_cuts_;
    cutting_s_ += seconds_since(scored);
    tell_cut(told);
}

void KvCache::keep(int64_t layer, int64_t h, std::span<const int32_t> kept, float* scratch) {
    Head& of = head(layer, h);
    if (std::ssize(kept) == std::ssize(of.positions)) return;
    if (Residue* residue = evictor_->residue(); residue != nullptr) {
        const std::vector<int32_t> gone = complement(kept, std::ssize(of.positions));
        residue->absorb({.layer = layer,
                         .head = h,
                         .held = {.positions = of.positions,
                                  .rotary = of.rotary.empty() ? of.positions : of.rotary,
                                  .rows = store_.rows(layer, h)},
                         .kept = kept,
                         .gone = gone,
                         .store = &store_,
                         .scratch = scratch});
    }
    store_.gather(layer, h, kept);
    for (size_t i = 0; i < kept.size(); ++i) {
        const auto from = static_cast<size_t>(kept[i]);
        of.positions[i] = of.positions[from];
        if (!of.rotary.empty()) of.rotary[i] = of.rotary[from];
    }
    of.positions.resize(kept.size());
    if (!of.rotary.empty()) of.rotary.resize(kept.size());
    evictor_->observers().keep(layer, h, kept);
}

void KvCache::tell_held(int64_t layer) {
    std::vector<std::span<const int32_t>> heads;
    for (int64_t h = 0; h < shape_.n_head_kv; ++h) heads.emplace_back(head(layer, h).positions);
    evictor_->observers().held(layer, heads);
}

/// What on_cut() will want to know of the entries and scores there were; nothing, if nobody asks.
Cut KvCache::before_cut(const std::vector<LayerCandidates>& layers) const {
    Cut told = {.n_seen = seen_, .held = {}, .scores = {}, .kept = {}};
    if (!options_.on_cut) return told;
    told.held.resize(static_cast<size_t>(shape_.n_layer));
    told.scores.resize(static_cast<size_t>(shape_.n_layer));
    for (const LayerCandidates& of : layers) {
        const auto layer = static_cast<size_t>(of.view.layer);
        told.scores[layer] = of.scores;
        for (const HeadView& h : of.view.heads) {
            told.held[layer].emplace_back(h.positions.begin(), h.positions.end());
        }
    }
    return told;
}

void KvCache::tell_cut(Cut& told) const {
    if (!options_.on_cut) return;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        auto& of = told.kept.emplace_back();
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) of.push_back(head(layer, h).positions);
    }
    told.residue = evictor_->residue();
    options_.on_cut(told);
}

bool KvCache::must_renumber() const {
    if (options_.eviction.one_shot || shape_.rotation.frequency.empty()) return false;
    const Positions mode = options_.eviction.positions;
    if (mode == Positions::kCompact) return true;
    return mode == Positions::kAuto && shape_.n_ctx_train > 0 &&
           next_position_ + evictor_->slack() > shape_.n_ctx_train;
}

/// Makes every head's positions contiguous, so that the last entry of all is the one before the
/// next position. Heads may hold different numbers of entries and share that position.
void KvCache::renumber() {
    int64_t longest = 0;
    for (const Head& of : heads_) longest = std::max(longest, std::ssize(of.positions));
    if (first_position_ + longest >= next_position_) return;
    std::atomic<int64_t> next = 0;
    backend_.on_all_threads([&](int /*thread*/, int /*n_threads*/) {
        std::vector<float> key(static_cast<size_t>(shape_.d_head));
        for (int64_t i = next++; i < std::ssize(heads_); i = next++) {
            const int64_t layer = i / shape_.n_head_kv;
            const int64_t h = i % shape_.n_head_kv;
            Head& of = heads_[static_cast<size_t>(i)];
            if (of.rotary.empty()) {
                of.rotary.reserve(of.positions.capacity());
                of.rotary = of.positions;
            }
            Turner turner(shape_.rotation_of(layer));
            const EntryRows stored = store_.rows(layer, h);
            const int64_t n = std::ssize(of.positions);
            for (int64_t t = 0; t < n; ++t) {
                int32_t& at = of.rotary[static_cast<size_t>(t)];
                const auto to = static_cast<int32_t>(first_position_ + longest - n + t);
                if (at == to) continue;
                read_keys(stored, of.begin + t, 1, key.data());
                turner.turn(key.data(), int64_t{to} - at);
                store_.write_key(layer, h, of.begin + t, key.data());
                at = to;
            }
        }
    });
    evictor_->observers().shift(first_position_ + longest - next_position_);
    next_position_ = first_position_ + longest;
    if (n_renumbered_++ == 0) first_renumbered_at_ = seen_;
}

void KvCache::give_back_pages() {
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (!evictor_->evicts(layer)) continue;
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            Head& of = head(layer, h);
            if (of.touched == std::ssize(of.positions)) continue;
            of.touched = std::ssize(of.positions);
            store_.release_from(layer, h, of.touched);
        }
    }
}

}  // namespace palimpsest
