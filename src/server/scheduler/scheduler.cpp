#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "engine/report.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBetweenCheckpoints = 64;  // tokens, at least
constexpr size_t kMostLanes = 32;            // in one graph, whose size grows with them
constexpr uint64_t kOldestEvery = 4;         // steps

double seconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

std::vector<TokenId> flat(const std::vector<Segment>& prompt) {
    std::vector<TokenId> all;
    for (const Segment& s : prompt) all.insert(all.end(), s.tokens.begin(), s.tokens.end());
    return all;
}

/// Positions [from, to) of a prompt of tokens.
std::vector<Segment> part_of(const std::vector<Segment>& prompt, int64_t from, int64_t to) {
    std::vector<Segment> part;
    int64_t at = 0;
    for (const Segment& s : prompt) {
        const int64_t begin = std::max(from, at);
        const int64_t end = std::min(to, at + std::ssize(s.tokens));
        if (begin < end) {
            part.push_back(
                {.tokens = {s.tokens.begin() + (begin - at), s.tokens.begin() + (end - at)},
                 .is_context = s.is_context,
                 .keep = s.keep});
        }
        at += std::ssize(s.tokens);
    }
    return part;
}

/// What does not fit now does not fit into the context: that is the request's fault.
void feed(Sequence& sequence, std::vector<Segment> part, const FeedOptions& options) {
    try {
        sequence.feed(std::move(part), options);
    } catch (const Error& e) {
        if (e.code() != ErrorCode::kExhausted) throw;
        throw ApiError(400, e.what(), "", "context_length_exceeded");
    }
}

/// For who comes back: the conversation with its answer.
void add_answer(Transcript& transcript, const GenerateResult& answer) {
    std::string& list = transcript.messages;
    if (!transcript.answer || !list.ends_with(']')) return;
    list.pop_back();
    list += cat(list.size() > 1 ? "," : "", transcript.answer(answer), "]");
    ++transcript.n_messages;
}

}  // namespace

/// A request, from its coming to its end.
struct Scheduler::Job {
    enum class Stage { kWaiting, kReading, kWriting };
    /// One of its answers. The first is written by the sequence that is remembered.
    struct Choice {
        Sequence* sequence = nullptr;
        std::unique_ptr<Sequence> own = {};
        std::unique_ptr<AnswerWriter> writer = {};
        size_t n_told = 0;  // likelihoods
        bool is_over = false;
    };

    uint64_t id = 0;
    Work work;
    std::shared_ptr<WorkListener> listener;
    Stage stage = Stage::kWaiting;
    std::vector<TokenId> tokens = {};
    Place place = {};
    /// A piece that the prompt is read in.
    struct Piece {
        int64_t end = 0;
        std::optional<Checkpoint::Kind> kind = {};  // what is put aside after it
    };
    std::deque<Piece> pieces = {};
    std::optional<Checkpoint::Kind> put_aside = {};  // after the running one
    int64_t next = 0;                                // what was fed of it
    int64_t n_answers = 1;
    std::vector<Choice> choices = {};
    WorkResult result = {};
    Clock::time_point started = {}, first_token = {};

    [[nodiscard]] Sequence& sequence() const { return *place.of->sequence; }
    [[nodiscard]] bool is_remembered() const { return place.of != nullptr; }
    [[nodiscard]] int64_t n_left() const { return std::ssize(tokens) - sequence().position(); }
};

Scheduler::Scheduler(const Runtime& engine, const SchedulerOptions& options, SessionStore* store,
                     Metrics& metrics)
    : engine_(engine),
      options_(options),
      metrics_(metrics),
      table_(engine, options.table, store, metrics),
      batch_(engine.model(), engine.backend()),
      thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
    {
        const std::scoped_lock guard(mutex_);
        is_over_ = true;
        is_draining_ = true;
    }
    wake_.notify_all();
    thread_.join();
}

uint64_t Scheduler::submit(Work work, std::shared_ptr<WorkListener> listener) {
    auto job = std::make_unique<Job>();
    job->work = std::move(work);
    job->tokens = flat(job->work.prompt);
    job->n_answers = std::max<int64_t>(1, std::ssize(job->work.writers));
    job->listener = std::move(listener);
    table_.look_up(job->work);
    const std::scoped_lock guard(mutex_);
    if (is_draining_) throw ApiError(503, "the server is about to end; ask again elsewhere");
    if (n_waiting_ >= options_.most_waiting) {
        throw ApiError(503, cat("already ", n_waiting_, " requests wait; try again later"), "",
                       "queue_full");
    }
    const uint64_t id = next_id_++;
    job->id = id;
    ++n_waiting_;
    ++n_there_;
    metrics_.waiting = n_waiting_;
    fresh_.push_back(std::move(job));
    wake_.notify_all();
    return id;
}

void Scheduler::cancel(uint64_t id) {
    const std::scoped_lock guard(mutex_);
    cancelled_.push_back(id);
    wake_.notify_all();
}

void Scheduler::ask(std::function<void(SequenceTable&)> task) {
    const std::scoped_lock guard(mutex_);
    tasks_.push_back(std::move(task));
    wake_.notify_all();
}

void Scheduler::drain() {
    const std::scoped_lock guard(mutex_);
    is_draining_ = true;
}

bool Scheduler::is_idle() const {
    const std::scoped_lock guard(mutex_);
    return n_there_ == 0;
}

void Scheduler::run() {
    while (true) {
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [this] {
                return is_over_ || !running_.empty() || !waiting_.empty() || !fresh_.empty() ||
                       !cancelled_.empty() || !tasks_.empty();
            });
            if (is_over_) break;
        }
        try {
            take_messages();
            admit();
            if (!running_.empty()) step();
        } catch (...) {
            fail_all(current_api_error());
        }
    }
    fail_all(ApiError(503, "the server ends"));
    for (const JobPtr& job : fresh_) job->listener->on_failed(ApiError(503, "the server ends"));
}

/// Nothing that one request did may leave another without a word.
void Scheduler::fail_all(const ApiError& error) {
    for (std::list<JobPtr>* list : {&running_, &waiting_}) {
        while (!list->empty()) fail(*list->front(), error);
    }
}

void Scheduler::take_messages() {
    std::deque<JobPtr> fresh;
    std::vector<uint64_t> cancelled;
    std::deque<std::function<void(SequenceTable&)>> tasks;
    {
        const std::scoped_lock guard(mutex_);
        fresh.swap(fresh_);
        cancelled.swap(cancelled_);
        tasks.swap(tasks_);
    }
    for (JobPtr& job : fresh) waiting_.push_back(std::move(job));
    for (const uint64_t id : cancelled) {
        for (std::list<JobPtr>* list : {&waiting_, &running_}) {
            const auto at =
                std::ranges::find_if(*list, [id](const JobPtr& j) { return j->id == id; });
            if (at == list->end()) continue;
            Job& job = **at;
            ++metrics_.cancelled;
            for (Job::Choice& c : job.choices) c.sequence->cancel();
            if (job.is_remembered()) job.sequence().cancel();
            const bool is_good = job.is_remembered() && !job.sequence().failure();
            std::string report;
            try {
                if (is_good) report = report_of(job, job.sequence().memory().report());
            } catch (const std::exception&) {  // it will be told with the next answer
            }
            end(job, is_good, report);
            break;
        }
    }
    for (const auto& task : tasks) task(table_);
}

void Scheduler::admit() {
    while (!waiting_.empty() && std::ssize(running_) < options_.most_running) {
        Job& job = *waiting_.front();
        try {
            if (!start(job)) return;
        } catch (...) {
            fail(job, current_api_error());
        }
    }
}

/// False: there is no room for it yet.
bool Scheduler::start(Job& job) {
    const auto most_bytes = [this](const Job& j) {
        const int64_t n = std::ssize(j.tokens) + j.work.most_tokens;
        return table_.bytes_needed(j.work.memory, n) * j.n_answers;
    };
    const int64_t needed = most_bytes(job);
    const int64_t limit = options_.table.most_bytes;
    if (limit > 0 && needed > limit) {
        throw ApiError(
            400,
            cat("a memory of this request takes ", needed >> 20, " MiB, and the server has ",
                limit >> 20, " MiB for all; set a smaller budget, or shorten it"),
            "memory.budget", "memory_exceeded");
    }
    // What runs may grow to what it was let in for.
    int64_t promised = 0;
    for (const JobPtr& other : running_) {
        const auto has = static_cast<int64_t>(other->sequence().memory().usage().bytes);
        promised += std::max<int64_t>(0, most_bytes(*other) - has);
    }
    table_.refresh(job.work);
    const SequenceTable::AtHand at_hand = table_.at_hand(job.work, job.tokens);
    const int64_t more = std::max<int64_t>(0, needed - at_hand.bytes) + promised;
    if (!table_.make_room(more, at_hand.of) && !running_.empty()) return false;
    job.place = table_.place(job.work, job.tokens);
    job.started = Clock::now();
    job.result.waited_s = seconds(job.work.came, job.started);
    job.result.n_prompt = std::ssize(job.tokens);
    job.result.n_cached = job.place.n_cached;
    metrics_.tokens_cached += job.place.n_cached;
    job.stage = Job::Stage::kReading;
    {
        const std::scoped_lock guard(mutex_);
        --n_waiting_;
        metrics_.waiting = n_waiting_;
    }
    running_.splice(running_.end(), waiting_, waiting_.begin());
    metrics_.running = std::ssize(running_);
    try {
        begin_reading(job);
    } catch (...) {
        fail(job, current_api_error());
    }
    return true;
}

/// In pieces that end where others may want to go on from: after what the system says, after the
/// documents, before the last token, which an answer begins with. What can go back needs none.
void Scheduler::begin_reading(Job& job) {
    const int64_t n = std::ssize(job.tokens);
    const int64_t from = job.place.n_cached;
    const bool has_copies = job.work.writers.size() > 1;
    job.next = from;
    if (!job.work.memory.one_shot && (!job.sequence().can_rewind() || has_copies)) {
        int64_t system = 0;
        int64_t documents = 0;
        int64_t at = 0;
        for (const Segment& s : job.work.prompt) {
            if (s.keep && at == system) system += std::ssize(s.tokens);
            at += std::ssize(s.tokens);
            if (s.is_context) documents = at;
        }
        using Kind = Checkpoint::Kind;
        int64_t last = from;
        const std::pair<int64_t, Kind> ends[] = {{system, Kind::kSystem},
                                                 {documents, Kind::kDocuments}};
        // What was kept for one question is not what another needs.
        const bool is_asked = job.sequence().memory().rehearsed() == Rehearsed::kQuestion &&
                              !question_in(part_of(job.work.prompt, from, n)).empty();
        for (const auto& [end, kind] : ends) {
            if (is_asked && kind == Kind::kDocuments) continue;
            if (end < last + kBetweenCheckpoints || end >= n - 1 || !job.work.is_kept) continue;
            job.pieces.push_back({end, kind});
            last = end;
        }
        if (n - 1 > from) job.pieces.push_back({n - 1, Kind::kPrompt});
    }
    job.pieces.push_back({n, {}});
    advance_reading(job);
}

/// What is to be read has been read so far: goes on with the next piece.
void Scheduler::advance_reading(Job& job) {
    Sequence& sequence = job.sequence();
    if (sequence.wants()) return;
    if (job.pieces.empty()) return begin_writing(job);
    if (job.put_aside && job.work.is_kept) {
        table_.put_aside(*job.place.of, *job.put_aside, job.next);
    }
    const Job::Piece piece = job.pieces.front();
    const int64_t end = piece.end;
    // Copies are made before the last token, of which each has the next one's logits.
    if (end == std::ssize(job.tokens) && job.work.writers.size() > 1) {
        std::ostringstream out;
        out.exceptions(std::ios::badbit);
        sequence.save(out);
        const std::string state = std::move(out).str();
        for (size_t i = 1; i < job.work.writers.size(); ++i) {
            auto copy = table_.make_sequence(job.work.memory, std::ssize(job.tokens),
                                             job.place.of->head.entries);
            std::istringstream in(state);
            copy->load(in);
            feed(*copy, part_of(job.work.prompt, job.next, end), {});
            Job::Choice choice;
            choice.sequence = copy.get();
            choice.own = std::move(copy);
            job.choices.push_back(std::move(choice));
        }
    }
    job.pieces.pop_front();
    job.put_aside = piece.kind;
    // Asked about documents in what is still to be read; the last token needs no asking.
    feed(sequence, part_of(job.work.prompt, job.next, end),
         {.mean_hidden = job.work.writers.empty(),
          .question = question_in(part_of(job.work.prompt, job.next, std::ssize(job.tokens)))});
    job.next = end;
}

void Scheduler::begin_writing(Job& job) {
    // Copies read the last token with it, and may be a step behind.
    for (const Job::Choice& c : job.choices) {
        if (c.sequence->failure()) throw Error(*c.sequence->failure());
        if (c.sequence->wants()) return;
    }
    job.stage = Job::Stage::kWriting;
    job.result.read_s = seconds(job.started, Clock::now());
    metrics_.tokens_read += job.result.n_prompt - job.place.n_cached;
    if (job.work.writers.empty()) {
        const std::span<const float> mean = job.sequence().mean_hidden();
        job.result.mean_hidden.assign(mean.begin(), mean.end());
        return finish(job);
    }
    Job::Choice first;
    first.sequence = &job.sequence();
    job.choices.insert(job.choices.begin(), std::move(first));
    for (size_t i = 0; i < job.choices.size(); ++i) {
        job.choices[i].writer = std::move(job.work.writers[i]);
    }
    advance_writing(job);
}

void Scheduler::advance_writing(Job& job) {
    for (size_t i = 0; i < job.choices.size(); ++i) {
        Job::Choice& c = job.choices[i];
        if (c.is_over || c.sequence->wants()) continue;
        if (c.sequence->failure()) throw Error(*c.sequence->failure());
        c.is_over = !c.writer->next(*c.sequence);
        ++metrics_.tokens_written;
        if (job.first_token == Clock::time_point{}) {
            job.first_token = Clock::now();
            job.result.first_token_s = seconds(job.work.came, job.first_token);
            metrics_.observe_first_token(job.result.first_token_s);
        }
        WorkPiece piece = {.choice = i, .text = c.writer->take_text()};
        const auto& likelihoods = c.writer->result().likelihoods;
        piece.likelihoods.assign(likelihoods.begin() + static_cast<std::ptrdiff_t>(c.n_told),
                                 likelihoods.end());
        c.n_told = likelihoods.size();
        if (!piece.text.empty() || !piece.likelihoods.empty()) {
            job.listener->on_piece(std::move(piece));
        }
    }
    if (std::ranges::all_of(job.choices, &Job::Choice::is_over)) finish(job);
}

/// What its memory holds, and where documents lie in it.
std::string Scheduler::report_of(const Job& job, const MemoryReport& report) const {
    auto json = parse_json<nlohmann::ordered_json>(
        report_json(report, {&job.sequence().tokens(), engine_.loaded().tokenizer()}));
    json["documents"] = nlohmann::ordered_json::array();
    int64_t at = 0;
    for (const Segment& s : job.work.prompt) {
        const int64_t end = at + std::ssize(s.tokens);
        if (s.is_context) json["documents"].push_back({{"begin", at}, {"end", end}});
        at = end;
    }
    return json_text(json);
}

void Scheduler::finish(Job& job) {
    const Sequence& sequence = job.sequence();
    job.result.written_s = seconds(job.first_token, Clock::now());
    for (const Job::Choice& c : job.choices) job.result.answers.push_back(c.writer->result());
    const MemoryReport report = sequence.memory().report();
    WorkMemory& m = job.result.memory;
    m.policy = report.policy;
    m.budget = report.budget;
    m.tokens_in = sequence.tokens().n_input();
    for (const RetentionSpan& s : retention_spans(report)) {
        const int64_t n = s.end - s.begin;
        if (s.retention == Retention::kLatent) {
            m.latent += n;
        } else if (s.retention == Retention::kDropped) {
            m.dropped += n;
        } else if (s.retention == Retention::kPartly) {
            m.partly += n;
        } else {
            m.kept += n;
        }
    }
    metrics_.tokens_kept += m.kept;
    metrics_.tokens_partly += m.partly;
    metrics_.tokens_latent += m.latent;
    metrics_.tokens_dropped += m.dropped;
    m.bytes = static_cast<int64_t>(report.bytes.total());
    m.peak_bytes = static_cast<int64_t>(report.peak_bytes);
    std::string whole = report_of(job, report);
    if (job.work.detail == MemoryDetail::kSpans) m.report = whole;
    if (job.work.detail == MemoryDetail::kNone) m = {};
    const std::shared_ptr<WorkListener> listener = job.listener;
    WorkResult result = std::move(job.result);
    // Whoever comes back at once finds it.
    end(job, true, whole);
    listener->on_done(std::move(result));
}

void Scheduler::fail(Job& job, const ApiError& error) {
    const std::shared_ptr<WorkListener> listener = job.listener;
    for (Job::Choice& c : job.choices) c.sequence->cancel();
    if (job.is_remembered()) job.sequence().cancel();
    ++(error.status >= 500 && error.status != 503 ? metrics_.failed : metrics_.refused);
    end(job, false, "");
    listener->on_failed(error);
}

/// The job is gone afterwards, whatever becomes of its conversation.
void Scheduler::end(Job& job, bool is_good, const std::string& report) {
    const auto is_it = [&](const JobPtr& j) { return j.get() == &job; };
    std::list<JobPtr>& from = job.stage == Job::Stage::kWaiting ? waiting_ : running_;
    const auto at = std::ranges::find_if(from, is_it);
    check(at != from.end(), "a request ends twice");
    const JobPtr gone = std::move(*at);
    from.erase(at);
    metrics_.running = std::ssize(running_);
    {
        const std::scoped_lock guard(mutex_);
        --n_there_;
        if (gone->stage == Job::Stage::kWaiting) metrics_.waiting = --n_waiting_;
    }
    if (!gone->is_remembered()) return;
    try {
        if (is_good && !gone->choices.empty() && gone->choices.front().writer) {
            add_answer(gone->work.transcript, gone->choices.front().writer->result());
        }
        gone->choices.clear();
        table_.release(*gone->place.of, is_good, gone->work, report);
    } catch (const std::exception&) {
        ++metrics_.save_failures;
    }
}

// ---- steps --------------------------------------------------------------------------------------

std::vector<Batch::Turn> Scheduler::turns() {
    std::vector<Sequence*> writers;
    std::vector<Job*> readers;
    for (const JobPtr& job : running_) {
        if (job->stage == Job::Stage::kReading && job->sequence().wants()) {
            readers.push_back(job.get());
        }
        for (const Job::Choice& c : job->choices) {
            if (c.sequence->wants()) writers.push_back(c.sequence);
        }
    }
    // More than one graph takes: by turns.
    const size_t n_writers = std::min(writers.size(), kMostLanes - (readers.empty() ? 0 : 1));
    if (n_writers < writers.size()) {
        const size_t first = (n_steps_ * n_writers) % writers.size();
        std::rotate(writers.begin(), writers.begin() + static_cast<std::ptrdiff_t>(first),
                    writers.end());
        writers.resize(n_writers);
    }
    std::vector<Batch::Turn> all;
    for (Sequence* s : writers) all.push_back({.sequence = s});
    auto rows = std::ssize(writers);
    std::ranges::stable_sort(readers, {}, &Job::n_left);
    if (++n_steps_ % kOldestEvery == 0 && !readers.empty()) {
        const auto oldest = std::ranges::min_element(readers, {}, &Job::id);
        std::rotate(readers.begin(), oldest, oldest + 1);
    }
    for (Job* job : readers) {
        if (rows >= options_.step_rows || all.size() >= kMostLanes) break;
        all.push_back({.sequence = &job->sequence()});
        const Sequence::Progress p = job->sequence().progress();
        rows += std::min(engine_.n_chunk(), p.total - p.done);
    }
    return all;
}

void Scheduler::step() {
    const std::vector<Batch::Turn> all = turns();
    for (const Batch::Turn& turn : all) {
        const Sequence::Progress p = turn.sequence->progress();
        metrics_.step_rows += std::min(engine_.n_chunk(), p.total - p.done);
    }
    try {
        static_cast<void>(batch_.step(all));
    } catch (const std::exception&) {
        // Each sequence that was in it says so by itself.
    }
    ++metrics_.steps;
    std::vector<Job*> jobs;
    for (const JobPtr& job : running_) jobs.push_back(job.get());
    for (Job* job : jobs) {
        try {
            advance(*job);
        } catch (...) {
            fail(*job, current_api_error());
        }
    }
}

void Scheduler::advance(Job& job) {
    if (job.sequence().failure()) throw Error(*job.sequence().failure());
    if (job.stage == Job::Stage::kWriting) return advance_writing(job);
    const bool has_read = job.sequence().progress().done > 0 || !job.sequence().wants();
    if (has_read && job.listener != nullptr) {
        job.listener->on_progress({.read = job.sequence().position(),
                                   .total = std::ssize(job.tokens),
                                   .held = job.sequence().memory().usage().entries_held});
    }
    advance_reading(job);
}

}  // namespace palimpsest
