#include "palimpsest/conversation.h"

#include <array>
#include <chrono>
#include <fstream>
#include <sstream>
#include <utility>

#include "core/digest.h"
#include "core/error.h"
#include "core/whole_file.h"
#include "engine/generate.h"
#include "engine/prefix_text.h"
#include "engine/report.h"
#include "engine/runtime.h"
#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'C', 'V', '0', '0', '1'};
constexpr int64_t kMostTemplate = 256;  // characters of a name; of a longer text, its digest

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

struct Conversation::Parts {
    const Runtime& engine;
    ConversationOptions options;
    const Tokenizer* tokenizer;                       // nullptr: the model has no words
    std::unique_ptr<const ChatTemplate> chosen = {};  // instead of the model's own
    std::vector<std::string> notes;
    std::vector<std::shared_ptr<const PrefixDocument>> prefixes;
    std::unique_ptr<Session> session;
    /// The last token of an answer that the model did not end was picked, but not read.
    std::vector<TokenId> unread = {};
    Generation::State* running = nullptr;

    Parts(const Runtime& runtime, const ConversationOptions& o)
        : engine(runtime), options(o), tokenizer(runtime.loaded().tokenizer()) {
        if (!o.chat_template.empty()) {
            chosen = engine.loaded().require_tokenizer().chosen_template(o.chat_template);
        }
        MemoryPlan plan = engine.plan(o.memory);
        notes = std::move(plan.notes);
        prefixes = plan.options.prefix.documents;
        check_prefixes_fit();
        session = engine.make_session(engine.make_memory(plan));
        if (!is_raw() && tokenizer != nullptr && !has_template()) {
            notes.emplace_back("this model has no chat template; the text goes in as it is");
        }
    }

    void check_prefixes_fit() const {
        if (prefixes.empty()) return;
        const PrefixHeader& first = prefixes.front()->header();
        require(options.system.empty() && options.chat_template.empty(),
                "a prefix memory is what the system says, in the model's own template; leave out "
                "--system and --chat-template");
        require(!options.is_raw || first.is_raw, "the prefix memory '", first.name,
                "' was built for chats; leave out --raw, or build it with --raw");
    }

    [[nodiscard]] bool has_template() const {
        return chosen != nullptr || tokenizer->has_chat_template();
    }
    [[nodiscard]] const ChatTemplate& chat_template() const {
        return chosen != nullptr ? *chosen : tokenizer->chat_template();
    }
    /// By what a saved conversation knows its template.
    [[nodiscard]] std::string template_name() const {
        const std::string& choice = options.chat_template;
        return std::ssize(choice) <= kMostTemplate ? choice : digest_of(choice);
    }
    /// Do texts go in as they are?
    [[nodiscard]] bool is_raw() const {
        if (!prefixes.empty()) return prefixes.front()->header().is_raw;
        return options.is_raw || (tokenizer != nullptr && !has_template());
    }

    /// What stands for documents; nullptr: their tokens do.
    [[nodiscard]] const Regions* regions() const { return options.regions.get(); }

    [[nodiscard]] std::vector<Segment> encode(const std::vector<TextPart>& parts) const {
        const Tokenizer& t = engine.loaded().require_tokenizer();
        if (session->position() == 0) {
            if (!prefixes.empty()) return request_after(*prefixes.front(), t, parts, regions());
            if (is_raw()) return t.encode_raw(parts, Tokenizer::Seams::kJoined, regions());
            std::vector<ChatMessage> messages;
            if (!options.system.empty()) {
                messages.push_back({"system", {{options.system, false}}});
            }
            messages.push_back({"user", parts});
            return t.encode_chat(messages, chat_template(), Tokenizer::Seams::kJoined, regions());
        }
        std::vector<Segment> next =
            is_raw() ? t.encode_more(parts, regions())
                     : t.encode_next_turn({"user", parts}, chat_template(), regions());
        next.insert(next.begin(), {.tokens = unread});
        return next;
    }

    std::unique_ptr<Generation::State> begin(std::vector<Segment> prompt,
                                             const AnswerOptions& options_of_answer);
};

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
    return Generation(parts_->begin(parts_->encode(parts), options));
}

Generation Conversation::ask(const std::string& question, const AnswerOptions& options) {
    return ask(std::vector<TextPart>{{question}}, options);
}

Generation Conversation::go_on_from(const std::vector<int32_t>& tokens,
                                    const AnswerOptions& options) {
    std::vector<Segment> prompt = {{.tokens = parts_->unread}, {.tokens = tokens}};
    return Generation(parts_->begin(std::move(prompt), options));
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

void Conversation::save(const std::string& path) const {
    require(parts_->running == nullptr, "a conversation is saved between two turns only");
    std::ostringstream out;
    out.exceptions(std::ios::badbit);  // no memory is said, not left out
    out.write(kMagic.data(), kMagic.size());
    const std::string name = parts_->template_name();
    put_all(out, std::vector<char>(name.begin(), name.end()));
    put(out, static_cast<uint8_t>(parts_->is_raw() ? 1 : 0));
    put_all(out, parts_->unread);
    parts_->session->sequence().save(out);
    write_whole_file(path, out.str());
}

void Conversation::load(const std::string& path) {
    require(parts_->running == nullptr, "a conversation is loaded between two turns only");
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "'"));
    try {
        if (take<std::array<char, 8>>(in) != kMagic) {
            throw Error(ErrorCode::kCorrupt, "it is no saved conversation, or another version's");
        }
        const std::vector<char> name = take_all<char>(in, kMostTemplate);
        const bool was_raw = take<uint8_t>(in) != 0;
        require(std::ranges::equal(name, parts_->template_name()) && was_raw == parts_->is_raw(),
                "it was held with another chat template; name the same one");
        std::vector<TokenId> unread = take_all<TokenId>(in, 1);
        for (const TokenId t : unread) {
            const bool is_known = t >= 0 && t < parts_->engine.config().n_vocab;
            if (!is_known) throw Error(ErrorCode::kCorrupt, "its last token does not exist");
        }
        parts_->session->sequence().load(in);
        parts_->unread = std::move(unread);
    } catch (const Error& e) {
        // Half a state is none: the sequence is as new then.
        if (parts_->session->position() == 0) parts_->unread.clear();
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
}

void Conversation::reset() {
    require(parts_->running == nullptr, "a conversation is reset between two turns only");
    parts_->session->reset();
    parts_->unread.clear();
}

bool Conversation::is_raw() const { return parts_->is_raw(); }

Session& Conversation::session() const { return *parts_->session; }

}  // namespace palimpsest
