// The part of KvCache that takes over another's state: forks, saved files.

#include <algorithm>
#include <array>
#include <istream>
#include <limits>
#include <ostream>

#include "core/digest.h"
#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/cache/kv_cache.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'K', 'V', '0', '0', '3'};
constexpr int64_t kMostCounted = std::numeric_limits<int32_t>::max();  // cuts, and the like
constexpr int64_t kMostIdentity = 64;                                  // characters

[[noreturn]] void corrupt(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, "the saved memory does not fit: " + what);
}

/// Tells prefix memories from others: what they are of, and what their states weigh, in which no
/// two builds agree. Empty: there is none.
std::vector<char> identity(const PrefixUse& use) {
    if (use.is_empty()) return {};
    Digest sum;
    for (const auto& document : use.documents) {
        const PrefixHeader& header = document->header();
        sum.add(header.name);
        sum.add(header.model);
        sum.add(std::as_bytes(std::span(header.tokens)));
        for (const PrefixLayer& layer : document->layers()) {
            sum.add(layer.lse.data);
            sum.add(layer.kept_at.data);
        }
    }
    const std::string digits = sum.hex();
    return {digits.begin(), digits.end()};
}

/// What must be the same for a saved state to go on.
std::vector<char> fingerprint(const EvictionOptions& o, const EvictionWeights* learned,
                              std::string_view allocator) {
    std::string text = cat(o.policy, "/", allocator, "/", o.residue, "/", to_string(o.budget), "/",
                           o.n_sink, "/", o.n_recent, "/", o.one_shot, "/", o.n_writing);
    for (const auto& [name, value] : o.settings) text += cat("/", name, "=", value);
    const bool is_learned =
        find_policy(o.policy).uses(learned) || find_residue(o.residue).is_learned;
    if (is_learned) text += cat("/", learned->fingerprint());
    return {text.begin(), text.end()};
}

/// A head's `n` rotary positions, all before the next one.
std::vector<int32_t> take_rotary(std::istream& in, size_t n, int64_t next_position) {
    std::vector<int32_t> rotary = take_all<int32_t>(in, static_cast<int64_t>(n));
    const bool ascends =
        std::ranges::adjacent_find(rotary, std::ranges::greater_equal{}) == rotary.end();
    const bool in_range = rotary.empty() || (rotary.front() >= 0 && rotary.back() < next_position);
    if (rotary.size() != n || !ascends || !in_range) {
        corrupt("its rotary positions are impossible");
    }
    return rotary;
}

int64_t take_count(std::istream& in, int64_t least) {
    const auto n = take<int64_t>(in);
    if (n < least || n > kMostCounted) corrupt(cat("it has a count of ", n));
    return n;
}

}  // namespace

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
        return notes_alike(o, eviction, options.supplies.learned.get());
    };
    const auto found = std::ranges::find_if(options_.watching, same);
    require(found != options_.watching.end(), "policy '", eviction.policy,
            "' with these settings did not watch the reading");
    copy->cut_as_read(watching_[static_cast<size_t>(found - options_.watching.begin())]);
    return copy;
}

void KvCache::take_entries(const KvCache& from) {
    const EntryStore& theirs = from.store_;
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& of = from.head(layer, h);
            const auto n = std::ssize(of.positions);
            std::ranges::copy(theirs.key_bytes(layer, h, of.begin, n),
                              store_.key_bytes(layer, h, 0, n).begin());
            std::ranges::copy(theirs.value_bytes(layer, h, of.begin, n),
                              store_.value_bytes(layer, h, 0, n).begin());
            head(layer, h) = {
                .begin = 0, .touched = n, .positions = of.positions, .rotary = of.rotary};
        }
    }
    scales_ = from.scales_;
    seen_ = from.seen_;
    next_position_ = from.next_position_;
    peak_bytes_ = usage().bytes;
}

/// Cuts what was taken over, by what was noted for a policy of the same kind while it was read.
void KvCache::cut_as_read(const Observers& notes) {
    evictor_->take_notes(notes);
    evictor_->resume_after(seen_);
    peak_bytes_ = usage().bytes;
    for (const CutTarget& target : evictor_->targets(seen_)) {
        if (exceeds(target)) cut(target);
    }
    give_back_pages();
}

void KvCache::save(std::ostream& out) const {
    out.write(kMagic.data(), kMagic.size());
    for (const int64_t n : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                            static_cast<int64_t>(options_.entries), first_position_, seen_}) {
        put(out, n);
    }
    put_all(out, identity(options_.prefix));
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& of = head(layer, h);
            const int64_t n = std::ssize(of.positions);
            put(out, n);
            const auto write = [&](std::span<const std::byte> bytes) {
                out.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
            };
            write(std::as_bytes(std::span(of.positions)));
            write(store_.key_bytes(layer, h, of.begin, n));
            write(store_.value_bytes(layer, h, of.begin, n));
        }
    }
    save_eviction(out);
    if (!out) throw Error(ErrorCode::kExhausted, "the memory could not be written (disk full?)");
}

void KvCache::save_eviction(std::ostream& out) const {
    if (evictor_ == nullptr) return;
    const EvictionOptions& o = options_.eviction;
    put_all(out, fingerprint(o, options_.supplies.learned.get(), evictor_->allocator_name()));
    for (const int64_t n : {next_position_, n_cuts_, n_renumbered_, first_renumbered_at_}) {
        put(out, n);
    }
    for (const Head& of : heads_) put_all(out, of.rotary);
    evictor_->save(out);
}

void KvCache::load_eviction(std::istream& in) {
    next_position_ = first_position_ + seen_;
    if (evictor_ == nullptr && first_position_ > 0) {
        for (Head& of : heads_) {
            of.rotary = of.positions;
            for (int32_t& at : of.rotary) at += static_cast<int32_t>(first_position_);
        }
    }
    if (evictor_ == nullptr) return;
    const std::vector<char> wanted =
        fingerprint(options_.eviction, options_.supplies.learned.get(), evictor_->allocator_name());
    if (take_all<char>(in, 1 << 16) != wanted) {
        corrupt("it was made by another policy, or with other settings or trained weights");
    }
    const auto next_position = take<int64_t>(in);
    if (next_position < 0 || next_position > first_position_ + seen_) {
        corrupt("its next position is impossible");
    }
    n_cuts_ = take_count(in, 0);
    n_renumbered_ = take_count(in, 0);
    first_renumbered_at_ = take_count(in, -1);
    // Every head has them, or none has: what comes next goes by the same rule.
    for (Head& of : heads_) {
        of.rotary = take_rotary(in, is_turned_as_read() ? 0 : of.positions.size(), next_position);
    }
    evictor_->load(in);
    next_position_ = next_position;
    // The observers compare what they noted with what is held, and refuses what does not belong to
    // it.
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (evictor_->evicts(layer)) tell_held(layer);
    }
}

void KvCache::load(std::istream& in) {
    if (take<std::array<char, 8>>(in) != kMagic) corrupt("it is no saved key-value cache");
    for (const int64_t expected : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                                   static_cast<int64_t>(options_.entries), first_position_}) {
        if (take<int64_t>(in) != expected) {
            corrupt("it is of another model, entry type or prefix");
        }
    }
    const auto seen = take<int64_t>(in);
    const bool is_bounded = evictor_ == nullptr || options_.eviction.one_shot;
    if (seen < 0 || seen > (is_bounded ? options_.n_ctx : std::numeric_limits<int32_t>::max())) {
        corrupt(cat("it holds ", seen, " positions, this context ", options_.n_ctx));
    }
    if (take_all<char>(in, kMostIdentity) != identity(options_.prefix)) {
        corrupt("it was made with another prefix memory");
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
