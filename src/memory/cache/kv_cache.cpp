#include "memory/cache/kv_cache.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kViewStep = 256;  // slots in view of a reference graph grow by this much
constexpr int64_t kMostPositions = int64_t{1} << 23;  // the kernels count slots in f32
constexpr int64_t kMostRehearsed = kMostRepeated + kMostAsking;

int64_t slots_needed(const MemoryShape& shape, int64_t n_ctx) {
    int64_t widest = 0;
    for (int64_t i = 0; i < shape.n_layer; ++i) widest = std::max(widest, shape.window(i));
    // A sliding head moves down only after its window has moved on by a window's length.
    const int64_t slots = n_ctx + std::min(2 * widest, n_ctx) + kMostRehearsed;
    return (slots + kViewStep - 1) / kViewStep * kViewStep;
}

KvCacheOptions completed(KvCacheOptions options) {
    require(options.n_ctx >= 1 && options.n_ctx <= kMostPositions, "a context of ", options.n_ctx,
            " positions; it must be 1 to ", kMostPositions);
    return options;
}

/// [d, heads, n] -> [d, n, 1, heads], for ggml_set_rows.
Tensor heads_last(ggml_context* c, Tensor t) {
    Tensor rows = ggml_cont(c, ggml_permute(c, t, 0, 2, 1, 3));
    return ggml_reshape_4d(c, rows, t->ne[0], t->ne[2], 1, t->ne[1]);
}

EvictionSetup setup_of(const KvCacheOptions& options, const EvictionOptions& eviction) {
    return {.options = eviction, .supplies = options.supplies, .entries = options.entries};
}

std::unique_ptr<Evictor> make_evictor(const MemoryShape& shape, const KvCacheOptions& options) {
    if (options.eviction.policy != "full") {
        return std::make_unique<Evictor>(shape, setup_of(options, options.eviction), options.n_ctx);
    }
    require(options.eviction.budget.kind == Budget::Kind::kNone,
            "policy 'full' forgets nothing and needs no memory budget; name another policy");
    return nullptr;
}

std::vector<Observers> make_watching(const MemoryShape& shape, const KvCacheOptions& options) {
    std::vector<Observers> watching;
    for (const EvictionOptions& o : options.watching) {
        watching.push_back(make_observers(shape, setup_of(options, o)));
    }
    require(watching.empty() || options.eviction.policy == "full",
            "policies can watch only where nothing is evicted");
    return watching;
}

}  // namespace

KvCache::KvCache(const Backend& backend, const MemoryShape& shape, const KvCacheOptions& options)
    : shape_(require_alike(shape)),
      options_(completed(options)),
      backend_(backend),
      evictor_(make_evictor(shape_, options_)),
      watching_(make_watching(shape_, options_)),
      store_(shape, options.entries, slots_needed(shape, options.n_ctx)),
      scratch_(shape, backend.n_threads()),
      heads_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)),
      scales_(static_cast<size_t>(shape.n_layer), 1.0F) {
    if (!options_.prefix.is_empty()) {
        require(options_.path == AttentionPath::kFused,
                "prefix memories need the fused attention, not the reference");
        prefix_ = std::make_unique<PrefixReader>(options_.prefix, shape_, backend.n_threads());
        first_position_ = options_.prefix.n_positions();
        next_position_ = first_position_;
    }
    if (evictor_ != nullptr || !watching_.empty() || prefix_) scratch_.note_lse();
    if (options.eviction.budget.kind == Budget::Kind::kBytes) set_byte_budget();
}

/// What everything together may take while the longest chunk lies on top of so many entries a head.
size_t KvCache::bytes_with(int64_t entries) {
    // A rehearsal lies on top of what it repeats; both together are one chunk.
    const int64_t longest = entries + evictor_->slack();
    int64_t most_decoded = 1;  // positions that the decoding kernel takes at once
    while (is_decoding(shape_, most_decoded + 1)) ++most_decoded;
    scratch_.prepare(most_decoded, longest);
    if (prefix_ != nullptr) prefix_->begin({.n = evictor_->slack()});
    const Residue* residue = evictor_->residue();
    const auto lse_floats = static_cast<size_t>(shape_.n_head * evictor_->slack());
    size_t bytes = scratch_.bytes() + lse_floats * sizeof(float) + evictor_->policy_bytes() +
                   (residue != nullptr ? residue->bytes() : 0) +
                   (prefix_ != nullptr ? prefix_->bytes() : 0);
    const size_t per_entry = evictor_->observers().bytes_per_entry() +
                             (residue != nullptr ? residue->bytes_per_entry() : 0) +
                             2 * sizeof(int32_t);
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        const int64_t window = shape_.window(layer);
        const int64_t slots = window > 0 ? 3 * window + evictor_->slack() : longest;
        // Heads of uneven length round up to whole pages each on their own.
        const size_t one = store_.bytes_of(slots) + 2 * ReservedMemory::page_bytes() +
                           static_cast<size_t>(slots) * per_entry;
        bytes += static_cast<size_t>(shape_.n_head_kv) * one;
    }
    return bytes;
}

void KvCache::set_byte_budget() {
    const auto wanted = static_cast<size_t>(options_.eviction.budget.count);
    const size_t least = bytes_with(1);
    require(wanted >= least, "a memory budget of ", wanted,
            " bytes is too small: one entry a head ", "and a chunk of ", evictor_->slack(),
            " on top take ", least,
            " bytes; raise the budget, or lower --chunk and the eviction interval");
    int64_t fits = 1;
    int64_t too_many = options_.n_ctx - evictor_->slack() + 1;
    while (too_many - fits > 1) {
        const int64_t middle = fits + (too_many - fits) / 2;
        (bytes_with(middle) <= wanted ? fits : too_many) = middle;
    }
    evictor_->set_entries(fits, cat(" (what ", wanted, " bytes come to)"));
}

KvCache::Head& KvCache::head(int64_t layer, int64_t h) {
    return heads_[static_cast<size_t>(layer * shape_.n_head_kv + h)];
}

const KvCache::Head& KvCache::head(int64_t layer, int64_t h) const {
    return heads_[static_cast<size_t>(layer * shape_.n_head_kv + h)];
}

std::span<const int32_t> KvCache::positions(int64_t layer, int64_t h) const {
    return head(layer, h).positions;
}

std::vector<int32_t> KvCache::rotary(int64_t layer, int64_t h) const {
    const Head& of = head(layer, h);
    return of.rotary.empty() ? of.positions : of.rotary;
}

std::vector<Observer*> KvCache::observers(const Step& step) const {
    if (evictor_ != nullptr) return evictor_->observers().of(step);
    std::vector<Observer*> all;
    for (const Observers& of : watching_) {
        const std::vector<Observer*> some = of.of(step);
        all.insert(all.end(), some.begin(), some.end());
    }
    return all;
}

Rehearses KvCache::rehearses() const {
    const auto wants = [](const Observers& of) { return of.rehearsed() != Rehearsed::kNothing; };
    if (std::ranges::any_of(watching_, wants)) return Rehearses::kAfterThePrompt;
    if (evictor_ == nullptr || !wants(evictor_->observers())) return Rehearses::kNever;
    return options_.eviction.one_shot ? Rehearses::kAfterThePrompt : Rehearses::kAfterEachStep;
}

Rehearsed KvCache::rehearsed() const {
    for (const Observers& of : watching_) {
        if (of.rehearsed() != Rehearsed::kNothing) return of.rehearsed();
    }
    return evictor_ == nullptr ? Rehearsed::kNothing : evictor_->observers().rehearsed();
}

int64_t KvCache::room() const {
    if (evictor_ == nullptr || options_.eviction.one_shot) return options_.n_ctx - seen_;
    if (const Budget& budget = evictor_->options().budget; budget.kind == Budget::Kind::kEvicted) {
        // What stays is a share of all that was read, and must fit the context.
        const auto fits = static_cast<double>(options_.n_ctx - evictor_->slack());
        return static_cast<int64_t>(std::min(fits / (1 - budget.share), 2e9)) - seen_;
    }
    return std::numeric_limits<int32_t>::max() - seen_;
}

std::vector<Segment> KvCache::admit(std::vector<Segment> prompt) {
    if (evictor_ != nullptr) evictor_->admit(prompt, seen_);
    return prompt;
}

/// Cuts leave a head room for the longest step; what was written since the last cut may have taken
/// some of it.
void KvCache::make_room(const Step& step) {
    if (evictor_ == nullptr || options_.eviction.one_shot || step.kind != StepKind::kRead) return;
    const bool fits = std::ranges::all_of(
        heads_, [&](const Head& h) { return std::ssize(h.positions) + step.n <= options_.n_ctx; });
    // Also where all heads together hold no more than they may.
    if (!fits) cut(evictor_->targets(seen_).back());
}

uint64_t KvCache::plan(const Step& step) {
    check(step.n >= 1, "a step without positions");
    make_room(step);
    int64_t longest = 0;
    int64_t last_slot = 0;
    for (const Head& h : heads_) {
        longest = std::max(longest, std::ssize(h.positions));
        last_slot = std::max(last_slot, h.begin + std::ssize(h.positions) + n_rehearsed_ + step.n);
    }
    if (step.kind == StepKind::kRehearsal) {
        if (n_rehearsed_ + step.n > kMostRehearsed) {
            throw Error(ErrorCode::kExhausted, cat("a rehearsal of ", n_rehearsed_ + step.n,
                                                   " positions; at most ", kMostRehearsed, " fit"));
        }
    } else if (evictor_ == nullptr || options_.eviction.one_shot) {
        if (seen_ + step.n > options_.n_ctx) {
            throw Error(ErrorCode::kExhausted,
                        cat("the context is full: it holds ", seen_, " of ", options_.n_ctx,
                            " positions and ", step.n, " more were to be added"));
        }
    } else if (longest + step.n > options_.n_ctx) {
        throw Error(ErrorCode::kExhausted,
                    cat("the context is full: a head holds ", longest, " entries of at most ",
                        options_.n_ctx, " and ", step.n, " more were to be added"));
    } else if (step.kind == StepKind::kRead && step.n > evictor_->slack()) {
        throw Error(ErrorCode::kExhausted, cat("a step of ", step.n, " positions; the budget ",
                                               "allows for ", evictor_->slack(), " at once"));
    }
    step_ = step;
    if (prefix_) prefix_->begin(step);
    for (Observer* observer : observers(step)) observer->begin(step, seen_);
    scratch_.prepare(step.n, last_slot);
    slots_in_view_ = (last_slot + kViewStep - 1) / kViewStep * kViewStep;
    const int64_t view = options_.path == AttentionPath::kReference ? slots_in_view_ : 0;
    // Not all that watch a prompt watch a rehearsal: another graph.
    const uint64_t is_rehearsal = step.kind == StepKind::kRehearsal ? 1 : 0;
    return (static_cast<uint64_t>(view) << 32U) | (is_rehearsal << 31U) |
           static_cast<uint64_t>(step.n);
}

void KvCache::store(int64_t layer, int64_t h, int64_t i, const float* k, const float* v) noexcept {
    const Head& to = head(layer, h);
    store_.write(layer, h, to.begin + std::ssize(to.positions) + n_rehearsed_ + i, k, v);
}

EntryRows KvCache::rows(int64_t layer, int64_t h) const noexcept { return store_.rows(layer, h); }

SlotRange KvCache::visible(int64_t layer, int64_t h, int64_t i) const noexcept {
    const Head& of = head(layer, h);
    const int64_t held = std::ssize(of.positions) + n_rehearsed_;
    SlotRange range = {of.begin, of.begin + held + i + 1};
    const int64_t window = shape_.window(layer);
    if (window == 0) return range;
    const int64_t oldest = seen_ + n_rehearsed_ + i - window + 1;
    const auto first = std::ranges::lower_bound(of.positions, oldest);
    range.begin += first - of.positions.begin();
    // The step's own positions follow one another.
    if (first == of.positions.end()) range.begin += std::max<int64_t>(0, oldest - seen_);
    return range;
}

Tensor KvCache::attend(Graph& g, const AttentionInputs& in) {
    scales_[static_cast<size_t>(in.layer)] = in.scale;
    Tensor out = options_.path == AttentionPath::kReference
                     ? attend_reference(g, in)
                     : fused_attention(g, shape_, in, *this, scratch_);
    const bool is_looked_at = evictor_ != nullptr || !observers(step_).empty();
    if (is_looked_at && shape_.window(in.layer) == 0) observe(g, in, out);
    for (JoinedPast* past : joined(in.layer)) out = past->join(g, in, out, scratch_);
    return out;
}

/// Lets all who note the step look at a layer whose attention is `attended`.
void KvCache::observe(Graph& g, const AttentionInputs& in, Tensor attended) {
    g.keep(attended);  // entries are stored before anyone looks at them
    if (options_.path == AttentionPath::kReference) note_lse(g, shape_, in, *this, scratch_);
    for (Observer* observer : observers(step_)) observer->observe(g, in, *this, scratch_);
}

std::vector<JoinedPast*> KvCache::joined(int64_t layer) const {
    std::vector<JoinedPast*> all;
    const bool evicts = evictor_ != nullptr && evictor_->evicts(layer);
    if (evicts && evictor_->residue() != nullptr) all.push_back(evictor_->residue());
    if (prefix_ != nullptr) all.push_back(prefix_.get());
    return all;
}

Tensor KvCache::attend_reference(Graph& g, const AttentionInputs& in) {
    ggml_context* c = g.ctx();
    const int64_t n = in.q->ne[2];
    const int64_t n_slots = slots_in_view_;
    Tensor where =
        g.input(GGML_TYPE_I64, {n, 1, shape_.n_head_kv, 1},
                [this, layer = in.layer](std::span<std::byte> out) { fill_slots(layer, out); });
    Tensor mask = g.input(GGML_TYPE_F32, {n_slots, n, 1, shape_.n_head_kv},
                          [this, layer = in.layer, n_slots](std::span<std::byte> out) {
                              fill_mask(layer, n_slots, out);
                          });
    // Read through what set_rows returns: it carries the order of writing before reading.
    Tensor k =
        g.keep(ggml_set_rows(c, store_.key_view(g, in.layer, n_slots), heads_last(c, in.k), where));
    Tensor v = g.keep(
        ggml_set_rows(c, store_.value_view(g, in.layer, n_slots), heads_last(c, in.v), where));
    return reference_attention(g, in, k, v, mask);
}

void KvCache::fill_slots(int64_t layer, std::span<std::byte> out) const {
    auto* slot = reinterpret_cast<int64_t*>(out.data());
    for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
        const Head& to = head(layer, h);
        for (int64_t i = 0; i < step_.n; ++i) {
            *slot++ = to.begin + std::ssize(to.positions) + n_rehearsed_ + i;
        }
    }
}

void KvCache::fill_mask(int64_t layer, int64_t n_slots, std::span<std::byte> out) const {
    auto* row = reinterpret_cast<float*>(out.data());
    for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
        for (int64_t i = 0; i < step_.n; ++i, row += n_slots) {
            const SlotRange seen = visible(layer, h, i);
            std::fill_n(row, n_slots, -std::numeric_limits<float>::infinity());
            std::fill(row + seen.begin, row + seen.end, 0.0F);
        }
    }
}

void KvCache::append(const Step& step) {
    const bool has_rotary = !is_turned_as_read();
    for (Head& of : heads_) {
        // To the entry: a budget counts this list too. Without one it may grow by doubling.
        if (evictor_ != nullptr) {
            const auto n = std::max(of.positions.size() + static_cast<size_t>(step.n),
                                    of.positions.capacity());
            of.positions.reserve(n);
            if (has_rotary) of.rotary.reserve(n);
        }
        for (int64_t i = 0; i < step.n; ++i) {
            of.positions.push_back(static_cast<int32_t>(seen_ + i));
            if (has_rotary) of.rotary.push_back(static_cast<int32_t>(next_position_ + i));
        }
        of.touched = std::max(of.touched, of.begin + std::ssize(of.positions));
    }
    seen_ += step.n;
    next_position_ += step.n;
}

/// Keeps what a rehearsal has read until its piece ends; then forgets all of it.
void KvCache::settle_rehearsal(const Step& step) {
    n_rehearsed_ += step.n;
    for (Head& of : heads_) {
        of.touched = std::max(of.touched, of.begin + std::ssize(of.positions) + n_rehearsed_);
    }
    peak_bytes_ = std::max(peak_bytes_, usage().bytes);
    if (step.rehearsal.ends_piece) n_rehearsed_ = 0;
}

void KvCache::settle(const Step& step) {
    if (step.kind == StepKind::kRehearsal) {
        settle_rehearsal(step);
    } else {
        append(step);
    }
    peak_bytes_ = std::max(peak_bytes_, usage().bytes);
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (shape_.window(layer) == 0) continue;
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) slide(layer, h);
    }
    if (evictor_ == nullptr) return;
    if (evictor_->is_due(step, seen_)) {
        for (const CutTarget& target : evictor_->targets(seen_)) {
            if (exceeds(target)) cut(target);
        }
        if (!step.is_prefill) give_back_pages();
    }
    if (must_renumber()) renumber();
}

/// Forgets what no query to come can see.
void KvCache::slide(int64_t layer, int64_t h) {
    Head& of = head(layer, h);
    const int64_t oldest = seen_ - shape_.window(layer) + 1;
    const auto first = std::ranges::lower_bound(of.positions, oldest);
    const auto n = first - of.positions.begin();
    of.begin += n;
    if (!of.rotary.empty()) of.rotary.erase(of.rotary.begin(), of.rotary.begin() + n);
    of.positions.erase(of.positions.begin(), first);
    if (of.begin < std::min(2 * shape_.window(layer), options_.n_ctx)) return;
    store_.move_to_front(layer, h, of.begin, std::ssize(of.positions));
    of.begin = 0;
    of.touched = std::ssize(of.positions);
    store_.release_from(layer, h, of.touched);
}

// ---- state
// ----------------------------------------------------------------------------------------

bool KvCache::can_rewind() const {
    return evictor_ == nullptr && watching_.empty() && n_renumbered_ == 0 && !shape_.slides();
}

void KvCache::rewind(int64_t position) {
    check(can_rewind() && position >= 0 && position <= seen_, "a memory goes back that cannot");
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            Head& of = head(layer, h);
            of.positions.resize(static_cast<size_t>(position));  // every one is held
            if (!of.rotary.empty()) of.rotary.resize(static_cast<size_t>(position));
            of.touched = of.begin + position;
            store_.release_from(layer, h, of.touched);
        }
    }
    next_position_ -= seen_ - position;
    seen_ = position;
}

void KvCache::reset() {
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            head(layer, h) = {};
            store_.release_from(layer, h, 0);
        }
    }
    if (evictor_ != nullptr) evictor_->reset();
    for (Observers& of : watching_) of.reset();
    step_ = {};
    seen_ = 0;
    next_position_ = first_position_;
    if (prefix_) prefix_->reset();
    n_rehearsed_ = 0;
    peak_bytes_ = 0;
    n_cuts_ = 0;
    n_renumbered_ = 0;
    first_renumbered_at_ = -1;
    scoring_s_ = 0;
    cutting_s_ = 0;
}

MemoryUsage KvCache::usage() const {
    const MemoryReport::Bytes bytes = owned_bytes();
    MemoryUsage u = {.positions_seen = seen_, .entries_held = 0, .bytes = bytes.total()};
    for (const Head& h : heads_) u.entries_held = std::max(u.entries_held, std::ssize(h.positions));
    return u;
}

MemoryReport::Bytes KvCache::owned_bytes() const {
    MemoryReport::Bytes b = {.scratch = scratch_.bytes()};
    for (const Head& h : heads_) {
        b.entries += store_.bytes_of(h.touched);
        b.bookkeeping += (h.positions.capacity() + h.rotary.capacity()) * sizeof(int32_t);
    }
    if (prefix_) b.scratch += prefix_->bytes();
    for (const Observers& of : watching_) b.policy += of.bytes();
    if (evictor_ == nullptr) return b;
    b.policy = evictor_->policy_bytes();
    if (evictor_->residue() != nullptr) b.residue = evictor_->residue()->bytes();
    return b;
}

MemoryReport KvCache::report() const {
    MemoryReport r;
    r.entries = ggml_type_name(options_.entries);
    r.positions_seen = seen_;
    r.bytes = owned_bytes();
    r.peak_bytes = std::max(peak_bytes_, r.bytes.total());
    r.held_share.resize(static_cast<size_t>(seen_));
    int64_t n_forgetting = 0;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        MemoryReport::Layer& of = r.layers.emplace_back();
        of.window = shape_.window(layer);
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& held = head(layer, h);
            of.held.push_back(std::ssize(held.positions));
            of.bytes += store_.bytes_of(held.touched);
            if (of.window > 0) continue;
            ++n_forgetting;
            for (const int32_t p : held.positions) r.held_share[static_cast<size_t>(p)] += 1;
        }
    }
    for (float& share : r.held_share) {
        share = n_forgetting > 0 ? share / static_cast<float>(n_forgetting) : 1.0F;
    }
    if (prefix_) r.prefix = prefix_->report();
    if (evictor_ == nullptr) return r;
    r.policy = options_.eviction.policy;
    r.allocator = evictor_->allocator_name();
    r.residue = options_.eviction.residue;
    r.budget = to_string(options_.eviction.budget);
    r.one_shot = options_.eviction.one_shot;
    r.budget_entries = evictor_->target(seen_).entries;
    const Protection& protection = evictor_->protection();
    r.n_sink = protection.n_sink;
    r.n_recent = protection.n_recent;
    for (const auto& [begin, end] : protection.pinned) r.n_pinned += end - begin;
    r.is_residue_readable = evictor_->residue() != nullptr && evictor_->residue()->is_readable();
    r.n_cuts = n_cuts_;
    r.scoring_s = scoring_s_;
    r.cutting_s = cutting_s_;
    r.n_renumbered = n_renumbered_;
    r.first_renumbered_at = first_renumbered_at_;
    return r;
}

}  // namespace palimpsest
