#include "train/latent_context/latent_samples.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"
#include "text/input_files.h"
#include "train/material/material_facts.h"

namespace palimpsest {

namespace {

constexpr size_t kShortestText = 400;
constexpr size_t kHeldOutEvery = 20;
constexpr size_t kBytesAToken = 8;  // more than tokens have, mostly

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

void read_texts(const std::string& path, std::vector<std::string>& to) {
    const auto add = [&to](std::string text) {
        if (text.size() >= kShortestText) to.push_back(std::move(text));
    };
    if (!path.ends_with(".jsonl")) return add(read_text_file(path));
    for (const JsonLine& line : read_json_lines(path, std::numeric_limits<int64_t>::max())) {
        add(text_field(line.value, "text", line.where));
    }
}

size_t character_start(const std::string& text, size_t at) {
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) ++at;
    return at;
}

}  // namespace

LatentTexts read_latent_texts(std::span<const std::string> paths) {
    std::vector<std::string> all;
    for (const std::string& path : paths) read_texts(path, all);
    LatentTexts texts;
    for (size_t i = 0; i < all.size(); ++i) {
        (i % kHeldOutEvery == 0 ? texts.held_out : texts.learnt).push_back(std::move(all[i]));
    }
    require(!texts.learnt.empty(), "there are ", all.size(), " documents of ", kShortestText,
            " bytes or more; at least two are needed, one to hold out");
    return texts;
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

LatentSample LatentSamples::in_chat(const std::string& question) const {
    const Place place;
    const std::vector<TextPart> parts = {{"x\n\n", true}, {question}};
    std::vector<Segment> prompt;
    if (tokenizer_.has_chat_template()) {
        const std::vector<ChatMessage> messages = {{"user", parts}};
        prompt = tokenizer_.encode_chat(messages, tokenizer_.chat_template(),
                                        Tokenizer::Seams::kJoined, &place);
    } else {
        prompt = tokenizer_.encode_raw(parts, Tokenizer::Seams::kJoined, &place);
    }
    LatentSample sample;
    bool is_behind = false;
    for (const Segment& s : prompt) {
        is_behind = is_behind || s.has_rows();
        auto& to = is_behind ? sample.after : sample.before;
        to.insert(to.end(), s.tokens.begin(), s.tokens.end());
    }
    return sample;
}

LatentSample LatentSamples::fact(int64_t n_source, Random& random) const {
    constexpr int64_t kMostFacts = 3;
    const int64_t n_facts = 1 + random.below(kMostFacts);
    std::vector<Fact> facts;
    std::vector<TokenId> statements;
    std::vector<std::vector<TokenId>> told;
    size_t n_told = 0;
    for (int64_t i = 0; i < n_facts; ++i) {
        Fact f = make_fact(random.below(n_fact_kinds()), random);
        auto tokens =
            tokenizer_.encode(f.is_line ? cat("\n", f.statement, "\n") : cat(" ", f.statement));
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
    const Fact& asked = facts[static_cast<size_t>(random.below(std::ssize(facts)))];
    LatentSample sample = in_chat(asked.question);
    int64_t at = 0;
    for (size_t i = 0; i < told.size(); ++i) {
        sample.source.insert(sample.source.end(), filler.begin() + at, filler.begin() + places[i]);
        at = places[i];
        sample.source.insert(sample.source.end(), told[i].begin(), told[i].end());
    }
    sample.source.insert(sample.source.end(), filler.begin() + at, filler.end());
    sample.source.resize(static_cast<size_t>(n_source));
    sample.target = tokenizer_.encode(asked.answer);
    return sample;
}

LatentSample LatentSamples::make(LatentTask task, int64_t n_source, int64_t n_target,
                                 Random& random) const {
    LatentSample sample;
    if (task == LatentTask::kFact) {
        sample = fact(n_source, random);
    } else if (task == LatentTask::kRepeat) {
        sample = in_chat(repeat_question(random));
        sample.source = stretch(n_source, random);
        sample.target = sample.source;
    } else {
        const std::vector<TokenId> all = stretch(n_source + n_target, random);
        sample.before = tokenizer_.beginning();
        sample.source.assign(all.begin(), all.begin() + n_source);
        sample.target.assign(all.begin() + n_source, all.end());
    }
    if (std::ssize(sample.target) > n_target) {
        sample.target.resize(static_cast<size_t>(n_target));
    } else if (task != LatentTask::kContinue) {
        // What ends an answer is part of it.
        const TokenId end = tokenizer_.end_of_turn();
        if (end >= 0) sample.target.push_back(end);
    }
    return sample;
}

}  // namespace palimpsest
