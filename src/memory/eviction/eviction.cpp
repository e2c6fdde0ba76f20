#include "memory/eviction/eviction.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

constexpr int64_t kUsualSinks = 4;
constexpr int64_t kUsualRecent = 128;
constexpr int64_t kMostPinned = 1 << 20;
constexpr int64_t kMostPositions = std::numeric_limits<int32_t>::max();

int64_t length_of(const Segment& segment, int64_t n_embd) {
    check(n_embd > 0 || !segment.has_rows(), "a memory that is given rows knows their width");
    return segment.length(n_embd);
}

PartInputs part_inputs(const MemoryShape& shape, const EvictionSetup& setup, OptionReader& reader,
                       Observers& observers) {
    return {.shape = shape,
            .options = reader,
            .observers = observers,
            .learned = setup.supplies.learned.get(),
            .interval = setup.options.interval,
            .entries = setup.entries,
            .output_weights = setup.supplies.output_weights};
}

const AllocatorKind& allocator_of(const EvictionOptions& o, const EvictionWeights* learned) {
    return find_allocator(o.allocator.empty() ? find_policy(o.policy).usual_allocator(learned)
                                              : std::string_view(o.allocator));
}

}  // namespace

bool notes_alike(const EvictionOptions& a, const EvictionOptions& b,
                 const EvictionWeights* learned) {
    return a.policy == b.policy && a.settings == b.settings && a.interval == b.interval &&
           allocator_of(a, learned).observes == allocator_of(b, learned).observes;
}

Observers make_observers(const MemoryShape& shape, const EvictionSetup& setup) {
    const EvictionOptions& options = setup.options;
    const PolicyKind& kind = find_policy(options.policy);
    require(kind.make != nullptr, "policy '", options.policy, "' evicts nothing");
    const AllocatorKind& allocator = allocator_of(options, setup.supplies.learned.get());
    // Settings of the residue are left: they are read by whoever evicts.
    OptionReader reader(cat("policy '", options.policy, "'"), options.settings);
    Observers observers;
    const PartInputs inputs = part_inputs(shape, setup, reader, observers);
    kind.make(inputs);
    if (!allocator.observes.empty()) allocator.make(inputs);
    return observers;
}

Positions parse_positions(std::string_view name) {
    if (name == "auto") return Positions::kAuto;
    if (name == "original") return Positions::kOriginal;
    if (name == "compact") return Positions::kCompact;
    throw Error(ErrorCode::kInvalidArgument,
                cat("positions '", name, "'; they can be auto, original or compact"));
}

Evictor::Evictor(const MemoryShape& shape, const EvictionSetup& setup, int64_t n_ctx)
    : shape_(shape), options_(setup.options), n_chunk_(setup.supplies.n_chunk), n_ctx_(n_ctx) {
    const EvictionOptions& options = setup.options;
    const PolicyKind& kind = find_policy(options.policy);
    check(kind.make != nullptr, "a policy that evicts nothing needs no evictor");
    require(options.budget.kind != Budget::Kind::kNone, "policy '", options.policy,
            "' needs a memory budget");
    require(options.interval >= 1, "an eviction interval of ", options.interval,
            "; it must be 1 or more");
    require(n_chunk_ >= 1, "a chunk of ", n_chunk_, "; it must be 1 or more");
    require(options.n_sink >= -1 && options.n_recent >= -1,
            "a negative number of protected entries");
    require(options.n_writing >= 0 && (options.n_writing == 0 || options.one_shot), "a budget of ",
            options.n_writing,
            " entries for what is written, which goes with the one-shot protocol only");
    if (options.budget.kind == Budget::Kind::kEvicted) {
        require(options.budget.share >= 0 && options.budget.share < 1, "a ratio of ",
                options.budget.share, "; it must be 0 or more and less than 1");
    }
    const AllocatorKind& allocator = allocator_of(options, setup.supplies.learned.get());
    allocator_name_ = allocator.name;
    OptionReader reader(cat("policy '", options.policy, "' with allocator '", allocator_name_,
                            "' and residue '", options.residue, "'"),
                        options_.settings);
    const PartInputs inputs = part_inputs(shape_, setup, reader, observers_);
    policy_ = kind.make(inputs);
    allocator_ = allocator.make(inputs);
    const ResidueKind& left = find_residue(options.residue);
    if (left.make != nullptr) residue_ = left.make(inputs);
    reader.finish();
    require(
        policy_->run_length() == 1 || allocator_name_ == "uniform" || allocator_name_ == "pyramid",
        "policy '", options.policy, "' keeps the same runs in every head of a layer; allocator '",
        allocator_name_, "' gives heads different budgets");
    if (options.budget.kind == Budget::Kind::kEntries) {
        set_entries(options.budget.count, "");
    } else {
        set_protection();
    }
}

void Evictor::set_protection() {
    const int64_t usual_recent = std::min(kUsualRecent, entries_ / 8);
    protection_.n_sink =
        options_.n_sink >= 0 ? options_.n_sink : (options_.one_shot ? 0 : kUsualSinks);
    protection_.n_recent =
        options_.n_recent >= 0 ? options_.n_recent : (options_.one_shot ? 0 : usual_recent);
    protection_.n_sink = std::max(protection_.n_sink, policy_->n_sink());
    protection_.n_recent = std::max(protection_.n_recent, policy_->n_recent());
    if (!is_writing_) return;
    const int64_t usual = std::min(kUsualRecent, options_.n_writing / 8);
    protection_.n_recent = std::max(
        options_.n_recent_writing >= 0 ? options_.n_recent_writing : usual, policy_->n_recent());
}

void Evictor::set_entries(int64_t entries, const std::string& explanation) {
    entries_ = entries;
    set_protection();
    check_fits(explanation);
    require(options_.one_shot || entries + slack() <= n_ctx_, "a budget of ", entries,
            " entries a head", explanation, " and the longest step of ", slack(),
            " on top do not fit the context of ", n_ctx_,
            " positions; lower the budget, the chunk or the eviction interval");
}

void Evictor::check_fits(const std::string& what) const {
    // As if very much had been read: what is protected then is protected at once, or later.
    const int64_t n = protection_.count(std::max(prompt_end_, int64_t{1} << 40));
    if (options_.one_shot || n < entries_) return;
    int64_t n_pinned = 0;
    for (const auto& [begin, end] : protection_.pinned) n_pinned += end - begin;
    throw Error(ErrorCode::kInvalidArgument,
                cat("a budget of ", entries_, " entries a head", what,
                    " leaves nothing to choose: ", protection_.n_sink, " first, ",
                    protection_.n_recent, " last and ", n_pinned,
                    " marked positions are protected; raise the budget to more than ", n,
                    ", or protect less"));
}

void Evictor::admit(std::span<const Segment> prompt, int64_t seen) {
    auto& pinned = protection_.pinned;
    // What was announced and never read is announced again.
    while (!pinned.empty() && pinned.back().first >= seen) pinned.pop_back();
    if (!pinned.empty()) pinned.back().second = std::min(pinned.back().second, seen);
    int64_t at = seen;
    for (const Segment& s : prompt) {
        const int64_t n = length_of(s, shape_.n_embd);
        if (s.keep && n > 0) {
            if (!pinned.empty() && pinned.back().second == at) {
                pinned.back().second = at + n;
            } else {
                pinned.emplace_back(at, at + n);
            }
        }
        at += n;
    }
    end_prompt_at(at);
}

void Evictor::take_notes(const Observers& notes) {
    check(notes.count() == observers_.count(), "notes of another policy");
    observers_ = notes.clone();
}

void Evictor::resume_after(int64_t seen) {
    end_prompt_at(seen);
    was_cut_ = true;
}

/// The prompt is known to end there: what a share of it comes to, and whether that can work.
void Evictor::end_prompt_at(int64_t end) {
    prompt_end_ = end;
    if (options_.budget.kind == Budget::Kind::kShare) {
        const double share = static_cast<double>(prompt_end_) * options_.budget.share;
        set_entries(std::max<int64_t>(1, static_cast<int64_t>(share)),
                    cat(" (", options_.budget.share * 100, " % of ", prompt_end_, " positions)"));
    } else if (options_.budget.kind != Budget::Kind::kEvicted) {
        check_fits("");
    }
}

bool Evictor::is_due(const Step& step, int64_t seen) {
    if (step.kind == StepKind::kAside) return false;
    const bool is_rehearsal = step.kind == StepKind::kRehearsal;
    // Scores by rehearsal are there when it ends, and while writing there is none.
    const bool is_read = step.is_prefill || step.n > 1 || seen <= prompt_end_;
    if (observers_.rehearsed() != Rehearsed::kNothing && is_read && step.is_rehearsed &&
        !(is_rehearsal && step.rehearsal.ends_rehearsal)) {
        return false;
    }
    if (options_.one_shot && !was_cut_) {
        if (step.is_prefill && !is_rehearsal) return false;
        was_cut_ = true;
        return true;
    }
    if (options_.one_shot && (options_.n_writing == 0 || is_read)) return false;
    if (!is_read && ++written_ < options_.interval) return false;
    written_ = 0;
    if (options_.one_shot && !is_writing_) {
        is_writing_ = true;
        set_protection();
    }
    return true;
}

std::vector<CutTarget> Evictor::targets(int64_t seen) const {
    std::vector<CutTarget> all;
    // The prompt's last chunk is cut as those before it, and then to what is to stay of all.
    if (options_.budget.kind == Budget::Kind::kEvicted && !options_.one_shot &&
        seen == prompt_end_) {
        all.push_back(share_target(seen, true));
    }
    all.push_back(target(seen));
    return all;
}

CutTarget Evictor::base_target(int64_t seen) const {
    CutTarget t = {.is_cap = true,
                   .n_protected = protection_.count(seen),
                   .run_length = policy_->run_length()};
    t.most = options_.one_shot ? n_ctx_ : n_ctx_ - slack();
    return t;
}

CutTarget Evictor::target(int64_t seen) const {
    CutTarget t = base_target(seen);
    if (is_writing_) {
        t.entries = options_.n_writing;
        t.exact = static_cast<double>(options_.n_writing);
        return t;
    }
    if (options_.budget.kind != Budget::Kind::kEvicted) {
        t.entries = entries_;
        t.exact = static_cast<double>(entries_);
        if (options_.budget.kind == Budget::Kind::kShare && options_.one_shot) {
            t.exact = static_cast<double>(seen) * options_.budget.share;
            t.evicted = 1.0 - options_.budget.share;
            t.is_cap = false;
        }
        return t;
    }
    return share_target(seen, !options_.one_shot && seen < prompt_end_);
}

/// Of a share that goes; `reads_on`: more of the prompt follows.
CutTarget Evictor::share_target(int64_t seen, bool reads_on) const {
    CutTarget t = base_target(seen);
    // While a prompt is read, what went before counts too: a cap on what is held.
    t.is_cap = !options_.one_shot;
    t.evicted = options_.budget.share;
    t.exact = static_cast<double>(seen) * (1.0 - options_.budget.share);
    t.entries = kept_of(seen, options_.budget.share);
    if (reads_on) {
        t.entries =
            std::max(static_cast<int64_t>(t.exact), protection_.n_sink + protection_.n_recent);
        t.exact = std::max(t.exact, static_cast<double>(t.entries));
    }
    return t;
}

void Evictor::score(LayerCandidates& layer) const {
    layer.scores = policy_->score(layer.view, observers_);
    allocator_->complete(layer, observers_);
}

std::vector<std::vector<std::vector<int32_t>>> Evictor::choose(const Backend& backend,
                                                               std::vector<LayerCandidates>& layers,
                                                               const AttentionScratch& scratch,
                                                               const CutTarget& target) const {
    const auto n_layer = std::ssize(layers);
    const auto counts = allocator_->allocate(layers, target);
    std::vector<std::vector<std::vector<int32_t>>> kept(layers.size());
    backend.share_out(n_layer, [&](int64_t i, int thread) {
        const auto l = static_cast<size_t>(i);
        LayerCandidates& layer = layers[l];
        layer.view.scratch = scratch.of_thread(thread);
        allocator_->rescore(layer, counts[l], target);
        for (size_t h = 0; h < layer.scores.size(); ++h) {
            kept[l].push_back(select_entries({.scores = layer.scores[h],
                                              .positions = layer.view.heads[h].positions,
                                              .is_protected = layer.is_protected[h],
                                              .n_sink = protection_.n_sink,
                                              .run_length = target.run_length},
                                             counts[l][h]));
        }
    });
    return kept;
}

void Evictor::reset() {
    observers_.reset();
    if (residue_) residue_->reset();
    protection_.pinned.clear();
    prompt_end_ = 0;
    written_ = 0;
    was_cut_ = false;
    is_writing_ = false;
    if (options_.budget.kind == Budget::Kind::kShare) entries_ = 0;
    set_protection();
}

void Evictor::save(std::ostream& out) const {
    for (const int64_t n : {entries_, prompt_end_, written_, int64_t{was_cut_ ? 1 : 0},
                            int64_t{is_writing_ ? 1 : 0}}) {
        put(out, n);
    }
    std::vector<int64_t> pinned;
    for (const auto& [begin, end] : protection_.pinned) {
        pinned.insert(pinned.end(), {begin, end});
    }
    put_all(out, pinned);
    observers_.save(out);
    if (residue_) residue_->save(out);
}

void Evictor::load(std::istream& in) {
    const auto entries = take<int64_t>(in);
    const auto prompt_end = take<int64_t>(in);
    const auto written = take<int64_t>(in);
    const bool was_cut = take<int64_t>(in) != 0;
    const bool is_writing = take<int64_t>(in) != 0;
    const auto pinned = take_all<int64_t>(in, 2 * kMostPinned);
    const auto is_possible = [](int64_t n) { return n >= 0 && n <= kMostPositions; };
    const bool pins_fit = pinned.size() % 2 == 0 && std::ranges::is_sorted(pinned) &&
                          std::ranges::all_of(pinned, is_possible);
    const bool may_be_writing = options_.one_shot && options_.n_writing > 0;
    if (entries < 0 || entries > n_ctx_ || !is_possible(prompt_end) || !is_possible(written) ||
        !pins_fit || (is_writing && !may_be_writing)) {
        throw Error(ErrorCode::kCorrupt, "the saved memory's budget is impossible");
    }
    observers_.load(in);
    if (residue_) residue_->load(in);
    entries_ = entries;
    prompt_end_ = prompt_end;
    written_ = written;
    was_cut_ = was_cut;
    is_writing_ = is_writing;
    protection_.pinned.clear();
    for (size_t i = 0; i < pinned.size(); i += 2) {
        protection_.pinned.emplace_back(pinned[i], pinned[i + 1]);
    }
    set_protection();
}

}  // namespace palimpsest
