#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory/budget.h"
#include "memory/eviction/allocation.h"
#include "memory/eviction/selection.h"
#include "memory/policy/eviction_policy.h"
#include "memory/policy/eviction_weights.h"
#include "memory/residue/residue.h"

namespace palimpsest {

/// What happens to the RoPE positions of entries that stay.
enum class Positions {
    kAuto,      // stay as they are until the model's trained length is near, then made contiguous
    kOriginal,  // stay as they are, always
    kCompact,   // made contiguous at every cut
};

/// "auto", "original" or "compact". Throws kInvalidArgument.
Positions parse_positions(std::string_view name);

/// One cut of the cache: all of it ordered [layer][KV head], layers that evict nothing as well.
struct Cut {
    int64_t n_seen = 0;
    /// Positions in the input that were held, ascending, and their scores; empty for a layer that
    /// evicts nothing.
    std::vector<std::vector<std::vector<int32_t>>> held;
    std::vector<Scores> scores;
    /// Those that stay, ascending.
    std::vector<std::vector<std::vector<int32_t>>> kept;
    const Residue* residue = nullptr;  // what it holds afterwards; nullptr: none
};

/// What a person says of how to forget.
struct EvictionOptions {
    std::string policy = "full";
    std::string allocator = {};  // empty: the policy's own
    std::string residue = "none";
    OptionMap settings = {};  // of all three
    Budget budget = {};
    int64_t n_sink = -1;     // first positions that stay; -1: 4, and 0 in the one-shot protocol
    int64_t n_recent = -1;   // last positions that stay; -1: an eighth of the budget, at most 128,
                             // and 0 in the one-shot protocol
    int64_t interval = 128;  // cut every so many tokens while writing
    bool one_shot = false;   // cut once, after the prompt: the papers' protocol
    int64_t n_writing = 0;   // one-shot: entries a head that may stay while writing; 0: all
    int64_t n_recent_writing = -1;  // and the last positions that stay then; -1: as n_recent
    Positions positions = Positions::kAuto;
};

/// What the engine knows of the model and of how it is run.
struct EvictionSupplies {
    int64_t n_chunk = 512;                                // longest step while reading
    std::shared_ptr<const EvictionWeights> learned = {};  // for what is trained
    OutputWeights output_weights = {};                    // for the allocator `critical`
};

/// All that decides which entries stay.
struct EvictionSetup {
    EvictionOptions options = {};
    EvictionSupplies supplies = {};
    ggml_type entries = GGML_TYPE_F16;  // what the cache stores
};

/// What policy and allocator need to be noted, alone. Throws as Evictor does.
Observers make_observers(const MemoryShape& shape, const EvictionSetup& setup);

/// Do the two note the same of what passes, so that the observers of one can serve the other?
/// `learned` may be nullptr.
bool notes_alike(const EvictionOptions& a, const EvictionOptions& b,
                 const EvictionWeights* learned);

/// When to cut, down to how much, and what: the part of a bounded cache that decides. One object a
/// sequence.
class Evictor {
 public:
    /// Throws kNotFound for an unknown name, kInvalidArgument for settings or numbers that cannot
    /// work together.
    Evictor(const MemoryShape& shape, const EvictionSetup& setup, int64_t n_ctx);

    [[nodiscard]] const EvictionOptions& options() const { return options_; }
    /// What is noted for the policy and the allocator.
    [[nodiscard]] Observers& observers() { return observers_; }
    [[nodiscard]] const Observers& observers() const { return observers_; }
    /// Goes on from notes that were taken elsewhere, for options that note alike.
    void take_notes(const Observers& notes);
    /// Memory that the policy owns, notes included.
    [[nodiscard]] size_t policy_bytes() const { return policy_->bytes() + observers_.bytes(); }
    /// nullptr: none.
    [[nodiscard]] Residue* residue() const { return residue_.get(); }
    [[nodiscard]] std::string_view allocator_name() const { return allocator_name_; }
    [[nodiscard]] const Protection& protection() const { return protection_; }

    /// Positions that may lie on top of the budget between two cuts.
    [[nodiscard]] int64_t slack() const { return std::max(n_chunk_, options_.interval); }
    /// Does the layer take part?
    [[nodiscard]] bool evicts(int64_t layer) const { return shape_.window(layer) == 0; }

    /// Sets the entries a head that a byte budget comes to.
    void set_entries(int64_t entries, const std::string& explanation);
    /// Entries a head that may stay in all; 0 while the share of a prompt is not known.
    [[nodiscard]] int64_t entries() const { return entries_; }

    /// A prompt comes after `seen` positions. Throws kInvalidArgument if its protected parts do not
    /// fit the budget.
    void admit(std::span<const Segment> prompt, int64_t seen);

    /// A prompt of `seen` positions, nothing in it marked, was read elsewhere, and the one cut of
    /// the one-shot protocol comes now. Throws as admit() does.
    void resume_after(int64_t seen);

    /// Is a cut due after this step, with `seen` positions read?
    [[nodiscard]] bool is_due(const Step& step, int64_t seen);
    /// How far that cut goes: one target, or several to be cut to one after another.
    [[nodiscard]] std::vector<CutTarget> targets(int64_t seen) const;
    /// The last of them.
    [[nodiscard]] CutTarget target(int64_t seen) const;

    /// Scores a layer's candidates. Several layers at once by several threads.
    void score(LayerCandidates& layer) const;

    /// Allocates, selects: slots to keep, [layers.size()][KV heads].
    std::vector<std::vector<std::vector<int32_t>>> choose(const Backend& backend,
                                                          std::vector<LayerCandidates>& layers,
                                                          const AttentionScratch& scratch,
                                                          const CutTarget& target) const;

    void reset();
    void save(std::ostream& out) const;
    void load(std::istream& in);

 private:
    [[nodiscard]] CutTarget base_target(int64_t seen) const;
    [[nodiscard]] CutTarget share_target(int64_t seen, bool reads_on) const;
    void set_protection();
    void end_prompt_at(int64_t end);
    void check_fits(const std::string& what) const;

    MemoryShape shape_;
    EvictionOptions options_;
    int64_t n_chunk_;
    int64_t n_ctx_;
    std::string allocator_name_;
    Observers observers_;
    std::unique_ptr<EvictionPolicy> policy_;
    std::unique_ptr<BudgetAllocator> allocator_;
    std::unique_ptr<Residue> residue_;
    Protection protection_;
    int64_t entries_ = 0;
    int64_t prompt_end_ = 0;   // positions when all prompts so far are read
    int64_t written_ = 0;      // steps of writing since the last cut
    bool was_cut_ = false;     // the one cut of the one-shot protocol
    bool is_writing_ = false;  // it has passed, and n_writing entries may stay
};

}  // namespace palimpsest
