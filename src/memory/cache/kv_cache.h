#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "memory/attention/attention.h"
#include "memory/attention/entry_store.h"
#include "memory/context_memory.h"
#include "memory/eviction/eviction.h"
#include "memory/prefix/prefix_reader.h"

namespace palimpsest {

enum class AttentionPath {
    kFused,      // our kernel; CPU
    kReference,  // ggml's nodes; slow, for checking
};

struct KvCacheOptions {
    int64_t n_ctx = 0;                  // positions that fit; > 0. Without a budget: in all
    ggml_type entries = GGML_TYPE_F16;  // f32, f16 or q8_0
    AttentionPath path = AttentionPath::kFused;
    EvictionOptions eviction = {};  // policy `full`: nothing is evicted
    EvictionSupplies supplies = {};
    /// Policies that note what passes as if they were to evict, for fork(): names and settings.
    std::vector<EvictionOptions> watching = {};
    /// Prefixes that became dictionaries: positions start after them, queries look them up. Fused
    /// attention only.
    PrefixUse prefix = {};
    std::function<void(const Cut&)> on_cut = {};  // for tests and research
};

/// Softmax attention over stored keys and values. Without a budget it keeps every entry; with one,
/// what its policy keeps, head by head. Sliding-window layers keep what the window can still see
/// and take no part in either.
class KvCache final : public ContextMemory, private EntrySource {
 public:
    /// Throws kInvalidArgument for n_ctx < 1 and for a budget that cannot work, kNotFound for an
    /// unknown policy, kUnsupported as EntryStore does. `backend` must outlive the cache.
    KvCache(const Backend& backend, const MemoryShape& shape, const KvCacheOptions& options);

    std::vector<Segment> admit(std::vector<Segment> prompt) override;
    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    void settle(const Step& step) override;
    void reset() override;
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override;
    [[nodiscard]] int64_t next_position() const override { return next_position_; }
    [[nodiscard]] Rehearses rehearses() const override;
    [[nodiscard]] Rehearsed rehearsed() const override;
    [[nodiscard]] int64_t room() const override;
    [[nodiscard]] bool can_rewind() const override;
    void rewind(int64_t position) override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    /// A cache of its own that has read what this one has, and cut it once, after it: the one-shot
    /// protocol, for many memories from one reading. `eviction` is one-shot, with a policy that was
    /// among those watching, or `full`. This cache must evict nothing, nothing is marked as
    /// protected, and the backend must run no graph meanwhile.
    /// Throws kInvalidArgument if it cannot be so.
    [[nodiscard]] std::unique_ptr<KvCache> fork(const EvictionOptions& eviction) const;

    [[nodiscard]] std::span<const int32_t> positions(int64_t layer, int64_t head) const override;
    /// RoPE positions that their keys are turned to.
    [[nodiscard]] std::vector<int32_t> rotary(int64_t layer, int64_t head) const;

    /// Entries a head that the budget comes to; 0: no budget, or not known yet.
    [[nodiscard]] int64_t budget_entries() const { return evictor_ ? evictor_->entries() : 0; }

 private:
    /// One KV head of one layer. Its entries lie in slots [begin, begin + positions.size()), in
    /// the order of their positions; so what a query sees is one run of slots.
    struct Head {
        int64_t begin = 0;
        int64_t touched = 0;  // slots whose pages may be taken
        std::vector<int32_t> positions = {};
        std::vector<int32_t> rotary = {};  // empty: as positions
    };

    void store(int64_t layer, int64_t head, int64_t i, const float* k,
               const float* v) noexcept override;
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override;
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head, int64_t i) const noexcept override;

    /// Who notes a step: the observers of whoever evicts, or of those watching.
    [[nodiscard]] std::vector<Observer*> observers(const Step& step) const;
    void observe(Graph& g, const AttentionInputs& in, Tensor attended);
    /// What answers beside a layer's entries, in this order.
    [[nodiscard]] std::vector<JoinedPast*> joined(int64_t layer) const;
    void take_entries(const KvCache& from);
    void cut_as_read(const Observers& notes);

    [[nodiscard]] Head& head(int64_t layer, int64_t h);
    [[nodiscard]] const Head& head(int64_t layer, int64_t h) const;
    Tensor attend_reference(Graph& g, const AttentionInputs& in);
    void fill_slots(int64_t layer, std::span<std::byte> out) const;
    void fill_mask(int64_t layer, int64_t n_slots, std::span<std::byte> out) const;
    void append(const Step& step);
    void settle_rehearsal(const Step& step);
    void slide(int64_t layer, int64_t h);

    [[nodiscard]] size_t bytes_with(int64_t entries);
    void set_byte_budget();
    [[nodiscard]] std::vector<LayerCandidates> score_layers();
    [[nodiscard]] bool exceeds(const CutTarget& target) const;
    void cut(const CutTarget& target);
    void make_room(const Step& step);
    void keep(int64_t layer, int64_t h, std::span<const int32_t> kept, float* scratch);
    void tell_held(int64_t layer);
    [[nodiscard]] Cut before_cut(const std::vector<LayerCandidates>& layers) const;
    void tell_cut(Cut& told) const;
    /// Are RoPE positions those in the input? Behind a prefix they are not, nor once renumbered.
    [[nodiscard]] bool is_turned_as_read() const {
        return first_position_ == 0 && n_renumbered_ == 0;
    }
    [[nodiscard]] bool must_renumber() const;
    void renumber();
    void give_back_pages();
    [[nodiscard]] MemoryReport::Bytes owned_bytes() const;
    void save_eviction(std::ostream& out) const;
    void load_eviction(std::istream& in);
    void load_head(std::istream& in, int64_t layer, int64_t h, int64_t seen);

    MemoryShape shape_;
    KvCacheOptions options_;
    const Backend& backend_;
    std::unique_ptr<Evictor> evictor_;  // nullptr: nothing is evicted
    std::vector<Observers> watching_;   // as in the options
    EntryStore store_;
    AttentionScratch scratch_;
    std::unique_ptr<PrefixReader> prefix_;  // nullptr: there is none
    std::vector<Head> heads_;               // [layer][head]
    std::vector<float> scales_;             // [layer], of q . k
    Step step_;                             // the planned one
    int64_t slots_in_view_ = 0;             // reference path
    int64_t first_position_ = 0;            // RoPE position of what is read first
    int64_t seen_ = 0;
    int64_t next_position_ = 0;
    int64_t n_rehearsed_ = 0;  // entries of the running rehearsal, after each head's own
    size_t peak_bytes_ = 0;
    int64_t n_cuts_ = 0, n_renumbered_ = 0, first_renumbered_at_ = -1;
    double scoring_s_ = 0, cutting_s_ = 0;
};

}  // namespace palimpsest
