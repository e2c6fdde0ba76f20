#include "train/latent_context/latent_samples.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "compress/skim/protocol.h"
#include "core/error.h"
#include "text/utf8.h"
#include "train/material/material_facts.h"
#include "train/training_texts.h"

namespace palimpsest {

namespace {

constexpr size_t kShortestText = 400;
constexpr size_t kHeldOutEvery = 20;
constexpr size_t kBytesAToken = 8;  // more than tokens have, mostly

constexpr const char* kDocument = "x\n\n";  // in whose place a source stands

ChatMessage asked(const std::string& question) { return {"user", {{kDocument, true}, {question}}}; }

/// The document stands where this returns a segment of rows; nothing computes with it.
class Place final : public Regions {
 public:
    [[nodiscard]] std::vector<Segment> region(std::string_view /*document*/) const override {
        Segment place;
        place.rows = {0.0F};
        return {place};
    }
    [[nodiscard]] std::vector<TokenId> never_written() const override { return {}; }
};

constexpr auto kRepeatVerbs = std::to_array<std::string_view>(
    {"Repeat", "Copy", "Write out", "Restate, word for word,", "Give back", "Reproduce", "Recite",
     "Type again", "Echo", "Transcribe"});
constexpr auto kRepeatObjects = std::to_array<std::string_view>(
    {"the text above", "what stands above", "the document", "the passage", "the given text",
     "everything that was given", "the text exactly as it is", "the whole passage"});

std::string repeat_question(Random& random) {
    const auto pick = [&random](const auto& from) {
        return from.at(static_cast<size_t>(random.below(std::ssize(from))));
    };
    return cat(pick(kRepeatVerbs), " ", pick(kRepeatObjects), random.below(2) == 0 ? "." : ":");
}

size_t character_start(const std::string& text, size_t at) {
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) ++at;
    return at;
}

}  // namespace

LatentTexts read_latent_texts(std::span<const std::string> paths) {
    std::vector<std::string> all = read_training_texts(paths, kShortestText);
    LatentTexts texts;
    for (size_t i = 0; i < all.size(); ++i) {
        (i % kHeldOutEvery == 0 ? texts.held_out : texts.learnt).push_back(std::move(all[i]));
    }
    require(!texts.learnt.empty(), "there are ", all.size(), " documents of ", kShortestText,
            " bytes or more; at least two are needed, one to hold out");
    return texts;
}

int64_t LatentSample::n_source() const {
    int64_t n = 0;
    for (const Part& p : prompt) n += p.is_source ? std::ssize(p.tokens) : 0;
    return n;
}

LatentSamples::LatentSamples(const Tokenizer& tokenizer, const std::vector<std::string>& texts)
    : tokenizer_(tokenizer), texts_(texts) {
    require(!texts.empty(), "there are no texts to learn latents from");
    for (const std::string& text : texts) {
        ends_.push_back(std::ssize(text) + (ends_.empty() ? 0 : ends_.back()));
    }
}

std::vector<TokenId> LatentSamples::stretch(int64_t n, Random& random) const {
    std::vector<TokenId> tokens;
    while (std::ssize(tokens) < n) {
        // Any place of all texts, a long one the more often.
        const int64_t place = random.below(ends_.back());
        const auto found = std::ranges::upper_bound(ends_, place) - ends_.begin();
        const std::string& text = texts_[static_cast<size_t>(found)];
        const size_t wanted = static_cast<size_t>(n) * kBytesAToken;
        const int64_t within = place - (ends_[static_cast<size_t>(found)] - std::ssize(text));
        const int64_t latest = std::ssize(text) - static_cast<int64_t>(wanted) / 2;
        const size_t begin = character_start(text, static_cast<size_t>(std::clamp<int64_t>(
                                                       within, 0, std::max<int64_t>(0, latest))));
        const size_t end = character_start(text, std::min(text.size(), begin + wanted));
        const auto more = tokenizer_.encode(
            tokenizer_.replace_inexpressible(std::string_view(text).substr(begin, end - begin)));
        tokens.insert(tokens.end(), more.begin(), more.end());
    }
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

LatentSample LatentSamples::in_chat(std::vector<ChatMessage> messages,
                                    std::vector<std::vector<TokenId>> sources) const {
    const Place place;
    std::vector<Segment> prompt;
    if (tokenizer_.has_chat_template()) {
        prompt = tokenizer_.encode_chat(messages, tokenizer_.chat_template(),
                                        Tokenizer::Seams::kJoined, &place);
    } else {
        std::vector<TextPart> parts;
        for (ChatMessage& m : messages) {
            std::ranges::move(m.parts, std::back_inserter(parts));
            parts.push_back({"\n"});
        }
        prompt = tokenizer_.encode_raw(parts, Tokenizer::Seams::kJoined, &place);
    }
    LatentSample sample;
    size_t n_placed = 0;
    for (Segment& s : prompt) {
        const bool is_source = s.has_rows();
        sample.prompt.push_back(
            {is_source ? std::move(sources.at(n_placed)) : std::move(s.tokens), is_source});
        if (is_source) ++n_placed;
    }
    check(n_placed == sources.size(), "every source has its place in the prompt");
    return sample;
}

/// As it stands in a text.
std::vector<TokenId> LatentSamples::tokens_of(const Fact& f) const {
    return tokenizer_.encode(f.is_line ? cat("\n", f.statement, "\n") : cat(" ", f.statement));
}

LatentSample LatentSamples::fact(int64_t n_source, Random& random) const {
    constexpr int64_t kMostFacts = 3;
    const int64_t n_facts = 1 + random.below(kMostFacts);
    std::vector<Fact> facts;
    std::vector<std::vector<TokenId>> told;
    size_t n_told = 0;
    for (int64_t i = 0; i < n_facts; ++i) {
        Fact f = make_fact(random.below(n_fact_kinds()), random);
        auto tokens = tokens_of(f);
        if (n_told + tokens.size() > static_cast<size_t>(n_source) / 2 && !facts.empty()) break;
        n_told += tokens.size();
        told.push_back(std::move(tokens));
        facts.push_back(std::move(f));
    }
    const auto n_filler = std::max<int64_t>(0, n_source - static_cast<int64_t>(n_told));
    const std::vector<TokenId> filler =
        n_filler > 0 ? stretch(n_filler, random) : std::vector<TokenId>();
    std::vector<int64_t> places;
    for (size_t i = 0; i < told.size(); ++i) places.push_back(random.below(n_filler + 1));
    std::ranges::sort(places);
    const Fact& wanted = facts[static_cast<size_t>(random.below(std::ssize(facts)))];
    std::vector<TokenId> source;
    int64_t at = 0;
    for (size_t i = 0; i < told.size(); ++i) {
        source.insert(source.end(), filler.begin() + at, filler.begin() + places[i]);
        at = places[i];
        source.insert(source.end(), told[i].begin(), told[i].end());
    }
    source.insert(source.end(), filler.begin() + at, filler.end());
    source.resize(static_cast<size_t>(n_source));
    LatentSample sample = in_chat({asked(wanted.question)}, {std::move(source)});
    sample.target = tokenizer_.encode(wanted.answer);
    return sample;
}

LatentSample LatentSamples::repeat(int64_t n_source, Random& random) const {
    const std::string question = repeat_question(random);
    std::vector<TokenId> source = stretch(n_source, random);
    std::vector<TokenId> target = source;
    LatentSample sample = in_chat({asked(question)}, {std::move(source)});
    sample.target = std::move(target);
    return sample;
}

LatentSample LatentSamples::go_on(int64_t n_source, int64_t n_target, Random& random) const {
    const std::vector<TokenId> all = stretch(n_source + n_target, random);
    LatentSample sample;
    sample.prompt.push_back({tokenizer_.beginning()});
    sample.prompt.push_back({{all.begin(), all.begin() + n_source}, true});
    sample.target.assign(all.begin() + n_source, all.end());
    return sample;
}

/// As Skimmer's chat has it: the first turn, or the one behind the chunk that was asked for.
LatentSample LatentSamples::expand(const LatentSizes& sizes, Random& random) const {
    constexpr int64_t kRounds = 5;
    const Fact told = make_fact(random.below(n_fact_kinds()), random);
    const std::vector<TokenId> statement = tokens_of(told);
    const auto n_window = static_cast<size_t>(sizes.n_window);
    const auto chosen = static_cast<size_t>(random.below(sizes.n_windows));
    std::vector<std::vector<TokenId>> sources;
    std::vector<std::string> texts;
    for (int64_t i = 0; i < sizes.n_windows; ++i) {
        std::vector<TokenId> chunk = stretch(sizes.n_window, random);
        if (sources.size() == chosen) {
            const auto room = sizes.n_window - std::min(sizes.n_window, std::ssize(statement));
            chunk.insert(chunk.begin() + random.below(room + 1), statement.begin(),
                         statement.end());
            chunk.resize(n_window);
        }
        texts.push_back(replace_invalid_utf8(tokenizer_.decode(chunk)));
        sources.push_back(std::move(chunk));
    }
    SkimTexts says = {.ratio = sizes.ratio, .n_chunks = sizes.n_windows, .rounds_left = kRounds};
    // What stands there is not read: sources take its place.
    const std::vector<std::string> places(texts.size(), kDocument);
    std::vector<ChatMessage> messages = {{"system", {{system_text(says)}}},
                                         {"user", document_parts(places, says)}};
    says.rounds_left = kRounds - 1;
    messages.back().parts.push_back({cat("\n", question_text(told.question), next_step(says))});
    const auto id = static_cast<int64_t>(chosen) + 1;
    std::string said = cat("EXPAND: ", id);
    if (random.below(2) == 0) {
        messages.push_back({"assistant", {{said}}});
        says.rounds_left -= 1;
        messages.push_back(
            {"user",
             {{cat(result_heading({id}), original_text({texts[chosen]}), next_step(says))}}});
        said = cat("ANSWER: ", told.value);
    }
    LatentSample sample = in_chat(std::move(messages), std::move(sources));
    sample.target = tokenizer_.encode(said);
    return sample;
}

LatentSample LatentSamples::make(LatentTask task, const LatentSizes& sizes, Random& random) const {
    const int64_t n_source = sizes.n_window * sizes.n_windows;
    LatentSample sample;
    switch (task) {
        case LatentTask::kRepeat:
            sample = repeat(n_source, random);
            break;
        case LatentTask::kContinue:
            sample = go_on(n_source, sizes.n_target, random);
            break;
        case LatentTask::kFact:
            sample = fact(n_source, random);
            break;
        case LatentTask::kExpand:
            sample = expand(sizes, random);
            break;
    }
    if (std::ssize(sample.target) > sizes.n_target) {
        sample.target.resize(static_cast<size_t>(sizes.n_target));
    } else if (task != LatentTask::kContinue) {
        // What ends an answer is part of it.
        const TokenId end = tokenizer_.end_of_turn();
        if (end >= 0) sample.target.push_back(end);
    }
    return sample;
}

}  // namespace palimpsest
