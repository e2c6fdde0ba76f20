#include "server/scheduler/sequence_table.h"

#include <algorithm>
#include <ctime>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/fingerprint.h"
#include "engine/memory_choice.h"
#include "memory/attention/entry_store.h"
#include "server/new_id.h"
#include "text/input_files.h"

namespace palimpsest {

namespace {

constexpr size_t kMostPlans = 32;
constexpr size_t kMostResponses = 64;
constexpr int64_t kLeastEntries = 64;  // of a share, for a question behind a short text
constexpr int64_t kLeastWorth = 16;    // tokens: fewer are read anew

int64_t common(std::span<const TokenId> a, std::span<const TokenId> b) {
    return std::ranges::mismatch(a, b).in1 - a.begin();
}

std::span<const TokenId> tokens_of(const Remembered& r) {
    return r.sequence != nullptr ? r.sequence->tokens().ids() : std::span(r.head.tokens);
}

/// Positions that must stay, of a prompt.
std::vector<std::pair<int64_t, int64_t>> kept_in(const std::vector<Segment>& prompt) {
    std::vector<std::pair<int64_t, int64_t>> kept;
    int64_t at = 0;
    for (const Segment& segment : prompt) {
        const int64_t end = at + std::ssize(segment.tokens);
        if (segment.keep && !kept.empty() && kept.back().second == at) {
            kept.back().second = end;
        } else if (segment.keep) {
            kept.emplace_back(at, end);
        }
        at = end;
    }
    return kept;
}

/// The first position below `n` that must stay by one and not by the other; n: there is none.
int64_t first_difference(std::span<const std::pair<int64_t, int64_t>> a,
                         std::span<const std::pair<int64_t, int64_t>> b, int64_t n) {
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
        const auto [from, to] = i < a.size() ? a[i] : std::pair(n, n);
        const auto [other_from, other_to] = i < b.size() ? b[i] : std::pair(n, n);
        if (from != other_from) return std::min({from, other_from, n});
        if (to != other_to) return std::min({to, other_to, n});
    }
    return n;
}

}  // namespace

/// How a request can go on from something remembered.
struct SequenceTable::Way {
    enum class Kind { kAsItIs, kBack, kCheckpoint, kStored };
    Remembered* from = nullptr;  // nullptr: from nothing
    Kind kind = Kind::kAsItIs;
    int64_t position = 0;
    bool is_all = false;  // nothing of it is left behind
    const Checkpoint* checkpoint = nullptr;
};

size_t Remembered::checkpoint_bytes() const {
    size_t n = 0;
    for (const Checkpoint& c : checkpoints) n += c.state->size();
    return n;
}

SequenceTable::SequenceTable(const Runtime& engine, const TableOptions& options,
                             SessionStore* store, Metrics& metrics)
    : engine_(engine),
      options_(options),
      store_(store),
      metrics_(metrics),
      model_(model_fingerprint(engine.loaded().file())) {
    metrics_.bytes_limit = options.most_bytes;
    if (store_ == nullptr) return;
    std::vector<std::string> refused;
    std::vector<SessionHead> heads = store_->list(refused);
    metrics_.sessions_refused += std::ssize(refused);
    std::ranges::sort(heads, {}, &SessionHead::used);
    for (SessionHead& head : heads) {
        if (head.model != model_) continue;  // of another model: for whoever runs that
        metrics_.bytes_on_disk += head.bytes;
        all_.push_back({.head = std::move(head), .is_stored = true});
    }
    metrics_.sessions = std::ssize(all_);
    saver_ = std::make_unique<SessionSaver>(*store_, metrics_);
}

/// As a memory of that choice will say of itself.
bool SequenceTable::can_rewind(const MemoryChoice& choice) {
    const MemoryShape& shape = engine_.shape();
    bool attends = !shape.slides();
    for (int64_t i = 0; i < shape.n_layer; ++i) attends = attends && shape.attends(i);
    return attends && !is_bounded(choice);
}

/// Without folders: another server that shares the store may have its files elsewhere. What is in
/// them is compared when a state is loaded.
std::string SequenceTable::key_of(const MemoryChoice& c) {
    std::string key =
        cat(c.budget, "|", c.policy, "|", c.allocator, "|", c.residue, "|", c.bank, "|", c.n_sink,
            "|", c.n_recent, "|", c.interval, "|", c.one_shot, "|", c.positions, "|",
            base_name(c.sidecar), "|", c.prefix_gate, "|", c.context, "|", c.entries, "|",
            c.evicted, "|", c.n_writing, "|", c.n_recent_writing, "|", c.attention);
    for (const auto* list : {&c.settings, &c.bank_settings}) {
        key += '|';
        for (const std::string& s : *list) key += s + ";";
    }
    key += '|';
    for (const std::string& path : c.prefixes) key += base_name(path) + ";";
    return key;
}

const MemoryPlan& SequenceTable::plan(const MemoryChoice& choice) {
    const std::string key = key_of(choice);
    for (auto at = plans_.begin(); at != plans_.end(); ++at) {
        if (at->first != key) continue;
        plans_.splice(plans_.begin(), plans_, at);
        return plans_.front().second;
    }
    PrefixDocuments prefixes;
    if (options_.prefixes != nullptr) prefixes = options_.prefixes->documents(choice);
    plans_.emplace_front(key, engine_.plan(choice, std::move(prefixes)));
    if (plans_.size() > kMostPlans) plans_.pop_back();
    return plans_.front().second;
}

/// Of a conversation that grows there is no share: it is of what came first. 0: it is no share.
int64_t SequenceTable::entries_of(const MemoryChoice& choice, int64_t n) {
    const Budget& budget = plan(choice).options.eviction.budget;
    if (budget.kind != Budget::Kind::kShare) return 0;
    const auto count = std::max<int64_t>(
        kLeastEntries, static_cast<int64_t>(budget.share * static_cast<double>(n)));
    return options_.most_entries > 0 ? std::min(count, options_.most_entries) : count;
}

std::unique_ptr<Sequence> SequenceTable::make_sequence(const MemoryChoice& choice, int64_t n,
                                                       int64_t entries) {
    MemoryPlan made = plan(choice);
    if (const int64_t count = entries > 0 ? entries : entries_of(choice, n); count > 0) {
        made.options.eviction.budget = {.kind = Budget::Kind::kEntries, .count = count};
    }
    return engine_.make_sequence(engine_.make_memory(made));
}

int64_t SequenceTable::bytes_needed(const MemoryChoice& choice, int64_t n) {
    const MemoryPlan& made = plan(choice);
    if (!is_bounded(choice)) n = std::min(n, made.options.n_ctx);
    const Budget& budget = made.options.eviction.budget;
    const int64_t chunk = 2 * engine_.n_chunk();
    if (budget.kind == Budget::Kind::kBytes) return budget.count;
    if (budget.kind == Budget::Kind::kEntries) n = std::min(n, budget.count + chunk);
    if (budget.kind == Budget::Kind::kShare) {
        n = std::min(n, static_cast<int64_t>(budget.share * static_cast<double>(n)) + chunk);
    }
    if (engine_.shape().n_head_kv == 0) return 0;
    return static_cast<int64_t>(bytes_of_all(engine_.shape(), made.options.entries, n));
}

Remembered& SequenceTable::add(const SessionHead& head) {
    all_.push_back({.head = head, .used = std::chrono::steady_clock::now()});
    metrics_.sessions = std::ssize(all_);
    return all_.back();
}

void SequenceTable::load(Remembered& of, const MemoryChoice& choice, const std::string& state) {
    if (of.sequence == nullptr)
        of.sequence = make_sequence(choice, std::ssize(of.head.tokens), of.head.entries);
    std::istringstream in(state);
    of.sequence->load(in);
}

std::string SequenceTable::messages_of(Remembered& of) {
    const bool is_here = !of.head.messages.empty() || saver_ == nullptr || of.head.bytes == 0;
    return is_here ? of.head.messages : stored(of, "messages");
}

std::string SequenceTable::report_of(Remembered& of) {
    const bool is_here = !of.head.report.empty() || saver_ == nullptr || of.head.bytes == 0;
    return is_here ? of.head.report : stored(of, "report");
}

std::string SequenceTable::state_of(Remembered& of) {
    if (of.sequence == nullptr && !of.is_stored) return *of.checkpoints.back().state;
    if (of.sequence == nullptr) return stored(of, "state");
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    of.sequence->save(out);
    return std::move(out).str();
}

/// The one that saves most, of one.
SequenceTable::Way SequenceTable::way_of(const Remembered& r, const Work& work,
                                         std::span<const TokenId> tokens) {
    const bool rewinds = can_rewind(work.memory);
    const std::span<const TokenId> held = tokens_of(r);
    // One token at least must be read, for what comes after it.
    int64_t shared = std::min(common(held, tokens), std::ssize(tokens) - 1);
    if (!rewinds) shared = first_difference(r.head.kept, kept_in(work.prompt), shared);
    const bool is_all = shared == std::ssize(held);
    Way best = {.is_all = is_all};
    if (r.sequence == nullptr) {
        if ((is_all || rewinds) && r.is_stored) {
            best.kind = Way::Kind::kStored;
            best.position = shared;
        }
    } else if (!r.is_in_use && (is_all || r.sequence->can_rewind())) {
        best.kind = is_all ? Way::Kind::kAsItIs : Way::Kind::kBack;
        best.position = shared;
    }
    for (const Checkpoint& c : r.checkpoints) {
        const int64_t position = rewinds ? std::min(c.position, shared) : c.position;
        if (position > shared || position <= best.position) continue;
        best.kind = Way::Kind::kCheckpoint;
        best.position = position;
        best.checkpoint = &c;
    }
    return best;
}

SequenceTable::Way SequenceTable::best(const Work& work, std::span<const TokenId> tokens) {
    const std::string memory = key_of(work.memory);
    Way best;
    for (Remembered& r : all_) {
        if (r.head.owner != work.owner || r.head.memory != memory || !work.is_kept) continue;
        Way way = way_of(r, work, tokens);
        const auto is_named = [&work](const Remembered& it) {
            return work.from.empty() ? it.head.key == work.session : it.head.id == work.from;
        };
        const bool is_ours = is_named(r);
        const bool was_ours = best.from != nullptr && is_named(*best.from);
        const bool is_better =
            way.position > best.position || (way.position == best.position && is_ours && !was_ours);
        if (way.position < kLeastWorth || !is_better) continue;
        way.from = &r;
        best = way;
    }
    return best;
}

/// The same conversation, gone on with, takes its own sequence; so does one that is begun again
/// near its end, if its client calls both by one name. Another that begins alike gets a copy.
bool SequenceTable::takes_over(const Way& way, const Work& work) {
    if (way.from == nullptr || way.from->is_in_use || way.from->head.key != work.session ||
        way.from->is_private != work.is_private) {
        return false;
    }
    const bool is_near = 2 * way.position >= std::ssize(tokens_of(*way.from));
    return way.is_all || (!work.session.empty() && is_near);
}

SequenceTable::AtHand SequenceTable::at_hand(const Work& work, std::span<const TokenId> tokens) {
    const Way way = best(work, tokens);
    if (!takes_over(way, work) || way.from->sequence == nullptr) return {.of = way.from};
    return {.of = way.from,
            .bytes = static_cast<int64_t>(way.from->sequence->memory().usage().bytes)};
}

Place SequenceTable::place(const Work& work, std::span<const TokenId> tokens) {
    const Way way = best(work, tokens);
    if (way.from == nullptr) return start_anew(work, std::ssize(tokens));
    Remembered* const from = way.from;
    const bool is_same = takes_over(way, work);
    Remembered* const to =
        is_same ? from : start_anew(work, std::ssize(tokens), from->head.entries).of;
    try {
        go_on(*from, *to, work, way.checkpoint);
        if (to->sequence->position() > way.position && to->sequence->can_rewind()) {
            to->sequence->rewind(way.position);
        }
        if (to->sequence->position() != way.position ||
            common(tokens_of(*to), tokens) < way.position) {
            throw Error(ErrorCode::kCorrupt, "its state is another conversation's");
        }
    } catch (...) {
        const ApiError error = current_api_error();
        if (to != from) drop(*to);
        if (is_same) revert(*from);
        if (error.status == 503) throw;
        // A state that cannot be read is left where it is; this conversation is read anew.
        ++metrics_.sessions_refused;
        if (way.kind == Way::Kind::kCheckpoint && !is_same) {
            std::erase_if(from->checkpoints,
                          [&](const Checkpoint& c) { return &c == way.checkpoint; });
        } else if (way.kind == Way::Kind::kStored) {
            drop(*from);
        }
        return start_anew(work, std::ssize(tokens));
    }
    if (way.kind == Way::Kind::kStored) ++metrics_.sessions_restored;
    to->is_in_use = true;
    std::erase_if(to->checkpoints, [&](const Checkpoint& c) { return c.position > way.position; });
    return {.of = to, .n_cached = way.position};
}

Place SequenceTable::start_anew(const Work& work, int64_t n_tokens, int64_t entries) {
    SessionHead head = head_for(work);
    head.id = id_for(head);
    Remembered& r = add(head);
    r.is_in_use = true;
    try {
        r.head.entries = entries > 0 ? entries : entries_of(work.memory, n_tokens);
        r.sequence = make_sequence(work.memory, n_tokens, r.head.entries);
    } catch (...) {
        all_.pop_back();
        metrics_.sessions = std::ssize(all_);
        throw;
    }
    return {.of = &r, .n_cached = 0};
}

/// Makes `to`, which may be the same, what `from` is, or was at a checkpoint.
void SequenceTable::go_on(Remembered& from, Remembered& to, const Work& work,
                          const Checkpoint* checkpoint) {
    std::string state;
    if (checkpoint != nullptr) {
        state = *checkpoint->state;
    } else if (&from != &to || from.sequence == nullptr) {
        state = state_of(from);
    }
    if (&from != &to) to.checkpoints = from.checkpoints;
    if (!state.empty()) load(to, work.memory, state);
}

void SequenceTable::put_aside(Remembered& of, Checkpoint::Kind kind, int64_t position) {
    std::erase_if(of.checkpoints, [&](const Checkpoint& c) { return c.kind == kind; });
    if (!make_room(static_cast<int64_t>(of.sequence->memory().usage().bytes))) return;
    of.checkpoints.push_back({.kind = kind,
                              .position = position,
                              .state = std::make_shared<const std::string>(state_of(of))});
}

void SequenceTable::release(Remembered& of, bool is_good, const Work& work,
                            const std::string& report) {
    of.is_in_use = false;
    of.used = std::chrono::steady_clock::now();
    if (!is_good || !work.is_kept || of.sequence == nullptr || of.sequence->position() == 0) {
        revert(of);
        note_bytes();
        return;
    }
    of.head.used = static_cast<int64_t>(std::time(nullptr));
    of.is_private = work.is_private;
    if (of.head.title.empty()) of.head.title = work.transcript.title;
    const std::span<const TokenId> ids = of.sequence->tokens().ids();
    of.head.tokens.assign(ids.begin(), ids.end());
    of.head.kept = kept_in(work.prompt);
    of.head.report = report;
    of.head.messages = work.is_private ? "" : work.transcript.messages;
    // What was said after the place that it went on from is another branch's.
    const int64_t n = work.transcript.n_messages;
    std::erase_if(of.head.responses, [n](const Responded& r) { return r.n_messages >= n; });
    if (!work.is_private) of.head.responses.push_back({work.id, n});
    if (of.head.responses.size() > kMostResponses) {
        of.head.responses.erase(of.head.responses.begin());
    }
    if (!of.is_private) store(of);
    store_lost();
    static_cast<void>(make_room(0));
    note_bytes();
}

/// What was last stored of it is what there is.
void SequenceTable::revert(Remembered& of) {
    of.is_in_use = false;
    if (!of.is_stored) return drop(of);
    of.sequence.reset();
    of.checkpoints.clear();
    of.head.messages = {};
    of.head.report = {};
}

/// From memory alone.
void SequenceTable::drop(const Remembered& of) {
    if (of.is_stored) metrics_.bytes_on_disk -= of.head.bytes;
    all_.remove_if([&](const Remembered& r) { return &r == &of; });
    metrics_.sessions = std::ssize(all_);
}

void SequenceTable::note_bytes() {
    int64_t running = 0;
    int64_t idle = 0;
    int64_t checkpoints = 0;
    for (const Remembered& r : all_) {
        if (r.sequence != nullptr) {
            const auto n = static_cast<int64_t>(r.sequence->memory().usage().bytes);
            (r.is_in_use ? running : idle) += n;
        }
        checkpoints += static_cast<int64_t>(r.checkpoint_bytes());
        idle += std::ssize(r.head.messages) + std::ssize(r.head.report);
    }
    metrics_.bytes_running = running;
    metrics_.bytes_idle = idle;
    metrics_.bytes_checkpoints = checkpoints;
}

bool SequenceTable::make_room(int64_t more, const Remembered* spared) {
    note_bytes();
    // What runs cannot go: if that is too much already, nothing else need.
    const bool can_fit =
        options_.most_bytes == 0 || metrics_.bytes_running + more <= options_.most_bytes;
    while (true) {
        const int64_t all =
            metrics_.bytes_running + metrics_.bytes_idle + metrics_.bytes_checkpoints;
        const auto may_go = [spared](const Remembered& r) {
            return !r.is_in_use && &r != spared &&
                   (r.sequence != nullptr || !r.checkpoints.empty());
        };
        const auto n = std::ranges::count_if(all_, may_go);
        const bool fits = options_.most_bytes == 0 || all + more <= options_.most_bytes;
        if ((fits || !can_fit) && n <= options_.most_remembered) return fits;
        Remembered* oldest = nullptr;
        for (Remembered& r : all_) {
            if (may_go(r) && (oldest == nullptr || r.used < oldest->used)) oldest = &r;
        }
        if (oldest == nullptr) return fits;
        let_go(*oldest);
        note_bytes();
    }
}

/// First what it could go on from otherwise, then the sequence, which the store may have.
void SequenceTable::let_go(Remembered& of) {
    if (of.sequence != nullptr && !of.checkpoints.empty()) {
        of.checkpoints.clear();
        return;
    }
    if (of.is_stored && !saver_->has(of.head.id)) saver_->flush();
    // Where the store could not take it, it keeps the one before, for after a restart.
    if (!of.is_stored || !saver_->has(of.head.id)) return drop(of);
    of.sequence.reset();
    of.checkpoints.clear();
    of.head.messages = {};
    of.head.report = {};
}

// ---- looking after conversations ----------------------------------------------------------------

std::vector<const Remembered*> SequenceTable::of_owner(const std::string& owner) const {
    std::vector<const Remembered*> found;
    for (const Remembered& r : all_) {
        if (r.head.owner == owner && !r.head.tokens.empty() && !r.is_private) found.push_back(&r);
    }
    std::ranges::stable_sort(found, std::ranges::greater{},
                             [](const Remembered* r) { return r->head.used; });
    // Of several that a client calls by one name, the last is the one.
    std::vector<const Remembered*> shown;
    for (const Remembered* r : found) {
        const bool is_known =
            !r->head.key.empty() && std::ranges::any_of(shown, [&](const Remembered* other) {
                return other->head.key == r->head.key;
            });
        if (!is_known) shown.push_back(r);
    }
    return shown;
}

Remembered& SequenceTable::find(const std::string& owner, const std::string& id) {
    Remembered* found = nullptr;
    for (Remembered& r : all_) {
        if (r.head.owner != owner || id.empty() || r.is_private) continue;
        const bool is_it =
            r.head.id == id || r.head.key == id ||
            std::ranges::find(r.head.responses, id, &Responded::id) != r.head.responses.end();
        if (is_it && (found == nullptr || r.head.used >= found->head.used)) found = &r;
    }
    if (found == nullptr) throw ApiError(404, cat("no conversation is called '", id, "'"));
    return *found;
}

void SequenceTable::rename(Remembered& of, const std::string& title) {
    of.head.title = title;
    if (of.is_in_use || !of.is_stored) return;
    of.head.messages = messages_of(of);
    of.head.report = report_of(of);
    store(of);
}

void SequenceTable::remove(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; stop that first");
    forget(of);
    note_bytes();
}

Remembered& SequenceTable::fork(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; wait until it is");
    SessionHead head = of.head;
    head.messages = messages_of(of);
    head.report = report_of(of);
    return adopt(std::move(head), state_of(of));
}

}  // namespace palimpsest
