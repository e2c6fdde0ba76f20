#include "palimpsest/conversation.h"

#include <array>
#include <chrono>
#include <fstream>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/whole_file.h"
#include "engine/conversation_parts.h"
#include "engine/report.h"
#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'C', 'V', '0', '0', '1'};

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

struct Generation::State {
    Conversation::Parts* owner;
    AnswerWriter writer;
    std::vector<Segment> prompt;  // until the first step
    Clock::time_point start = Clock::now(), first_token = {};
    int64_t start_position = 0;
    bool is_begun = false, is_reading = true, is_finished = false;

    State(Conversation::Parts& o, std::vector<Segment> p, const AnswerOptions& options)
        : owner(&o), writer(o.tokenizer, o.engine.config().n_vocab, options), prompt(std::move(p)) {
        writer.result().n_prompt = length_of(prompt, o.engine.config().n_embd);
        owner->running = this;
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
        if (!is_finished) cancel();
    }

    [[nodiscard]] Sequence& sequence() const { return owner->session->sequence(); }

    /// What the next turn must know of this one.
    void finish() {
        is_finished = true;
        owner->running = nullptr;
        GenerateResult& r = writer.result();
        (is_reading ? r.prefill_s : r.decode_s) = seconds_since(is_reading ? start : first_token);
        // What the next turn must begin with goes by what was read, whatever came in between.
        const int64_t n_read = sequence().position() - start_position;
        if (!is_begun || n_read <= 0) return;
        owner->unread.clear();
        if (r.reason != StopReason::kEndToken && n_read < r.n_prompt + r.n_generated) {
            if (!r.tokens.empty()) owner->unread.push_back(r.tokens.back());
        }
    }

    void cancel() {
        if (is_finished) return;  // what runs now is not this one's
        // The token that was to be read is the one that is unread.
        sequence().cancel();
        writer.cancel();
        finish();
    }

    bool step() {
        if (is_finished) return false;
        if (!is_begun) {
            start = Clock::now();
            start_position = sequence().position();
            sequence().feed(std::exchange(prompt, {}));
            is_begun = true;
        }
        // A chunk and its repetition go together: nothing may come in between.
        while (sequence().wants()) {
            owner->session->step();
            if (sequence().is_between_steps()) break;
        }
        if (sequence().wants()) return true;
        if (is_reading) {
            writer.result().prefill_s = seconds_since(start);
            first_token = Clock::now();
            is_reading = false;
        }
        if (writer.next(sequence())) return true;
        finish();
        return false;
    }

    [[nodiscard]] Progress progress() const {
        if (is_finished) return {Activity::kOver, 0, 0};
        const Sequence::Progress p = sequence().progress();
        if (p.activity == Sequence::Activity::kRepeating) {
            return {Activity::kRepeating, p.done, p.total};
        }
        if (is_reading) return {Activity::kReading, p.done, p.total};
        return {Activity::kWriting, writer.result().n_generated, 0};
    }
};

std::unique_ptr<Generation::State> Conversation::Parts::begin(
    std::vector<Segment> prompt, const AnswerOptions& options_of_answer) {
    require(running == nullptr, "a turn is asked while another one goes on");
    AnswerOptions answer = options_of_answer;
    if (regions() != nullptr) {
        for (const TokenId t : regions()->never_written()) answer.sampling.never.push_back(t);
    }
    return std::make_unique<Generation::State>(*this, std::move(prompt), answer);
}

std::vector<Segment> Conversation::Parts::encode_all(std::vector<ChatMessage> messages) const {
    require(session->position() == 0, "a conversation is replied to from its beginning, and ",
            session->position(), " positions have been read; reset() it first");
    require(!messages.empty(), "there is no message to reply to");
    require(!is_raw(), "without a chat template there are no messages");
    const bool has_system = messages.front().role == "system";
    const PrefixDocument* const prefix = prefixes.empty() ? nullptr : prefixes.front().get();
    require(prefix == nullptr || !has_system,
            "a prefix memory is what the system says; leave out the system's message");
    if (!has_system && !options.system.empty()) {
        messages.insert(messages.begin(), {.role = "system", .parts = {{options.system}}});
    }
    return encode_conversation(engine.loaded().require_tokenizer(), {.messages = messages},
                               chat_template(), prefix, regions());
}

Generation Conversation::Parts::generate(std::vector<Segment> prompt, const AnswerOptions& answer) {
    return Generation(begin(std::move(prompt), answer));
}

// ---- Generation ---------------------------------------------------------------------------------

Generation::Generation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Generation::~Generation() = default;
Generation::Generation(Generation&&) noexcept = default;
Generation& Generation::operator=(Generation&&) noexcept = default;

bool Generation::step() {
    try {
        return state_->step();
    } catch (...) {
        state_->cancel();
        throw;
    }
}

Generation::Progress Generation::progress() const { return state_->progress(); }
std::string Generation::take_text() { return state_->writer.take_text(); }
void Generation::cancel() { state_->cancel(); }
const GenerateResult& Generation::result() const { return state_->writer.result(); }

GenerateResult Generation::run(const OnText& on_text, const OnProgress& on_progress) {
    while (true) {
        const bool goes_on = step();
        const std::string text = take_text();
        if (!text.empty() && on_text && !on_text(text)) {
            state_->writer.cancel();
            cancel();
        }
        if (!goes_on || state_->is_finished) break;
        if (on_progress && !on_progress(progress())) cancel();
    }
    return result();
}

// ---- Conversation -------------------------------------------------------------------------------

Conversation::Conversation(const Engine& engine, const ConversationOptions& options)
    : parts_(std::make_unique<Parts>(engine.runtime(), options)) {}
Conversation::~Conversation() = default;
Conversation::Conversation(Conversation&&) noexcept = default;
Conversation& Conversation::operator=(Conversation&&) noexcept = default;

const std::vector<std::string>& Conversation::notes() const { return parts_->notes; }

Generation Conversation::ask(const std::vector<TextPart>& parts, const AnswerOptions& options) {
    return parts_->generate(parts_->encode(parts), options);
}

Generation Conversation::ask(const std::string& question, const AnswerOptions& options) {
    return ask(std::vector<TextPart>{{question}}, options);
}

Generation Conversation::reply(const std::vector<ChatMessage>& messages,
                               const AnswerOptions& options) {
    return parts_->generate(parts_->encode_all(messages), options);
}

Generation Conversation::go_on_from(const std::vector<int32_t>& tokens,
                                    const AnswerOptions& options) {
    std::vector<Segment> prompt = {{.tokens = parts_->unread}, {.tokens = tokens}};
    return parts_->generate(std::move(prompt), options);
}

MemoryReport Conversation::report() const { return parts_->session->memory().report(); }

std::string Conversation::report_text(int width) const {
    return report_for_people(report(), {&parts_->session->tokens(), parts_->tokenizer}, width);
}

std::string Conversation::report_json() const {
    return palimpsest::report_json(report(), {&parts_->session->tokens(), parts_->tokenizer});
}

int64_t Conversation::position() const { return parts_->session->position(); }
int64_t Conversation::room() const { return parts_->session->room(); }

void Conversation::Parts::write(std::ostream& out) const {
    require(running == nullptr, "a conversation is saved between two turns only");
    out.exceptions(std::ios::badbit);  // no memory is said, not left out
    out.write(kMagic.data(), kMagic.size());
    const std::string name = template_name();
    put_all(out, std::vector<char>(name.begin(), name.end()));
    put(out, static_cast<uint8_t>(is_raw() ? 1 : 0));
    put_all(out, unread);
    session->sequence().save(out);
}

void Conversation::Parts::read(std::istream& in) {
    require(running == nullptr, "a conversation is loaded between two turns only");
    try {
        if (take<std::array<char, 8>>(in) != kMagic) {
            throw Error(ErrorCode::kCorrupt, "it is no saved conversation, or another version's");
        }
        const std::vector<char> name = take_all<char>(in, kMostTemplateName);
        const bool was_raw = take<uint8_t>(in) != 0;
        require(std::ranges::equal(name, template_name()) && was_raw == is_raw(),
                "it was held with another chat template; name the same one");
        std::vector<TokenId> last = take_all<TokenId>(in, 1);
        for (const TokenId t : last) {
            const bool is_known = t >= 0 && t < engine.config().n_vocab;
            if (!is_known) throw Error(ErrorCode::kCorrupt, "its last token does not exist");
        }
        session->sequence().load(in);
        unread = std::move(last);
    } catch (const Error&) {
        // Half a state is none: the sequence is as new then.
        if (session->position() == 0) unread.clear();
        throw;
    }
}

void Conversation::save(const std::string& path) const {
    std::ostringstream out;
    parts_->write(out);
    write_whole_file(path, out.str());
}

void Conversation::load(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "'"));
    try {
        parts_->read(in);
    } catch (const Error& e) {
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
}

void Conversation::reset() {
    require(parts_->running == nullptr, "a conversation is reset between two turns only");
    parts_->session->reset();
    parts_->unread.clear();
}

std::vector<int32_t> Conversation::held_positions(int64_t layer, int64_t head) const {
    const MemoryShape& shape = parts_->engine.shape();
    require(layer >= 0 && layer < shape.n_layer, "layer ", layer, " of ", shape.n_layer);
    const LayerShape of = shape.layer(layer);
    const auto* attends = std::get_if<AttentionLayer>(&of);
    if (attends == nullptr) return {};
    require(head >= 0 && head < attends->n_head_kv, "head ", head, " of ", attends->n_head_kv);
    const auto held = parts_->session->memory().positions(layer, head);
    return {held.begin(), held.end()};
}

bool Conversation::is_raw() const { return parts_->is_raw(); }

Session& Conversation::session() const { return *parts_->session; }

}  // namespace palimpsest
