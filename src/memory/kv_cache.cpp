#include "memory/kv_cache.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>
#include <sstream>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/scoring_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kViewStep = 256;  // slots in view of a reference graph grow by this much
constexpr int64_t kMostPositions = int64_t{1} << 23;  // the kernels count slots in f32
constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'K', 'V', '0', '0', '1'};

constexpr int64_t kMostRehearsed = 2048 + 512;  // a piece, and what asks for it

int64_t slots_needed(const MemoryShape& shape, int64_t n_ctx) {
    int64_t widest = 0;
    for (int64_t i = 0; i < shape.n_layer; ++i) widest = std::max(widest, shape.window(i));
    // A sliding head moves down only after its window has moved on by a window's length.
    const int64_t slots = n_ctx + std::min(2 * widest, n_ctx) + kMostRehearsed;
    return (slots + kViewStep - 1) / kViewStep * kViewStep;
}

const KvCacheOptions& checked(const KvCacheOptions& options) {
    require(options.n_ctx >= 1 && options.n_ctx <= kMostPositions, "a context of ", options.n_ctx,
            " positions; it must be 1 to ", kMostPositions);
    return options;
}

/// [d, heads, n] -> [d, n, 1, heads], for ggml_set_rows.
Tensor heads_last(ggml_context* c, Tensor t) {
    Tensor rows = ggml_cont(c, ggml_permute(c, t, 0, 2, 1, 3));
    return ggml_reshape_4d(c, rows, t->ne[0], t->ne[2], 1, t->ne[1]);
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void corrupt(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, "the saved memory does not fit: " + what);
}

/// What must be the same for a saved state to go on.
std::vector<char> fingerprint(const EvictionOptions& o, std::string_view allocator) {
    std::string text = cat(o.policy, "/", allocator, "/", o.residue, "/", to_string(o.budget), "/",
                           o.n_sink, "/", o.n_recent, "/", o.one_shot);
    for (const auto& [name, value] : o.settings) text += cat("/", name, "=", value);
    return {text.begin(), text.end()};
}

std::unique_ptr<Evictor> make_evictor(const MemoryShape& shape, const KvCacheOptions& options) {
    if (options.eviction.policy != "full") {
        return std::make_unique<Evictor>(shape, options.eviction, options.n_ctx);
    }
    require(options.eviction.budget.kind == Budget::Kind::kNone,
            "policy 'full' forgets nothing and needs no memory budget; name another policy");
    return nullptr;
}

std::vector<std::unique_ptr<EvictionPolicy>> make_watching(const MemoryShape& shape,
                                                           const KvCacheOptions& options) {
    std::vector<std::unique_ptr<EvictionPolicy>> policies;
    for (const EvictionOptions& o : options.watching) policies.push_back(make_policy(shape, o));
    require(policies.empty() || options.eviction.policy == "full",
            "policies can watch only where nothing is evicted");
    return policies;
}

}  // namespace

KvCache::KvCache(const Backend& backend, const MemoryShape& shape, const KvCacheOptions& options)
    : shape_(shape),
      options_(checked(options)),
      backend_(backend),
      evictor_(make_evictor(shape, options)),
      watching_(make_watching(shape, options)),
      store_(shape, options.entries, slots_needed(shape, options.n_ctx)),
      scratch_(shape, backend.n_threads()),
      heads_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)),
      scales_(static_cast<size_t>(shape.n_layer), 1.0F) {
    if (options.eviction.budget.kind == Budget::Kind::kBytes) set_byte_budget();
}

/// What everything together may take while the longest chunk lies on top of so many entries a head.
size_t KvCache::bytes_with(int64_t entries) {
    // A rehearsal lies on top of what it repeats; both together are one chunk.
    const int64_t longest = entries + evictor_->slack();
    int64_t most_decoded = 1;  // positions that the decoding kernel takes at once
    while (is_decoding(shape_, most_decoded + 1)) ++most_decoded;
    scratch_.prepare(most_decoded, longest);
    const Residue* residue = evictor_->residue();
    size_t bytes =
        scratch_.bytes() + evictor_->policy().bytes() + (residue != nullptr ? residue->bytes() : 0);
    const size_t per_entry = evictor_->policy().bytes_per_entry() +
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

std::vector<EvictionPolicy*> KvCache::observers(const Step& step) const {
    std::vector<EvictionPolicy*> all;
    if (evictor_ != nullptr) all.push_back(&evictor_->policy());
    for (const auto& policy : watching_) all.push_back(policy.get());
    if (step.rehearsal) std::erase_if(all, [](const auto* p) { return !p->rehearses(); });
    return all;
}

Rehearses KvCache::rehearses() const {
    const bool one_watches =
        std::ranges::any_of(watching_, [](const auto& p) { return p->rehearses(); });
    if (one_watches) return Rehearses::kAfterThePrompt;
    if (evictor_ == nullptr || !evictor_->policy().rehearses()) return Rehearses::kNever;
    return options_.eviction.one_shot ? Rehearses::kAfterThePrompt : Rehearses::kAfterEachStep;
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

uint64_t KvCache::plan(const Step& step) {
    check(step.n >= 1, "a step without positions");
    int64_t longest = 0;
    int64_t last_slot = 0;
    for (const Head& h : heads_) {
        longest = std::max(longest, std::ssize(h.positions));
        last_slot = std::max(last_slot, h.begin + std::ssize(h.positions) + n_rehearsed_ + step.n);
    }
    if (step.rehearsal) {
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
    } else if (step.may_forget && step.n > evictor_->slack()) {
        throw Error(ErrorCode::kExhausted, cat("a step of ", step.n, " positions; the budget ",
                                               "allows for ", evictor_->slack(), " at once"));
    }
    step_ = step;
    for (EvictionPolicy* policy : observers(step)) policy->begin(step, seen_);
    scratch_.prepare(step.n, last_slot);
    slots_in_view_ = (last_slot + kViewStep - 1) / kViewStep * kViewStep;
    const int64_t view = options_.path == AttentionPath::kReference ? slots_in_view_ : 0;
    // Not all that watch a prompt watch a rehearsal: another graph.
    const uint64_t is_rehearsal = step.rehearsal ? 1 : 0;
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
    const std::vector<EvictionPolicy*> noting = observers(step_);
    if (noting.empty() || shape_.window(in.layer) > 0) return out;
    g.keep(out);  // entries are stored before a policy looks at them
    for (EvictionPolicy* policy : noting) policy->observe(g, in, *this, scratch_);
    Residue* residue = evictor_ == nullptr ? nullptr : evictor_->residue();
    return residue == nullptr ? out : residue->answer(g, in, out);
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
    const bool is_renumbered = next_position_ != seen_;
    for (Head& of : heads_) {
        // To the entry: a budget counts this list too. Without one it may grow by doubling.
        if (evictor_ != nullptr) {
            const auto n = std::max(of.positions.size() + static_cast<size_t>(step.n),
                                    of.positions.capacity());
            of.positions.reserve(n);
            if (is_renumbered) of.rotary.reserve(n);
        }
        for (int64_t i = 0; i < step.n; ++i) {
            of.positions.push_back(static_cast<int32_t>(seen_ + i));
            if (is_renumbered) of.rotary.push_back(static_cast<int32_t>(next_position_ + i));
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
    if (step.rehearsal->ends_piece) n_rehearsed_ = 0;
}

void KvCache::settle(const Step& step) {
    if (step.rehearsal) {
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
        const CutTarget target = evictor_->target(seen_);
        if (exceeds(target)) cut(target);
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

// ---- evicting
// -------------------------------------------------------------------------------------

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
            layers[i].scores = evictor_->policy().score(layers[i].view);
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
    std::atomic<size_t> next = 0;
    backend_.on_all_threads([&](int thread, int /*n_threads*/) {
        for (size_t i = next++; i < layers.size(); i = next++) {
            for (size_t h = 0; h < kept[i].size(); ++h) {
                keep(layers[i].view.layer, static_cast<int64_t>(h), kept[i][h],
                     scratch_.of_thread(thread));
            }
        }
    });
    ++n_cuts_;
    cutting_s_ += seconds_since(scored);
    tell_cut();
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
    evictor_->policy().keep(layer, h, kept);
}

void KvCache::tell_cut() const {
    if (!options_.eviction.on_cut) return;
    Cut told = {.n_seen = seen_, .kept = {}};
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        auto& of = told.kept.emplace_back();
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) of.push_back(head(layer, h).positions);
    }
    options_.eviction.on_cut(told);
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
    if (longest >= next_position_) return;
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
                const auto to = static_cast<int32_t>(longest - n + t);
                if (at == to) continue;
                read_keys(stored, of.begin + t, 1, key.data());
                turner.turn(key.data(), int64_t{to} - at);
                store_.write_key(layer, h, of.begin + t, key.data());
                at = to;
            }
        }
    });
    evictor_->policy().shift(longest - next_position_);
    next_position_ = longest;
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

// ---- forking
// --------------------------------------------------------------------------------------

std::unique_ptr<KvCache> KvCache::fork(const EvictionOptions& eviction) const {
    check(evictor_ == nullptr && n_rehearsed_ == 0, "only a cache that forgets nothing is forked");
    KvCacheOptions options = options_;
    options.eviction = eviction;
    options.watching.clear();
    auto copy = std::make_unique<KvCache>(backend_, shape_, options);
    copy->take_entries(*this);
    if (copy->evictor_ == nullptr) return copy;
    require(eviction.one_shot, "a memory that is cut while it reads must read by itself");
    const auto same = [&](const EvictionOptions& o) {
        return o.policy == eviction.policy && o.settings == eviction.settings;
    };
    const auto found = std::ranges::find_if(options_.watching, same);
    require(found != options_.watching.end(), "policy '", eviction.policy,
            "' with these settings did not watch the reading");
    copy->cut_as_read(*watching_[static_cast<size_t>(found - options_.watching.begin())]);
    return copy;
}

void KvCache::take_entries(const KvCache& from) {
    auto& theirs = const_cast<EntryStore&>(from.store_);  // spans of bytes; only read here
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& of = from.head(layer, h);
            const auto n = std::ssize(of.positions);
            std::ranges::copy(theirs.key_bytes(layer, h, of.begin, n),
                              store_.key_bytes(layer, h, 0, n).begin());
            std::ranges::copy(theirs.value_bytes(layer, h, of.begin, n),
                              store_.value_bytes(layer, h, 0, n).begin());
            head(layer, h) = {.begin = 0, .touched = n, .positions = of.positions};
        }
    }
    scales_ = from.scales_;
    seen_ = from.seen_;
    next_position_ = from.next_position_;
    peak_bytes_ = usage().bytes;
}

/// Cuts what was taken over, by what a policy of the same kind noted while it was read.
void KvCache::cut_as_read(const EvictionPolicy& notes) {
    std::stringstream noted;
    notes.save(noted);
    evictor_->policy().load(noted);
    evictor_->resume_after(seen_);
    peak_bytes_ = usage().bytes;
    const CutTarget target = evictor_->target(seen_);
    if (exceeds(target)) cut(target);
    give_back_pages();
}

// ---- state
// ----------------------------------------------------------------------------------------

void KvCache::reset() {
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            head(layer, h) = {};
            store_.release_from(layer, h, 0);
        }
    }
    if (evictor_ != nullptr) evictor_->reset();
    for (const auto& policy : watching_) policy->reset();
    step_ = {};
    seen_ = 0;
    next_position_ = 0;
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
    for (const auto& policy : watching_) b.policy += policy->bytes();
    if (evictor_ == nullptr) return b;
    b.policy = evictor_->policy().bytes();
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

void KvCache::save(std::ostream& out) const {
    out.write(kMagic.data(), kMagic.size());
    for (const int64_t n : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                            static_cast<int64_t>(options_.entries), seen_}) {
        put(out, n);
    }
    auto& store = const_cast<EntryStore&>(store_);  // spans of bytes; only read here
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& of = head(layer, h);
            const int64_t n = std::ssize(of.positions);
            put(out, n);
            const auto write = [&](std::span<const std::byte> bytes) {
                out.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
            };
            write(std::as_bytes(std::span(of.positions)));
            write(store.key_bytes(layer, h, of.begin, n));
            write(store.value_bytes(layer, h, of.begin, n));
        }
    }
    save_eviction(out);
    if (!out) throw Error(ErrorCode::kExhausted, "the memory could not be written (disk full?)");
}

void KvCache::save_eviction(std::ostream& out) const {
    if (evictor_ == nullptr) return;
    const EvictionOptions& o = options_.eviction;
    put_all(out, fingerprint(o, evictor_->allocator_name()));
    for (const int64_t n : {next_position_, n_cuts_, n_renumbered_, first_renumbered_at_}) {
        put(out, n);
    }
    for (const Head& of : heads_) put_all(out, of.rotary);
    evictor_->save(out);
}

void KvCache::load_eviction(std::istream& in) {
    next_position_ = seen_;
    if (evictor_ == nullptr) return;
    const std::vector<char> wanted = fingerprint(options_.eviction, evictor_->allocator_name());
    if (take_all<char>(in, 1 << 16) != wanted) corrupt("it was made by another policy");
    const auto next_position = take<int64_t>(in);
    n_cuts_ = take<int64_t>(in);
    n_renumbered_ = take<int64_t>(in);
    first_renumbered_at_ = take<int64_t>(in);
    for (Head& of : heads_) {
        of.rotary = take_all<int32_t>(in, std::ssize(of.positions));
        const bool fits = of.rotary.empty() || of.rotary.size() == of.positions.size();
        const bool ascends =
            std::ranges::adjacent_find(of.rotary, std::ranges::greater_equal{}) == of.rotary.end();
        const bool in_range =
            of.rotary.empty() || (of.rotary.front() >= 0 && of.rotary.back() < next_position);
        if (!fits || !ascends || !in_range) corrupt("its rotary positions are impossible");
    }
    if (next_position < 0 || next_position > seen_) corrupt("its next position is impossible");
    evictor_->load(in);
    next_position_ = next_position;
}

void KvCache::load(std::istream& in) {
    if (take<std::array<char, 8>>(in) != kMagic) corrupt("it is no saved key-value cache");
    for (const int64_t expected : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                                   static_cast<int64_t>(options_.entries)}) {
        if (take<int64_t>(in) != expected) corrupt("it is of another model or entry type");
    }
    const auto seen = take<int64_t>(in);
    const bool is_bounded = evictor_ == nullptr || options_.eviction.one_shot;
    if (seen < 0 || seen > (is_bounded ? options_.n_ctx : std::numeric_limits<int32_t>::max())) {
        corrupt(cat("it holds ", seen, " positions, this context ", options_.n_ctx));
    }
    reset();
    try {
        for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
            for (int64_t h = 0; h < shape_.n_head_kv; ++h) load_head(in, layer, h, seen);
        }
        seen_ = seen;
        load_eviction(in);
    } catch (const Error&) {
        reset();
        throw;
    }
}

void KvCache::load_head(std::istream& in, int64_t layer, int64_t h, int64_t seen) {
    const auto read = [&](std::span<std::byte> bytes) {
        in.read(reinterpret_cast<char*>(bytes.data()), std::ssize(bytes));
        if (!in) corrupt("it ends too early");
    };
    const auto n = take<int64_t>(in);
    const bool holds_all = evictor_ == nullptr && shape_.window(layer) == 0;
    if (n < 0 || n > std::min(seen, options_.n_ctx) || (n < seen && holds_all)) {
        corrupt(cat("a head holds ", n, " of ", seen, " entries"));
    }
    Head& of = head(layer, h);
    of.positions.resize(static_cast<size_t>(n));
    read(std::as_writable_bytes(std::span(of.positions)));
    read(store_.key_bytes(layer, h, 0, n));
    read(store_.value_bytes(layer, h, 0, n));
    of.touched = n;
    const bool disordered = std::ranges::adjacent_find(
                                of.positions, std::ranges::greater_equal{}) != of.positions.end();
    if (disordered || (n > 0 && (of.positions.front() < 0 || of.positions.back() >= seen))) {
        corrupt("positions are not ascending");
    }
}

}  // namespace palimpsest
