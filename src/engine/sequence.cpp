#include "engine/sequence.h"

#include <algorithm>
#include <array>
#include <istream>
#include <ostream>
#include <utility>

#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

/// Rows of logits that one step may produce: at 50,000 tokens a row takes 200 KB.
constexpr int64_t kMostLogits = 64;

constexpr int64_t kMostAsked = 256;  // tokens of a question: its last ones

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'S', 'Q', '0', '0', '1'};
constexpr int64_t kMostName = 256;

/// Neighbours of the same form as one: steps are cut by length, whatever the tokens mean.
std::vector<Segment> joined(std::vector<Segment> prompt) {
    std::vector<Segment> out;
    const auto append = [](auto& to, const auto& more) {
        to.insert(to.end(), more.begin(), more.end());
    };
    for (Segment& s : prompt) {
        if (s.tokens.empty() && !s.has_rows()) continue;
        if (out.empty() || s.source || out.back().source || out.back().has_rows() != s.has_rows()) {
            out.push_back(std::move(s));
            continue;
        }
        append(out.back().tokens, s.tokens);
        append(out.back().rows, s.rows);
        append(out.back().row_tokens, s.row_tokens);
        append(out.back().row_lengths, s.row_lengths);
    }
    return out;
}

/// Rows [from, from + n) of a segment of rows.
std::span<const float> ready_rows(const Segment& s, int64_t from, int64_t n, int64_t n_embd) {
    if (s.source != nullptr) return s.source->rows(from, n);
    return std::span(s.rows).subspan(static_cast<size_t>(from * n_embd),
                                     static_cast<size_t>(n * n_embd));
}

void check_tokens(std::span<const TokenId> tokens, int64_t n_vocab) {
    for (const TokenId t : tokens) {
        require(t >= 0 && t < n_vocab, "token ", t, " is outside the vocabulary of ", n_vocab);
    }
}

}  // namespace

std::vector<TokenId> question_in(std::span<const Segment> prompt) {
    const auto last = std::ranges::find(prompt.rbegin(), prompt.rend(), true, &Segment::is_context);
    std::vector<TokenId> question;
    if (last == prompt.rend()) return question;
    for (auto s = last.base(); s != prompt.end(); ++s) {
        question.insert(question.end(), s->tokens.begin(), s->tokens.end());
    }
    return question;
}

Sequence::Sequence(const ModelConfig& config, std::unique_ptr<ContextMemory> memory,
                   SequenceOptions options)
    : config_(config), options_(std::move(options)), memory_(std::move(memory)) {
    require(options_.n_chunk > 0, "a chunk of ", options_.n_chunk, " positions");
    tokens_.add_unknown(memory_->usage().positions_seen);
}

// ---- what is to be read -------------------------------------------------------------------------

int64_t Sequence::length(const Segment& segment) const {
    const int64_t width = config_.n_embd;
    require(std::ssize(segment.rows) % width == 0, segment.rows.size(),
            " values are no whole number of rows of ", width);
    return segment.length(width);
}

/// Its length. Throws kInvalidArgument if there is none, for tokens that do not exist, and for rows
/// whose origins are not theirs.
int64_t Sequence::check_prompt(std::span<const Segment> prompt) const {
    int64_t total = 0;
    for (const Segment& s : prompt) {
        check_tokens(s.tokens, config_.n_vocab);
        check_tokens(s.row_tokens, config_.n_vocab);
        total += length(s);
        if (s.row_lengths.empty() && s.row_tokens.empty()) continue;
        int64_t n = 0;
        for (const int32_t count : s.row_lengths) {
            require(count >= 0, "a row stands for ", count, " tokens");
            n += count;
        }
        require(
            s.has_rows() && std::ssize(s.row_lengths) == length(s) && n == std::ssize(s.row_tokens),
            s.row_lengths.size(), " rows of ", length(s), " stand for ", n, " tokens of ",
            s.row_tokens.size());
    }
    require(total > 0, "the prompt is empty");
    return total;
}

/// Throws if nothing can be fed now.
void Sequence::begin_anew() {
    check(!wants(), "something is fed while a prompt is read");
    if (is_broken_) throw Error(*failure_);
    failure_.reset();
}

void Sequence::feed(std::vector<Segment> prompt, const FeedOptions& options) {
    begin_anew();
    how_ = options;
    is_written_ = false;
    // Before the memory hears of it.
    static_cast<void>(check_prompt(prompt));
    check_tokens(how_.question, config_.n_vocab);
    set_question(prompt);
    static_cast<void>(read_chunk());
    prompt = memory_->admit(std::move(prompt));
    const int64_t total = check_prompt(prompt);
    if (total > room()) {
        throw Error(ErrorCode::kExhausted,
                    cat("the prompt has ", total, " tokens",
                        position() > 0 ? cat(" after ", position(), " already read") : "",
                        ", the context has room for ", position() + room(),
                        "; shorten the prompt, raise the context length, or set a memory budget"));
    }
    prompt_ = joined(std::move(prompt));
    mean_hidden_.assign(how_.mean_hidden ? static_cast<size_t>(config_.n_embd) : 0, 0.0F);
    total_ = total;
    done_ = 0;
    start_ = position();
}

bool Sequence::asks_question() const { return memory_->rehearsed() == Rehearsed::kQuestion; }

void Sequence::set_question(std::span<const Segment> prompt) {
    std::vector<TokenId>& question = how_.question;
    if (!asks_question()) return question.clear();
    if (question.empty()) question = question_in(prompt);
    const auto most = static_cast<size_t>(std::min(kMostAsked, options_.n_chunk / 2));
    if (question.size() > most) {
        question.erase(question.begin(), question.end() - static_cast<std::ptrdiff_t>(most));
    }
}

/// What is read now.
Rehearses Sequence::rehearses() const {
    if (!how_.may_forget || is_written_) return Rehearses::kNever;
    return asks_question() && how_.question.empty() ? Rehearses::kNever : memory_->rehearses();
}

void Sequence::accept(TokenId token) {
    begin_anew();
    check_tokens(std::span(&token, 1), config_.n_vocab);
    require_room(1);
    how_ = {};
    prompt_.assign(1, Segment{.tokens = {token}});
    is_written_ = true;
    total_ = 1;
    done_ = 0;
    start_ = position();
}

void Sequence::require_room(int64_t n) const {
    if (room() >= n) return;
    throw Error(ErrorCode::kExhausted,
                cat("the context is full: it has room for ", position() + room(), " tokens, and ",
                    n, " were to follow ", position()));
}

void Sequence::forget_prompt() {
    prompt_.clear();
    rows_.clear();
    repetition_.reset();
    total_ = done_ = pending_ = 0;
}

void Sequence::cancel() {
    if (repetition_) {
        is_broken_ = true;
        failure_ = Error(ErrorCode::kInvalidArgument,
                         "a prompt's repetition was stopped; only a reset can follow");
    }
    forget_prompt();
}

Sequence::Progress Sequence::progress() const {
    if (failure_) return {};
    if (repetition_ && repetition_->is_shown) {
        const Repetition& r = *repetition_;
        return {Activity::kRepeating, std::min(r.piece + r.done, piece_end()) - r.begin,
                r.end - r.begin};
    }
    if (prompt_.empty()) return {};
    return {is_written_ ? Activity::kWriting : Activity::kReading, done_, total_};
}

/// Positions read in one step: where each is rehearsed too, both together make a chunk.
int64_t Sequence::read_chunk() const {
    int64_t n = options_.n_chunk;
    if (rehearses() == Rehearses::kAfterEachStep && asks_question()) {
        n = std::max<int64_t>(1, n - std::ssize(how_.question));
    } else if (rehearses() == Rehearses::kAfterEachStep) {
        const int64_t asking = repetition_overhead(options_.rehearsal);
        n = (options_.n_chunk - asking) / 2;
        require(n >= kLeastRepeated, "a chunk of ", options_.n_chunk,
                " is too short to be rehearsed; ", "it must be ", asking + 2 * kLeastRepeated,
                " or more");
    }
    return how_.all_logits ? std::min(n, kMostLogits) : n;
}

std::vector<Run> Sequence::runs(std::span<const Segment> of, int64_t from, int64_t n) const {
    std::vector<Run> all;
    for (const Segment& s : of) {
        const int64_t here = std::min(length(s) - from, n);
        if (here <= 0) {
            from -= length(s);
            continue;
        }
        const auto first = static_cast<size_t>(from);
        const auto count = static_cast<size_t>(here);
        if (!s.has_rows()) {
            all.push_back({.tokens = std::span(s.tokens).subspan(first, count)});
        } else {
            all.push_back({.rows = ready_rows(s, from, here, config_.n_embd)});
        }
        n -= here;
        from = 0;
        if (n == 0) break;
    }
    return all;
}

Lane Sequence::next_lane(int64_t limit) {
    check(wants() && limit >= 1, "a sequence that wants nothing is run");
    if (repetition_) return rehearsal_lane(limit);
    try {
        return reading_lane(limit);
    } catch (const Error& e) {  // rows that could not be made
        took({.failure = e});
        throw;
    }
}

Lane Sequence::reading_lane(int64_t limit) {
    const int64_t n = std::min({read_chunk(), limit, total_ - done_});
    const bool more = done_ + n < total_;
    pending_ = n;
    return {.memory = memory_.get(),
            .step = {.n = n,
                     .first_pos = memory_->next_position(),
                     .is_prefill = more,
                     .kind = how_.may_forget ? StepKind::kRead : StepKind::kAside,
                     .is_rehearsed = rehearses() != Rehearses::kNever},
            .runs = runs(prompt_, done_, n),
            .n_logits = how_.all_logits ? n : (more ? 0 : 1),
            .n_hidden = how_.hidden || how_.mean_hidden ? n : 0};
}

void Sequence::took(const LaneResult& result) {
    if (result.failure) {
        failure_ = result.failure;
        is_broken_ = result.is_broken || repetition_.has_value();
        forget_prompt();
        return;
    }
    const int64_t n = std::exchange(pending_, 0);
    if (repetition_) return took_repetition(n);
    const auto row = static_cast<size_t>(config_.n_vocab);
    logits_.clear();
    if (!result.logits.empty()) {
        const auto last = result.logits.last(row);
        logits_.assign(last.begin(), last.end());
    }
    if (how_.mean_hidden) add_hidden(result.hidden);
    note_read(done_, n);
    done_ += n;
    const bool more = done_ < total_;
    const Rehearses when = rehearses();
    if (when == Rehearses::kAfterEachStep) {
        begin_repetition(position() - n, position(), more, false);
    } else if (!more && when == Rehearses::kAfterThePrompt) {
        begin_repetition(start_, position(), false, true);
    } else if (!more) {
        forget_prompt();
    }
}

/// Each position counts alike, whatever the steps.
void Sequence::add_hidden(std::span<const float> rows) {
    const auto width = static_cast<size_t>(config_.n_embd);
    for (size_t at = 0; at < rows.size(); at += width) {
        for (size_t i = 0; i < width; ++i) {
            mean_hidden_[i] += rows[at + i] / static_cast<float>(total_);
        }
    }
}

/// Positions [from, from + n) of the prompt were read.
void Sequence::note_read(int64_t from, int64_t n) {
    const bool keeps_rows = rehearses() != Rehearses::kNever && !asks_question();
    for (const Segment& s : prompt_) {
        const int64_t here = std::min(length(s) - from, n);
        if (here <= 0) {
            from -= length(s);
            continue;
        }
        if (!s.has_rows()) {
            tokens_.add(
                std::span(s.tokens).subspan(static_cast<size_t>(from), static_cast<size_t>(here)));
        } else {
            if (keeps_rows) {
                const auto rows = ready_rows(s, from, here, config_.n_embd);
                rows_.push_back({position(), {rows.begin(), rows.end()}});
            }
            note_rows(s, from, here);
        }
        n -= here;
        from = 0;
        if (n == 0) break;
    }
}

/// What rows [from, from + n) of a segment of rows stand for.
void Sequence::note_rows(const Segment& s, int64_t from, int64_t n) {
    if (s.row_lengths.empty()) return tokens_.add_unknown(n);
    auto at = s.row_tokens.begin();
    for (int64_t i = 0; i < from + n; ++i) {
        const int32_t count = s.row_lengths[static_cast<size_t>(i)];
        if (i >= from) tokens_.add_row({at, at + count});
        at += count;
    }
}

// ---- repetitions --------------------------------------------------------------------------------

void Sequence::begin_repetition(int64_t begin, int64_t end, bool is_prefill, bool is_shown) {
    repetition_ = Repetition{
        .begin = begin, .end = end, .is_prefill = is_prefill, .is_shown = is_shown, .piece = begin};
    begin_piece();
}

int64_t Sequence::piece_end() const {
    if (asks_question()) return repetition_->end;  // it is about everything
    return std::min(repetition_->piece + kMostRepeated, repetition_->end);
}

/// The next piece of which there is anything to repeat.
void Sequence::begin_piece() {
    while (repetition_) {
        Repetition& r = *repetition_;
        r.asking = repetition_of(r.piece, piece_end());
        r.length = r.done = 0;
        for (const Segment& s : r.asking) r.length += length(s);
        if (r.length > 0) return;
        end_piece();
    }
}

void Sequence::end_piece() {
    Repetition& r = *repetition_;
    r.piece = piece_end();
    if (r.piece < r.end) return;
    repetition_.reset();
    rows_.clear();
    if (done_ == total_) forget_prompt();
}

/// The question, or request and answer that repeat those positions: tokens, and ready rows where
/// rows were read.
std::vector<Segment> Sequence::repetition_of(int64_t begin, int64_t end) const {
    if (asks_question()) return {Segment{.tokens = how_.question}};
    std::vector<Segment> all;
    int64_t at = begin;
    const auto add_tokens = [&](std::vector<TokenId> tokens) {
        if (!tokens.empty()) all.push_back({.tokens = std::move(tokens)});
    };
    const auto ids = [&](int64_t from, int64_t to) {
        const auto part =
            tokens_.ids().subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
        std::vector<TokenId> tokens(part.begin(), part.end());
        std::erase(tokens, -1);
        return tokens;
    };
    // A row may stand for no token: then the cue is shorter, and never none behind the beginning.
    std::vector<TokenId> before = tokens_.of(std::max<int64_t>(0, begin - kCueTokens), begin);
    std::vector<TokenId> request = request_to_repeat(options_.rehearsal, before);
    if (begin > 0 && before.empty()) {
        request = options_.rehearsal.later;
        request.insert(request.end(), options_.rehearsal.answer.begin(),
                       options_.rehearsal.answer.end());
    }
    add_tokens(std::move(request));
    for (const Read& read : rows_) {
        const int64_t n = std::ssize(read.rows) / config_.n_embd;
        const int64_t from = std::max(read.begin, begin);
        const int64_t to = std::min(read.begin + n, end);
        if (from >= to) continue;
        add_tokens(ids(at, from));
        const auto first = read.rows.begin() + (from - read.begin) * config_.n_embd;
        all.push_back({.rows = {first, first + (to - from) * config_.n_embd}});
        at = to;
    }
    add_tokens(ids(at, end));
    return joined(std::move(all));
}

Lane Sequence::rehearsal_lane(int64_t limit) {
    const Repetition& r = *repetition_;
    const int64_t n = std::min({options_.n_chunk, limit, r.length - r.done});
    const bool ends = r.done + n == r.length;
    pending_ = n;
    return {.memory = memory_.get(),
            .step = {.n = n,
                     .first_pos = memory_->next_position() + r.done,
                     .is_prefill = r.is_prefill,
                     .kind = StepKind::kRehearsal,
                     .rehearsal = {.begin = r.piece,
                                   .end = piece_end(),
                                   .ends_piece = ends,
                                   .ends_rehearsal = ends && piece_end() == r.end}},
            .runs = runs(r.asking, r.done, n),
            .n_logits = 0};
}

void Sequence::took_repetition(int64_t n) {
    Repetition& r = *repetition_;
    r.done += n;
    if (r.done < r.length) return;
    end_piece();
    begin_piece();
}

// ---- state --------------------------------------------------------------------------------------

void Sequence::rewind(int64_t position) {
    require(!wants() && !is_broken_, "a conversation goes back between two turns only");
    memory_->rewind(position);
    tokens_.rewind(position);
    logits_.clear();
}

void Sequence::reset() {
    memory_->reset();
    forget_prompt();
    tokens_.clear();
    rows_.clear();
    logits_.clear();
    failure_.reset();
    is_broken_ = false;
}

void Sequence::save(std::ostream& out) const {
    require(!wants() && !is_broken_, "a conversation is saved between two turns only");
    out.write(kMagic.data(), kMagic.size());
    put_all(out, std::vector<char>(options_.model.begin(), options_.model.end()));
    tokens_.save(out);
    memory_->save(out);
}

void Sequence::load(std::istream& in) {
    require(!wants(), "a conversation is loaded between two turns only");
    if (take<std::array<char, 8>>(in) != kMagic) {
        throw Error(ErrorCode::kCorrupt, "it is no saved conversation, or one of another version");
    }
    const std::vector<char> model = take_all<char>(in, kMostName);
    require(std::ranges::equal(model, options_.model), "it was saved with another model (",
            std::string(model.begin(), model.end()), "; this one is ", options_.model,
            "); load it with the model it was made with");
    reset();
    try {
        tokens_.load(in, config_.n_vocab);
        memory_->load(in);
        if (memory_->usage().positions_seen != position()) {
            throw Error(ErrorCode::kCorrupt, cat("it has ", position(), " tokens and a memory of ",
                                                 memory_->usage().positions_seen));
        }
    } catch (...) {
        reset();
        throw;
    }
}

}  // namespace palimpsest
