#include "engine/session.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

/// Rows of logits that one step may produce: at 50,000 tokens a row takes 200 KB.
constexpr int64_t kMostLogits = 64;

constexpr int64_t kMostRehearsed = 2048;  // positions repeated at once

/// Nodes of a pass: about 30 a block, and what every lane's memory adds.
size_t nodes_for(const ModelConfig& cfg, size_t n_lanes) {
    return 256 + static_cast<size_t>(cfg.n_layer) * (48 + 48 * n_lanes) + 8 * n_lanes;
}

void check_tokens(std::span<const TokenId> tokens, int64_t n_vocab) {
    for (const TokenId t : tokens) {
        require(t >= 0 && t < n_vocab, "token ", t, " is outside the vocabulary of ", n_vocab);
    }
}

/// Neighbours of the same form as one: steps are cut by length, whatever the tokens mean.
std::vector<Segment> joined(std::vector<Segment> prompt) {
    std::vector<Segment> out;
    for (Segment& s : prompt) {
        if (s.tokens.empty() && s.rows.empty()) continue;
        if (out.empty() || out.back().rows.empty() != s.rows.empty()) {
            out.push_back(std::move(s));
            continue;
        }
        out.back().tokens.insert(out.back().tokens.end(), s.tokens.begin(), s.tokens.end());
        out.back().rows.insert(out.back().rows.end(), s.rows.begin(), s.rows.end());
    }
    return out;
}

}  // namespace

std::vector<uint64_t> Evaluator::plan(std::span<const Lane> lanes) const {
    std::vector<uint64_t> topology;
    topology.reserve(lanes.size() * 5);
    for (const Lane& lane : lanes) {
        check(lane.tokens.empty() != lane.rows.empty(), "a lane has tokens or rows");
        check_tokens(lane.tokens, model_.config().n_vocab);
        topology.insert(topology.end(),
                        {reinterpret_cast<uintptr_t>(lane.memory), lane.memory->plan(lane.step),
                         static_cast<uint64_t>(lane.step.n), static_cast<uint64_t>(lane.n_logits),
                         lane.rows.empty() ? uint64_t{0} : uint64_t{1}});
    }
    return topology;
}

void Evaluator::build(std::span<const Lane> lanes) {
    graph_.reset();
    lanes_.assign(lanes.begin(), lanes.end());
    graph_ = std::make_unique<Graph>(nodes_for(model_.config(), lanes.size()));
    logits_ = model_.forward(*graph_, lanes_);
    if (logits_ != nullptr) graph_->output(logits_);
}

std::span<const float> Evaluator::evaluate(std::span<const Lane> lanes) {
    std::vector<uint64_t> topology = plan(lanes);
    const bool again = graph_ != nullptr && topology == topology_ && graph_->is_current(backend_);
    topology_.clear();  // a graph that fails is not run again
    if (again) {
        std::ranges::copy(lanes, lanes_.begin());
    } else {
        build(lanes);
    }
    graph_->compute(backend_);
    topology_ = std::move(topology);
    for (const Lane& lane : lanes_) lane.memory->settle(lane.step);
    if (logits_ == nullptr) return {};
    values_.resize(static_cast<size_t>(ggml_nelements(logits_)));
    ggml_backend_tensor_get(logits_, values_.data(), 0, values_.size() * sizeof(float));
    return values_;
}

Session::Session(const Model& model, Backend& backend, std::unique_ptr<ContextMemory> memory,
                 const SessionOptions& options)
    : model_(model), options_(options), memory_(std::move(memory)), evaluator_(model, backend) {
    require(options_.n_chunk > 0, "a chunk of ", options_.n_chunk, " positions");
    note_read({}, memory_->usage().positions_seen);
}

int64_t Session::length(const Segment& segment) const {
    const int64_t width = model_.config().n_embd;
    require(std::ssize(segment.rows) % width == 0, segment.rows.size(),
            " values are no whole number of rows of ", width);
    return segment.rows.empty() ? std::ssize(segment.tokens) : std::ssize(segment.rows) / width;
}

void Session::step(std::span<const TokenId> tokens, std::span<const float> rows, bool more,
                   const FeedHooks& hooks) {
    const int64_t n_vocab = model_.config().n_vocab;
    const int64_t n = rows.empty() ? std::ssize(tokens) : std::ssize(rows) / model_.config().n_embd;
    const int64_t n_logits = hooks.on_logits ? n : (more ? 0 : 1);
    const Lane lane = {.memory = memory_.get(),
                       .step = {.n = n,
                                .first_pos = memory_->next_position(),
                                .is_prefill = more,
                                .may_forget = hooks.may_forget},
                       .tokens = tokens,
                       .rows = rows,
                       .n_logits = n_logits};
    const std::span<const float> all = evaluator_.evaluate(std::span(&lane, 1));
    if (hooks.on_logits) {
        for (int64_t i = 0; i < n; ++i) {
            hooks.on_logits(position_ + i, all.subspan(static_cast<size_t>(i * n_vocab),
                                                       static_cast<size_t>(n_vocab)));
        }
    }
    logits_ = all.empty() ? all : all.last(static_cast<size_t>(n_vocab));
    note_read(tokens, n);
}

/// `tokens` may be missing: ready rows have none.
void Session::note_read(std::span<const TokenId> tokens, int64_t n) {
    position_ += n;
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    tokens_.resize(static_cast<size_t>(position_), -1);
}

/// Its length. Throws kInvalidArgument if there is none, or for tokens that do not exist.
int64_t Session::check_prompt(std::span<const Segment> prompt) const {
    int64_t total = 0;
    for (const Segment& s : prompt) {
        check_tokens(s.tokens, model_.config().n_vocab);
        total += length(s);
    }
    require(total > 0, "the prompt is empty");
    return total;
}

bool Session::feed(std::vector<TokenId> tokens, const FeedHooks& hooks) {
    std::vector<Segment> prompt(1);
    prompt.front().tokens = std::move(tokens);
    return feed(std::move(prompt), hooks);
}

bool Session::feed(std::vector<Segment> prompt, const FeedHooks& hooks) {
    static_cast<void>(check_prompt(prompt));  // before the memory hears of it
    prompt = memory_->admit(std::move(prompt));
    const int64_t total = check_prompt(prompt);
    if (total > memory_->room()) {
        throw Error(ErrorCode::kExhausted,
                    cat("the prompt has ", total, " tokens",
                        position_ > 0 ? cat(" after ", position_, " already read") : "",
                        ", the context has room for ", position_ + memory_->room(),
                        "; shorten the prompt, raise the context length, or set a memory budget"));
    }
    const int64_t chunk = hooks.on_logits ? std::min(read_chunk(), kMostLogits) : read_chunk();
    const int64_t start = position_;
    const Rehearses rehearses = hooks.may_forget ? memory_->rehearses() : Rehearses::kNever;
    const auto width = static_cast<size_t>(model_.config().n_embd);
    int64_t done = 0;
    for (const Segment& s : joined(std::move(prompt))) {
        const int64_t n = length(s);
        for (int64_t at = 0; at < n; at += chunk) {
            const int64_t m = std::min(chunk, n - at);
            const auto first = static_cast<size_t>(at);
            const auto count = static_cast<size_t>(m);
            const bool more = done + m < total;
            if (s.rows.empty()) {
                step(std::span(s.tokens).subspan(first, count), {}, more, hooks);
            } else {
                step({}, std::span(s.rows).subspan(first * width, count * width), more, hooks);
            }
            done += m;
            if (rehearses == Rehearses::kAfterEachStep)
                rehearse(position_ - m, position_, more, {});
            if (hooks.on_progress && !hooks.on_progress(done, total)) return false;
        }
    }
    return rehearses != Rehearses::kAfterThePrompt || rehearse(start, position_, false, hooks);
}

/// Positions read in one step: where each is rehearsed too, both together make a chunk.
int64_t Session::read_chunk() const {
    if (memory_->rehearses() != Rehearses::kAfterEachStep) return options_.n_chunk;
    const int64_t asking = repetition_overhead(options_.rehearsal);
    const int64_t n = (options_.n_chunk - asking) / 2;
    require(n >= kLeastRepeated, "a chunk of ", options_.n_chunk, " is too short to be rehearsed; ",
            "it must be ", asking + 2 * kLeastRepeated, " or more");
    return n;
}

/// The input is repeated piece by piece. Returns false if a hook stopped it.
bool Session::rehearse(int64_t begin, int64_t end, bool is_prefill, const FeedHooks& hooks) {
    for (int64_t at = begin; at < end; at += kMostRehearsed) {
        const int64_t stop = std::min(at + kMostRehearsed, end);
        const auto goes_on = [&](int64_t done) {
            return !hooks.on_rehearsal ||
                   hooks.on_rehearsal(std::min(at + done, stop) - begin, end - begin);
        };
        if (!rehearse_piece(at, stop, is_prefill, stop == end, goes_on)) return false;
    }
    return true;
}

bool Session::rehearse_piece(int64_t begin, int64_t end, bool is_prefill, bool is_last,
                             const std::function<bool(int64_t done)>& goes_on) {
    const std::vector<TokenId> asking = repetition(options_.rehearsal, tokens_, begin, end);
    const auto n = std::ssize(asking);
    int64_t done = 0;
    while (done < n) {
        const int64_t m = std::min(options_.n_chunk, n - done);
        const bool ends = done + m == n;
        const Lane lane = {
            .memory = memory_.get(),
            .step = {.n = m,
                     .first_pos = memory_->next_position() + done,
                     .is_prefill = is_prefill,
                     .rehearsal = Rehearsal{.begin = begin,
                                            .end = end,
                                            .ends_piece = ends,
                                            .ends_rehearsal = ends && is_last}},
            .tokens = std::span(asking).subspan(static_cast<size_t>(done), static_cast<size_t>(m)),
            .rows = {},
            .n_logits = 0};
        evaluator_.evaluate(std::span(&lane, 1));
        done += m;
        if (!goes_on(done) && !(ends && is_last)) return false;
    }
    return true;
}

void Session::require_room(int64_t n) const {
    if (memory_->room() >= n) return;
    throw Error(ErrorCode::kExhausted,
                cat("the context is full: it has room for ", position_ + memory_->room(),
                    " tokens, and ", n, " were to follow ", position_));
}

void Session::accept(TokenId token) {
    require_room(1);
    step(std::span(&token, 1), {}, false, {});
}

void SessionBatch::step(std::span<Session* const> sessions, std::span<const Lane> lanes) {
    const std::span<const float> all = evaluator_.evaluate(lanes);
    size_t row = 0;
    for (size_t i = 0; i < sessions.size(); ++i) {
        sessions[i]->note_read(lanes[i].tokens, lanes[i].step.n);
        const auto n = static_cast<size_t>(lanes[i].n_logits * n_vocab_);
        sessions[i]->logits_ = all.subspan(row, n);
        row += n;
    }
}

void SessionBatch::read(std::span<Session* const> sessions, std::span<const TokenId> tokens) {
    require(!tokens.empty(), "the prompt is empty");
    const auto n = std::ssize(tokens);
    int64_t chunk = n;
    for (const Session* s : sessions) {
        s->require_room(n);
        chunk = std::min(chunk, s->options_.n_chunk);
    }
    std::vector<Lane> lanes(sessions.size());
    for (int64_t at = 0; at < n; at += chunk) {
        const int64_t m = std::min(chunk, n - at);
        const bool more = at + m < n;
        for (size_t i = 0; i < lanes.size(); ++i) {
            ContextMemory& memory = *sessions[i]->memory_;
            lanes[i] = {.memory = &memory,
                        .step = {.n = m,
                                 .first_pos = memory.next_position(),
                                 .is_prefill = more,
                                 .may_forget = false},
                        .tokens = tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(m)),
                        .rows = {},
                        .n_logits = more ? 0 : 1};
        }
        step(sessions, lanes);
    }
}

void SessionBatch::accept(std::span<Session* const> sessions, std::span<const TokenId> tokens) {
    check(sessions.size() == tokens.size(), "a batch takes one token a session");
    std::vector<Lane> lanes(sessions.size());
    for (size_t i = 0; i < lanes.size(); ++i) {
        sessions[i]->require_room(1);
        ContextMemory& memory = *sessions[i]->memory_;
        lanes[i] = {.memory = &memory,
                    .step = {.n = 1, .first_pos = memory.next_position()},
                    .tokens = tokens.subspan(i, 1),
                    .rows = {},
                    .n_logits = 1};
    }
    step(sessions, lanes);
}

void Session::reset() {
    memory_->reset();
    position_ = 0;
    tokens_.clear();
    logits_ = {};
}

}  // namespace palimpsest
