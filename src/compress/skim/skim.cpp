#include "compress/skim/skim.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "compress/latent_regions.h"
#include "core/error.h"
#include "engine/generate.h"
#include "engine/runtime.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr size_t kChosenByWords = 3;

void add(std::vector<int64_t>& to, const std::vector<int64_t>& more) {
    to.insert(to.end(), more.begin(), more.end());
    std::ranges::sort(to);
    to.erase(std::unique(to.begin(), to.end()), to.end());
}

std::vector<int64_t> without(std::vector<int64_t> ids, const std::vector<int64_t>& known) {
    std::erase_if(ids, [&](int64_t id) { return std::ranges::binary_search(known, id); });
    return ids;
}

std::set<std::string> words_in(std::string_view text) {
    std::set<std::string> words;
    const std::string lower = lower_case(text);
    for (const std::string_view word : words_by_character(lower)) {
        words.insert(std::string(word));
    }
    return words;
}

}  // namespace

std::string_view to_string(SkimChooser chooser) {
    return chooser == SkimChooser::kModel ? "model" : "words";
}

SkimChooser skim_chooser_named(std::string_view name) {
    for (const SkimChooser chooser : {SkimChooser::kModel, SkimChooser::kWords}) {
        if (name == to_string(chooser)) return chooser;
    }
    throw Error(ErrorCode::kInvalidArgument, cat("nobody called '", name, "' chooses chunks"));
}

std::vector<int64_t> chunks_by_words(const std::vector<SkimChunk>& chunks,
                                     std::string_view question, size_t most) {
    std::vector<std::set<std::string>> words;
    std::map<std::string, double> n_with;
    for (const SkimChunk& c : chunks) {
        words.push_back(words_in(c.text));
        for (const std::string& w : words.back()) n_with[w] += 1;
    }
    std::vector<std::pair<double, int64_t>> scores;
    const std::set<std::string> asked = words_in(question);
    for (size_t i = 0; i < chunks.size(); ++i) {
        double score = 0;
        for (const std::string& w : asked) {
            if (!words[i].contains(w)) continue;
            score += std::log(1 + static_cast<double>(chunks.size()) / n_with[w]);
        }
        scores.emplace_back(-score, static_cast<int64_t>(i) + 1);
    }
    std::ranges::sort(scores);
    scores.resize(std::min(scores.size(), most));
    std::vector<int64_t> best;
    for (const auto& [score, id] : scores) best.push_back(id);
    return best;
}

// ---- what is said -------------------------------------------------------------------------------

/// The model's side of the rounds. Each call reads what is new and writes one answer.
class Skimmer::Talk {
 public:
    struct Said {
        std::string text;
        int64_t n_read = 0, n_written = 0;
        bool is_cancelled = false;
    };
    Talk() = default;
    virtual ~Talk() = default;
    Talk(const Talk&) = delete;
    Talk& operator=(const Talk&) = delete;

    /// `shown`: all chunks whose text the model is to have seen; `fresh`: those of them that are
    /// new. `remark` comes before what it may do.
    virtual Said next(const std::vector<int64_t>& shown, const std::vector<int64_t>& fresh,
                      const std::string& remark, int64_t rounds_left, bool is_last) = 0;
    [[nodiscard]] virtual size_t bytes_held() const = 0;
    [[nodiscard]] virtual int64_t position() const = 0;
};

/// One conversation: the document once, then turn after turn.
class Skimmer::ChatTalk final : public Talk {
 public:
    ChatTalk(const Skimmer& skimmer, std::string question, const OnProgress& on_progress)
        : s_(skimmer),
          question_(std::move(question)),
          on_progress_(on_progress),
          conversation_(s_.engine_, options()) {}

    Said next(const std::vector<int64_t>& shown, const std::vector<int64_t>& fresh,
              const std::string& remark, int64_t rounds_left, bool is_last) override {
        std::vector<TextPart> parts;
        const bool is_first = conversation_.position() == 0;
        if (is_first) parts = s_.document();
        std::string text = is_first ? "\n" : remark;
        if (!fresh.empty()) text += result_heading(fresh) + s_.original(fresh);
        if (is_first) text += question_text(question_);
        text += is_last ? last_call() : next_step(s_.texts(rounds_left));
        parts.push_back({std::move(text)});

        AnswerOptions answer = s_.options_.answer;
        if (s_.options_.is_constrained) {
            answer.sampling.grammar =
                action_grammar(is_last ? 0 : std::ssize(s_.chunks_), is_last || !shown.empty());
        }
        const int64_t before = conversation_.position();
        Generation writing = conversation_.ask(parts, answer);
        const GenerateResult r = writing.run(
            {}, [this](const Generation::Progress& p) { return !on_progress_ || on_progress_(p); });
        return {.text = r.text,
                .n_read = conversation_.position() - before,
                .n_written = r.n_generated,
                .is_cancelled = r.reason == StopReason::kCancelled};
    }

    [[nodiscard]] size_t bytes_held() const override {
        return conversation_.report().bytes.total();
    }
    [[nodiscard]] int64_t position() const override { return conversation_.position(); }

 private:
    [[nodiscard]] ConversationOptions options() const {
        ConversationOptions o = s_.options_.conversation;
        o.system = system_text(s_.texts(s_.options_.n_rounds));
        o.regions = s_.regions_;
        return o;
    }

    const Skimmer& s_;
    std::string question_;
    const OnProgress& on_progress_;
    Conversation conversation_;
};

/// A prompt of its own every round. What stands before the last chunk's latents, and they, are the
/// same in all: they are read once, and taken up again.
class Skimmer::RoundsTalk final : public Talk {
 public:
    RoundsTalk(const Skimmer& skimmer, std::string question, const OnProgress& on_progress)
        : s_(skimmer), question_(std::move(question)), on_progress_(on_progress) {
        const Runtime& engine = s_.engine_.runtime();
        const MemoryPlan plan = engine.plan(s_.options_.conversation.memory);
        session_ = engine.make_session(engine.make_memory(plan));
        const Tokenizer& t = engine.loaded().require_tokenizer();
        const std::string& choice = s_.options_.conversation.chat_template;
        if (!choice.empty()) chosen_ = t.chosen_template(choice);
    }

    Said next(const std::vector<int64_t>& shown, const std::vector<int64_t>& /*fresh*/,
              const std::string& /*remark*/, int64_t rounds_left, bool is_last) override {
        std::vector<TextPart> parts = s_.document();
        std::string text = "\n";
        if (!shown.empty()) text += expanded_heading() + s_.original(shown);
        text += cat(question_text(question_), instructions(s_.texts(rounds_left), !shown.empty()),
                    is_last ? last_call() : "");
        parts.push_back({std::move(text)});
        Said said = read(parts);
        if (!said.is_cancelled) write(said, is_last || !shown.empty(), !is_last);
        return said;
    }

    [[nodiscard]] size_t bytes_held() const override {
        return session_->memory().report().bytes.total();
    }
    [[nodiscard]] int64_t position() const override { return session_->position(); }

 private:
    [[nodiscard]] std::vector<Segment> encode(const std::vector<TextPart>& parts) const {
        const Tokenizer& t = s_.engine_.runtime().loaded().require_tokenizer();
        const bool has_template = chosen_ != nullptr || t.has_chat_template();
        if (s_.options_.conversation.is_raw || !has_template) {
            return t.encode_raw(parts, Tokenizer::Seams::kJoined, s_.regions_.get());
        }
        const std::vector<ChatMessage> messages = {{"user", parts}};
        return t.encode_chat(messages, chosen_ != nullptr ? *chosen_ : t.chat_template(),
                             Tokenizer::Seams::kJoined, s_.regions_.get());
    }

    Said read(const std::vector<TextPart>& parts) {
        std::vector<Segment> prompt = encode(parts);
        const auto last = std::find_if(prompt.rbegin(), prompt.rend(),
                                       [](const Segment& s) { return s.is_context; });
        check(last != prompt.rend(), "a skimmed document has regions");
        const auto rest = last.base();
        std::vector<Segment> question(std::make_move_iterator(rest),
                                      std::make_move_iterator(prompt.end()));
        prompt.erase(rest, prompt.end());
        Said said;
        if (document_.empty()) {
            if (!feed(std::move(prompt), said)) return said;
            std::ostringstream state;
            state.exceptions(std::ios::badbit);
            session_->sequence().save(state);
            document_ = std::move(state).str();
        } else {
            std::istringstream state(document_);
            session_->sequence().load(state);
        }
        feed(std::move(question), said);
        return said;
    }

    bool feed(std::vector<Segment> prompt, Said& said) {
        const int64_t before = session_->position();
        const auto told = [this](Generation::Activity activity) {
            return [this, activity](int64_t done, int64_t total) {
                return !on_progress_ || on_progress_({activity, done, total});
            };
        };
        said.is_cancelled = !session_->feed(
            std::move(prompt), {.on_progress = told(Generation::Activity::kReading),
                                .on_rehearsal = told(Generation::Activity::kRepeating)});
        said.n_read += session_->position() - before;
        return !said.is_cancelled;
    }

    void write(Said& said, bool may_answer, bool may_expand) {
        AnswerOptions answer = s_.options_.answer;
        if (s_.options_.is_constrained) {
            answer.sampling.grammar =
                action_grammar(may_expand ? std::ssize(s_.chunks_) : 0, may_answer);
        }
        for (const TokenId t : s_.regions_->never_written()) answer.sampling.never.push_back(t);
        const Tokenizer& t = s_.engine_.runtime().loaded().require_tokenizer();
        AnswerWriter writer(&t, t.n_vocab(), answer);
        while (writer.next(session_->sequence())) {
            session_->step();
            const Generation::Progress p = {Generation::Activity::kWriting,
                                            writer.result().n_generated, 0};
            if (!on_progress_ || on_progress_(p)) continue;
            said.is_cancelled = true;
            break;
        }
        said.text = writer.result().text;
        said.n_written = writer.result().n_generated;
    }

    const Skimmer& s_;
    std::string question_;
    const OnProgress& on_progress_;
    std::unique_ptr<Session> session_;
    std::unique_ptr<const ChatTemplate> chosen_;
    std::string document_;  // the session's state once it has read the document
};

// ---- the agent ----------------------------------------------------------------------------------

Skimmer::Skimmer(const Engine& engine, const LatentContext& latent,
                 std::vector<SkimDocument> documents, SkimOptions options)
    : engine_(engine),
      latent_(latent),
      documents_(std::move(documents)),
      options_(std::move(options)),
      regions_(latent.latent_regions(false)) {
    require(options_.n_rounds >= 1, "at most ", options_.n_rounds, " rounds");
    const Tokenizer& t = engine_.runtime().loaded().require_tokenizer();
    const auto count = [&t](std::string_view text) { return std::ssize(t.encode(text)); };
    chunks_ = cut_into_chunks(documents_, options_.rule, options_.chunk_tokens, count);
    require(!chunks_.empty(), "there is nothing to skim: the documents are empty");
    const LatentEncoder& encoder = regions_->encoder();
    for (const SkimChunk& c : chunks_) {
        const int64_t n = std::ssize(encoder.model().require_tokenizer().encode(strip(c.text)));
        n_source_ += count(c.text);
        n_encoded_ += n;
        n_latents_ += count_latents(encoder.form(), n);
    }
}

Skimmer::~Skimmer() = default;

const std::string& Skimmer::expand(int64_t chunk) const {
    require(chunk >= 1 && chunk <= std::ssize(chunks_), "there is no chunk ", chunk,
            "; they are numbered from 1 to ", chunks_.size());
    return chunks_[static_cast<size_t>(chunk) - 1].text;
}

std::string Skimmer::citation(int64_t chunk) const {
    static_cast<void>(expand(chunk));
    return palimpsest::citation(documents_, chunks_[static_cast<size_t>(chunk) - 1]);
}

SkimTexts Skimmer::texts(int64_t rounds_left) const {
    return {.ratio = latent_.ratio(), .n_chunks = std::ssize(chunks_), .rounds_left = rounds_left};
}

std::vector<TextPart> Skimmer::document() const {
    std::vector<std::string> chunks;
    for (const SkimChunk& c : chunks_) chunks.push_back(c.text);
    return document_parts(chunks, texts(0), options_.prefix);
}

std::string Skimmer::original(const std::vector<int64_t>& chunks) const {
    std::vector<std::string> all;
    for (const int64_t id : chunks) all.push_back(expand(id));
    return original_text(all);
}

std::unique_ptr<Skimmer::Talk> Skimmer::begin(const std::string& question,
                                              const OnProgress& on_progress) const {
    if (options_.form == SkimForm::kChat) {
        return std::make_unique<ChatTalk>(*this, question, on_progress);
    }
    return std::make_unique<RoundsTalk>(*this, question, on_progress);
}

void Skimmer::finish(const Talk& talk, SkimResult& r) const {
    r.n_latents = n_latents_;
    r.n_source = n_source_;
    for (const SkimRound& round : r.rounds) r.positions_read += round.positions_read;
    const auto prompt = static_cast<double>(talk.position());
    const double whole = prompt - static_cast<double>(n_latents_) + static_cast<double>(n_encoded_);
    r.saved = whole > 0 ? 1 - prompt / whole : 0;
    r.bytes_held = talk.bytes_held();
}

SkimResult Skimmer::ask(const std::string& question, const OnProgress& on_progress) {
    require(!strip(question).empty(), "there is no question");
    const std::unique_ptr<Talk> talk = begin(question, on_progress);
    SkimResult r;
    std::vector<int64_t> fresh;
    std::string remark;
    if (options_.chooser == SkimChooser::kWords) {
        fresh = chunks_by_words(chunks_, question, kChosenByWords);
        add(r.expanded, fresh);
        r.rounds.push_back({.expanded = r.expanded});
    }
    const auto say = [&](int64_t left, bool is_last) {
        std::ranges::sort(fresh);
        const Talk::Said said = talk->next(r.expanded, fresh, remark, left, is_last);
        r.rounds.push_back({.positions_read = said.n_read,
                            .tokens_written = said.n_written,
                            .written = said.text});
        r.is_cancelled = said.is_cancelled;
        fresh.clear();
        remark.clear();
        return parse_action(said.text, std::ssize(chunks_));
    };
    const auto answered = [&](const SkimAction& a) {
        r.answer = a.answer;
        r.is_directive = a.is_directive;
        finish(*talk, r);
        return r;
    };
    const bool asks = options_.chooser == SkimChooser::kModel;
    for (int64_t round = 0; asks && round < options_.n_rounds; ++round) {
        const int64_t left = options_.n_rounds - 1 - round;
        const SkimAction action = say(left, false);
        if (r.is_cancelled) return answered({});
        SkimRound& last = r.rounds.back();
        if (action.is_answer && !r.expanded.empty()) return answered(action);
        if (action.is_answer) {
            last.is_forced = true;
            remark = refusal();
            fresh = chunks_named_in(last.written, std::ssize(chunks_));
        } else {
            fresh = without(action.chunks, r.expanded);
            // What the last round asks for is not served.
            if (fresh.empty() || left == 0) {
                fresh.clear();
                break;
            }
        }
        last.expanded = fresh;
        add(r.expanded, fresh);
    }
    SkimAction action = say(0, true);
    if (!r.is_cancelled && !action.is_answer) {
        action = {.is_answer = true, .answer = std::string(strip(r.rounds.back().written))};
    }
    return answered(action);
}

}  // namespace palimpsest
