#include "server/scheduler/sequence_table.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <sstream>

#include "core/error.h"
#include "core/fingerprint.h"
#include "engine/memory_choice.h"
#include "memory/attention/entry_store.h"

namespace palimpsest {

namespace {

constexpr size_t kMostPlans = 32;
constexpr size_t kMostResponses = 64;
constexpr int64_t kLeastEntries = 64;  // of a share, for a question behind a short text
constexpr int64_t kLeastWorth = 16;    // tokens: fewer are read anew

int64_t now() { return static_cast<int64_t>(std::time(nullptr)); }

int64_t common(std::span<const TokenId> a, std::span<const TokenId> b) {
    return std::ranges::mismatch(a, b).in1 - a.begin();
}

std::span<const TokenId> tokens_of(const Remembered& r) {
    return r.sequence != nullptr ? r.sequence->tokens().ids() : std::span(r.head.tokens);
}

/// How a request can go on from something remembered.
struct Way {
    enum class Kind { kAsItIs, kBack, kCheckpoint, kStored };
    Kind kind = Kind::kAsItIs;
    int64_t position = 0;
    const Checkpoint* checkpoint = nullptr;
};

/// The one that saves most.
Way best_way(const Remembered& r, std::span<const TokenId> tokens, bool rewinds) {
    const std::span<const TokenId> held = tokens_of(r);
    // One token at least must be read, for what comes after it.
    const int64_t shared = std::min(common(held, tokens), std::ssize(tokens) - 1);
    const bool is_all = shared == std::ssize(held);
    Way best;
    if (r.sequence == nullptr) {
        if ((is_all || rewinds) && r.is_stored)
            best = {.kind = Way::Kind::kStored, .position = shared};
    } else if (!r.is_in_use) {
        if (is_all) best = {.kind = Way::Kind::kAsItIs, .position = shared};
        if (!is_all && r.sequence->can_rewind())
            best = {.kind = Way::Kind::kBack, .position = shared};
    }
    for (const Checkpoint& c : r.checkpoints) {
        const int64_t position = rewinds ? std::min(c.position, shared) : c.position;
        if (position <= shared && position > best.position) {
            best = {.kind = Way::Kind::kCheckpoint, .position = position, .checkpoint = &c};
        }
    }
    return best;
}

}  // namespace

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

std::string SequenceTable::key_of(const MemoryChoice& c) {
    std::string key =
        cat(c.budget, "|", c.policy, "|", c.allocator, "|", c.residue, "|", c.bank, "|", c.n_sink,
            "|", c.n_recent, "|", c.interval, "|", c.one_shot, "|", c.positions, "|", c.sidecar,
            "|", c.prefix_gate, "|", c.context, "|", c.entries, "|", c.evicted, "|", c.n_writing,
            "|", c.n_recent_writing, "|", c.attention);
    for (const auto* list : {&c.settings, &c.bank_settings, &c.prefixes}) {
        key += '|';
        for (const std::string& s : *list) key += s + ";";
    }
    return key;
}

const MemoryPlan& SequenceTable::plan(const MemoryChoice& choice) {
    const std::string key = key_of(choice);
    for (auto at = plans_.begin(); at != plans_.end(); ++at) {
        if (at->first != key) continue;
        plans_.splice(plans_.begin(), plans_, at);
        return plans_.front().second;
    }
    plans_.emplace_front(key, engine_.plan(choice));
    if (plans_.size() > kMostPlans) plans_.pop_back();
    return plans_.front().second;
}

std::unique_ptr<Sequence> SequenceTable::make_sequence(const MemoryChoice& choice, int64_t n) {
    MemoryPlan made = plan(choice);
    // Of a conversation that grows there is no share: it is of what came first.
    Budget& budget = made.options.eviction.budget;
    if (budget.kind == Budget::Kind::kShare) {
        auto count = std::max<int64_t>(kLeastEntries,
                                       static_cast<int64_t>(budget.share * static_cast<double>(n)));
        if (options_.most_entries > 0) count = std::min(count, options_.most_entries);
        budget = {.kind = Budget::Kind::kEntries, .count = count};
    }
    return engine_.make_sequence(engine_.make_memory(made));
}

int64_t SequenceTable::bytes_needed(const MemoryChoice& choice, int64_t n) {
    const MemoryPlan& made = plan(choice);
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

std::string SequenceTable::new_id() {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::random_device random;
    std::string id = "s-";
    for (int i = 0; i < 24; ++i) id += kDigits[random() % 16];
    return id;
}

void SequenceTable::load(Remembered& of, const MemoryChoice& choice, const std::string& state) {
    if (of.sequence == nullptr) of.sequence = make_sequence(choice, std::ssize(of.head.tokens));
    std::istringstream in(state);
    of.sequence->load(in);
}

std::string SequenceTable::state_of(Remembered& of) {
    if (of.sequence == nullptr && !of.is_stored) return *of.checkpoints.back().state;
    if (of.sequence == nullptr) {
        saver_->flush();
        return store_->state(of.head.id);
    }
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    of.sequence->save(out);
    return std::move(out).str();
}

Place SequenceTable::place(const Work& work, std::span<const TokenId> tokens) {
    const std::string memory = key_of(work.memory);
    const bool rewinds = can_rewind(work.memory);
    Remembered* from = nullptr;
    Way way;
    for (Remembered& r : all_) {
        if (r.head.owner != work.owner || r.head.memory != memory || !work.is_kept) continue;
        const Way w = best_way(r, tokens, rewinds);
        const bool is_ours = r.head.key == work.session;
        const bool was_ours = from != nullptr && from->head.key == work.session;
        const bool is_better =
            w.position > way.position || (w.position == way.position && is_ours && !was_ours);
        if (w.position >= kLeastWorth && is_better) {
            from = &r;
            way = w;
        }
    }
    if (from == nullptr) return start_anew(work, std::ssize(tokens));

    // The same conversation, gone on with or begun again near its end, takes its own sequence;
    // another one that begins alike gets a copy.
    const bool is_same = from->head.key == work.session && !from->is_in_use &&
                         (way.kind == Way::Kind::kAsItIs || way.kind == Way::Kind::kStored ||
                          2 * way.position >= std::ssize(tokens_of(*from)));
    Remembered* to = is_same ? from : start_anew(work, std::ssize(tokens)).of;
    try {
        go_on(*from, *to, work, way.checkpoint);
        if (to->sequence->position() > way.position && to->sequence->can_rewind()) {
            to->sequence->rewind(way.position);
        }
        if (common(tokens_of(*to), tokens) < way.position ||
            tokens_of(*to).size() > tokens.size()) {
            throw Error(ErrorCode::kCorrupt, "its state is another conversation's");
        }
    } catch (const Error& e) {
        if (to != from) forget(*to);
        if (e.code() != ErrorCode::kCorrupt && e.code() != ErrorCode::kNotFound &&
            e.code() != ErrorCode::kInvalidArgument) {
            throw;
        }
        // A saved conversation that cannot be read is left where it is; this one is read anew.
        ++metrics_.sessions_refused;
        all_.remove_if([&](const Remembered& r) { return &r == from; });
        return start_anew(work, std::ssize(tokens));
    }
    if (way.kind == Way::Kind::kStored) ++metrics_.sessions_restored;
    to->is_in_use = true;
    to->is_stored = false;
    std::erase_if(to->checkpoints, [&](const Checkpoint& c) { return c.position > way.position; });
    return {.of = to, .n_cached = way.position};
}

Place SequenceTable::start_anew(const Work& work, int64_t n_tokens) {
    Remembered& r = add({.id = new_id(),
                         .owner = work.owner,
                         .key = work.session,
                         .model = model_,
                         .memory = key_of(work.memory),
                         .created = now()});
    r.is_in_use = true;
    try {
        r.sequence = make_sequence(work.memory, n_tokens);
    } catch (...) {
        all_.pop_back();
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

void SequenceTable::release(Remembered& of, bool is_good, const Work& work,
                            const std::string& report) {
    of.is_in_use = false;
    of.used = std::chrono::steady_clock::now();
    if (!is_good || !work.is_kept || of.sequence == nullptr || of.sequence->position() == 0) {
        forget(of);
        note_bytes();
        return;
    }
    of.head.used = now();
    if (of.head.title.empty()) of.head.title = work.transcript.title;
    of.head.messages = work.transcript.messages;
    of.head.responses.push_back(work.id);
    if (of.head.responses.size() > kMostResponses)
        of.head.responses.erase(of.head.responses.begin());
    of.head.report = report;
    const std::span<const TokenId> ids = of.sequence->tokens().ids();
    of.head.tokens.assign(ids.begin(), ids.end());
    store(of);
    static_cast<void>(make_room(0));
    note_bytes();
}

void SequenceTable::store(Remembered& of) {
    if (saver_ == nullptr) return;
    try {
        std::string state = state_of(of);
        metrics_.bytes_on_disk -= of.head.bytes;
        of.head.bytes = std::ssize(state) + std::ssize(of.head.messages) +
                        std::ssize(of.head.report) + 4 * std::ssize(of.head.tokens);
        metrics_.bytes_on_disk += of.head.bytes;
        saver_->save(of.head, std::move(state));
        of.is_stored = true;
    } catch (const Error&) {  // a memory that cannot be saved
        ++metrics_.save_failures;
    }
    trim_store();
}

/// Those not used for the longest time go, for good.
void SequenceTable::trim_store() {
    while (metrics_.bytes_on_disk > options_.most_stored_bytes) {
        Remembered* oldest = nullptr;
        for (Remembered& r : all_) {
            if (!r.is_in_use && r.is_stored &&
                (oldest == nullptr || r.head.used < oldest->head.used)) {
                oldest = &r;
            }
        }
        if (oldest == nullptr || all_.size() <= 1) return;
        forget(*oldest);
    }
}

void SequenceTable::forget(Remembered& of) {
    if (saver_ != nullptr && (of.is_stored || of.head.bytes > 0)) {
        saver_->remove(of.head.id);
        metrics_.bytes_on_disk -= of.head.bytes;
    }
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
    }
    metrics_.bytes_running = running;
    metrics_.bytes_idle = idle;
    metrics_.bytes_checkpoints = checkpoints;
}

bool SequenceTable::make_room(int64_t more) {
    while (true) {
        note_bytes();
        const int64_t all =
            metrics_.bytes_running + metrics_.bytes_idle + metrics_.bytes_checkpoints;
        const auto takes_memory = [](const Remembered& r) {
            return !r.is_in_use && (r.sequence != nullptr || !r.checkpoints.empty());
        };
        const auto n = std::ranges::count_if(all_, takes_memory);
        const bool fits = options_.most_bytes == 0 || all + more <= options_.most_bytes;
        if (fits && n <= options_.most_remembered) return true;
        Remembered* oldest = nullptr;
        for (Remembered& r : all_) {
            if (takes_memory(r) && (oldest == nullptr || r.used < oldest->used)) oldest = &r;
        }
        if (oldest == nullptr) return fits;
        if (saver_ != nullptr && oldest->is_stored) {
            if (!saver_->has(oldest->head.id)) saver_->flush();
            oldest->is_stored = saver_->has(oldest->head.id);
        }
        if (!oldest->is_stored) {
            forget(*oldest);
            continue;
        }
        oldest->sequence.reset();
        oldest->checkpoints.clear();
    }
}

// ---- looking after conversations ----------------------------------------------------------------

std::vector<const Remembered*> SequenceTable::of_owner(const std::string& owner) const {
    std::vector<const Remembered*> found;
    for (const Remembered& r : all_) {
        if (r.head.owner == owner && !r.head.tokens.empty()) found.push_back(&r);
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
        if (r.head.owner != owner || id.empty()) continue;
        const bool is_it = r.head.id == id || r.head.key == id ||
                           std::ranges::find(r.head.responses, id) != r.head.responses.end();
        if (is_it && (found == nullptr || r.head.used >= found->head.used)) found = &r;
    }
    if (found == nullptr) throw ApiError(404, cat("no conversation is called '", id, "'"));
    return *found;
}

void SequenceTable::rename(Remembered& of, const std::string& title) {
    of.head.title = title;
    if (!of.is_in_use && of.is_stored) store(of);
}

void SequenceTable::remove(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; stop that first");
    forget(of);
    note_bytes();
}

Remembered& SequenceTable::fork(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; wait until it is");
    return import(of.head.owner, exported(of));
}

std::string SequenceTable::exported(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; wait until it is");
    return packed(of.head, state_of(of));
}

Remembered& SequenceTable::import(const std::string& owner, std::string_view file) {
    std::string state;
    SessionHead head = unpacked(file, state);
    if (head.model != model_) {
        throw Error(ErrorCode::kInvalidArgument, cat("the conversation is with another model (",
                                                     head.model, "; this one is ", model_, ")"));
    }
    head.id = new_id();
    head.owner = owner;
    head.key = head.id;
    head.created = head.used = now();
    head.responses.clear();
    for (const TokenId t : head.tokens) {
        if (t < 0 || t >= engine_.config().n_vocab) {
            throw Error(ErrorCode::kCorrupt, "it has a token that does not exist");
        }
    }
    if (saver_ != nullptr) {
        head.bytes = std::ssize(state);
        metrics_.bytes_on_disk += head.bytes;
    }
    Remembered& r = add(head);
    if (saver_ != nullptr) {
        saver_->save(head, std::move(state));
        r.is_stored = true;
        trim_store();
    } else {
        r.checkpoints.push_back({.position = std::ssize(head.tokens),
                                 .state = std::make_shared<const std::string>(std::move(state))});
    }
    return r;
}

}  // namespace palimpsest
