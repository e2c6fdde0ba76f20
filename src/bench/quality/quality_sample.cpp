#include "bench/quality/quality_sample.h"

#include <algorithm>
#include <chrono>

#include "bench/quality/answers.h"
#include "core/error.h"
#include "memory/cache/memories.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<TokenId> joined(std::span<const TokenId> a, std::span<const TokenId> b) {
    std::vector<TokenId> out(a.begin(), a.end());
    out.insert(out.end(), b.begin(), b.end());
    return out;
}

/// What n positions take if every entry is kept.
size_t full_bytes(const MemoryShape& shape, const std::string& entries, int64_t n) {
    const size_t entry = 2 * ggml_row_size(entry_type(entries), shape.d_head) + sizeof(int32_t);
    size_t bytes = 0;
    for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
        const int64_t window = shape.window(layer);
        bytes += static_cast<size_t>(window > 0 ? std::min(window, n) : n) * entry;
    }
    return bytes * static_cast<size_t>(shape.n_head_kv);
}

/// Of `n_seen` positions.
double kept_share(const MemoryReport& report, int64_t n_seen) {
    int64_t held = 0;
    int64_t seen = 0;
    for (const MemoryReport::Layer& layer : report.layers) {
        if (layer.window > 0) continue;
        for (const int64_t n : layer.held) held += n;
        seen += n_seen * std::ssize(layer.held);
    }
    return seen > 0 ? static_cast<double>(held) / static_cast<double>(seen) : 1;
}

}  // namespace

bool is_prediction(const TaskKind& task) { return task.metric->name == "kl"; }

SampleRun::SampleRun(SampleSetting setting)
    : setting_(std::move(setting)),
      tokenizer_(setting_.readers.engine.loaded().require_tokenizer()),
      prompt_(encode_sample(tokenizer_, setting_.sample, setting_.options.with_template,
                            setting_.options.first_prefix())),
      question_(joined(prompt_.question, prompt_.ending)) {}

bool SampleRun::run(std::vector<WantedResult>& wanted) {
    std::vector<WantedResult*> once;
    std::vector<WantedResult*> once_latent;
    std::vector<WantedResult*> streaming;
    const MemoryShape shape = setting_.readers.engine.shape();
    for (WantedResult& w : wanted) {
        w.result.n_context = std::ssize(prompt_.context);
        w.result.n_question = std::ssize(question_);
        w.result.full_bytes = full_bytes(shape, w.result.entries, w.result.n_context);
        auto& cut_once = w.condition->has_latents ? once_latent : once;
        (w.result.protocol == "streaming" ? streaming : cut_once).push_back(&w);
    }
    for (const auto& group : {once, once_latent}) {
        if (!group.empty() && !run_one_shot(group)) return false;
    }
    return std::ranges::all_of(streaming, [&](WantedResult* w) {
        return w->condition->skim ? run_skim(*w) : run_streaming(*w);
    });
}

// ---- memories and sessions
// -----------------------------------------------------------------------

KvCacheOptions SampleRun::cache_options(const std::string& entries) const {
    return {.entries = entry_type(entries),
            .supplies = {.learned = setting_.options.learned},
            .prefix = setting_.options.prefix};
}

std::unique_ptr<KvCache> SampleRun::cache(const std::string& entries,
                                          EvictionOptions eviction) const {
    KvCacheOptions options = cache_options(entries);
    options.eviction = std::move(eviction);
    return setting_.readers.engine.make_cache(std::move(options));
}

std::unique_ptr<KvCache> SampleRun::watched_cache(std::span<WantedResult* const> wanted) const {
    KvCacheOptions options = cache_options(wanted.front()->result.entries);
    for (const WantedResult* w : wanted) {
        const EvictionOptions& e = w->condition->eviction;
        const auto is_same = [&](const EvictionOptions& o) {
            return notes_alike(o, e, options.supplies.learned.get());
        };
        if (e.policy == "full" || std::ranges::any_of(options.watching, is_same)) continue;
        options.watching.push_back(e);
    }
    return setting_.readers.engine.make_cache(std::move(options));
}

std::unique_ptr<Session> SampleRun::session(std::unique_ptr<KvCache> memory) const {
    return setting_.readers.engine.make_session(std::move(memory));
}

std::unique_ptr<Session> SampleRun::fork(const KvCache& read, WantedResult& wanted) const {
    auto forked = session(read.fork(wanted.condition->eviction));
    note_memory(forked->memory().report(), wanted.result);
    return forked;
}

AskedSample SampleRun::asked(std::span<const TokenId> rest) const {
    return {.tokenizer = tokenizer_,
            .sample = setting_.sample,
            .metric = *setting_.task.metric,
            .rest = rest,
            .never = setting_.readers.latent != nullptr
                         ? setting_.readers.latent->regions()->never_written()
                         : std::vector<TokenId>()};
}

std::vector<Segment> SampleRun::context(bool has_latents) {
    if (!has_latents) return {{.tokens = prompt_.context, .is_context = true}};
    if (latents_.empty()) encode_latents();
    return latents_;
}

/// Once, for all memories that read them.
void SampleRun::encode_latents() {
    const auto start = Clock::now();
    latents_ = encode_context(tokenizer_, setting_.sample, setting_.options.with_template,
                              *setting_.readers.latent->regions());
    for (Segment& s : latents_) {
        if (s.source == nullptr) continue;
        const std::span<const float> rows = s.source->rows(0, s.source->n_rows());
        s.rows.assign(rows.begin(), rows.end());
        s.source = nullptr;
    }
    encoding_s_ = seconds_since(start);
}

FeedHooks SampleRun::reading(std::string who) const {
    return {.on_progress = [this, who = std::move(who)](int64_t done, int64_t total) {
        return setting_.go_on(cat(", ", who, "reading ", done, " of ", total));
    }};
}

// ---- cut once
// ------------------------------------------------------------------------------------

bool SampleRun::run_one_shot(std::span<WantedResult* const> wanted) {
    std::unique_ptr<KvCache> memory = watched_cache(wanted);
    const KvCache& read = *memory;
    const std::unique_ptr<Session> reader = session(std::move(memory));
    std::vector<WantedResult*> agnostic;
    std::vector<WantedResult*> aware;
    for (WantedResult* w : wanted) {
        (w->condition->is_question_known ? aware : agnostic).push_back(w);
    }
    const bool has_latents = wanted.front()->condition->has_latents;
    std::vector<Segment> context = this->context(has_latents);
    double seconds = has_latents ? encoding_s_ : 0;
    const auto feed = [&](std::vector<Segment> segments, std::span<WantedResult* const> of) {
        const auto start = Clock::now();
        if (!segments.empty() && !reader->feed(std::move(segments), reading(""))) return false;
        seconds += seconds_since(start);
        for (WantedResult* w : of) w->result.prefill_s = seconds;
        return true;
    };
    if (!feed(std::move(context), agnostic)) return false;
    if (is_prediction(setting_.task)) return predict_forks(read, agnostic);
    if (!answer_forks(read, agnostic, question_)) return false;
    if (aware.empty()) return true;
    std::vector<Segment> question;
    if (!prompt_.question.empty()) question.push_back({.tokens = prompt_.question});
    return feed(std::move(question), aware) && answer_forks(read, aware, prompt_.ending);
}

bool SampleRun::answer_forks(const KvCache& read, std::span<WantedResult* const> wanted,
                             std::span<const TokenId> rest) {
    const auto n_lanes = static_cast<size_t>(setting_.options.n_lanes);
    for (size_t first = 0; first < wanted.size(); first += n_lanes) {
        const auto group = wanted.subspan(first, std::min(n_lanes, wanted.size() - first));
        std::vector<std::unique_ptr<Session>> sessions;
        std::vector<Session*> lanes;
        for (WantedResult* w : group) {
            lanes.push_back(sessions.emplace_back(fork(read, *w)).get());
            w->result.lanes = std::ssize(group);
        }
        Batch batch(setting_.readers.engine.model(), setting_.readers.engine.backend());
        const std::vector<Answer> answers = write_answers(lanes, batch, asked(rest));
        for (size_t i = 0; i < group.size(); ++i) {
            note_answer(answers[i], group[i]->result);
            setting_.on_result(group[i]->result);
        }
        if (!setting_.go_on("")) return false;
    }
    return true;
}

bool SampleRun::predict_forks(const KvCache& read, std::span<WantedResult* const> wanted) {
    // What latents cost is what they change beside the text itself.
    if (!wanted.front()->condition->has_latents) note_full(*session(read.fork({})));
    return std::ranges::all_of(wanted, [&](WantedResult* w) {
        predict(*fork(read, *w), w->result);
        return setting_.go_on("");
    });
}

// ---- cut all along
// -------------------------------------------------------------------------------

bool SampleRun::run_streaming(WantedResult& w) {
    const std::unique_ptr<Session> lane = session(cache(w.result.entries, w.condition->eviction));
    const bool is_known = w.condition->is_question_known;
    const bool has_latents = w.condition->has_latents;
    std::vector<Segment> prompt = context(has_latents);
    if (is_known && !prompt_.question.empty()) prompt.push_back({.tokens = prompt_.question});
    FeedHooks hooks = reading(cat(w.result.policy, " "));
    if (is_known) hooks.question = question_;
    const auto start = Clock::now();
    if (!lane->feed(std::move(prompt), hooks)) return false;
    w.result.prefill_s = seconds_since(start) + (has_latents ? encoding_s_ : 0);
    note_memory(lane->memory().report(), w.result);
    if (is_prediction(setting_.task)) {
        predict(*lane, w.result);
        return setting_.go_on("");
    }
    Batch batch(setting_.readers.engine.model(), setting_.readers.engine.backend());
    Session* const alone = lane.get();
    const std::vector<Answer> answers =
        write_answers(std::span(&alone, 1), batch, asked(is_known ? prompt_.ending : question_));
    note_answer(answers.front(), w.result);
    setting_.on_result(w.result);
    return setting_.go_on("");
}

bool SampleRun::run_skim(WantedResult& w) {
    if (!setting_.readers.skim->run(setting_.sample, *setting_.task.metric, *w.condition->skim,
                                    setting_.go_on, w.result)) {
        return false;
    }
    setting_.on_result(w.result);
    return setting_.go_on("");
}

// ---- results
// -------------------------------------------------------------------------------------

/// `whole` has read the context and forgotten nothing of it.
void SampleRun::note_full(Session& whole) {
    full_ = std::make_unique<Predictions>(setting_.readers.engine.config().n_vocab);
    whole.feed(question_, {.on_logits = [&](int64_t, auto row) { full_->add(row); }});
}

void SampleRun::predict(Session& session, QualityResult& result) {
    if (full_ == nullptr) {
        const std::unique_ptr<Session> whole = this->session(cache(result.entries, {}));
        whole->feed(prompt_.context);
        note_full(*whole);
    }
    Divergence divergence(*full_, question_);
    session.feed(question_, {.on_logits = [&](int64_t, auto row) { divergence.add(row); },
                             .may_forget = false});
    divergence.write_to(result);
    setting_.on_result(result);
}

void SampleRun::note_memory(const MemoryReport& report, QualityResult& r) const {
    // A latent stands for several positions of the text.
    r.kept = kept_share(report, r.memory == kTextMemory ? report.positions_seen : r.n_context);
    r.bytes = report.bytes.entries + report.bytes.bookkeeping + report.bytes.residue;
    // What is cut once has no more use for its policy's notes; what goes on cutting has.
    if (!report.one_shot) r.bytes += report.bytes.policy;
    r.peak_bytes = report.peak_bytes;
    r.cut_s = report.scoring_s + report.cutting_s;
}

void SampleRun::note_answer(const Answer& answer, QualityResult& r) const {
    note_text(answer.text, setting_.sample, *setting_.task.metric, r);
    r.n_written = answer.n_tokens;
    r.decode_s = answer.seconds;
}

}  // namespace palimpsest
