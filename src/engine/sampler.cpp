#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <limits>
#include <string_view>

#include "core/error.h"
#include "engine/grammar.h"

namespace palimpsest {

namespace {

void check_options(const SamplingOptions& o) {
    const auto in_range = [](float x, float least, float most) {
        return std::isfinite(x) && x >= least && x <= most;
    };
    require(in_range(o.temperature, 0, 100), "temperature ", o.temperature,
            "; it must be 0 (always the likeliest token) to 100");
    require(o.top_k >= 0, "top-k ", o.top_k, "; it must be 0 (no limit) or more");
    require(in_range(o.top_p, 0, 1) && o.top_p > 0, "top-p ", o.top_p,
            "; it must be above 0 and at most 1");
    require(in_range(o.min_p, 0, 1) && o.min_p < 1, "min-p ", o.min_p,
            "; it must be 0 or more and below 1");
    require(in_range(o.repeat_penalty, 0, 100) && o.repeat_penalty > 0, "repeat penalty ",
            o.repeat_penalty, "; it must be above 0 (1: none)");
    require(in_range(o.frequency_penalty, -100, 100), "frequency penalty ", o.frequency_penalty,
            "; it must be -100 to 100");
    require(in_range(o.presence_penalty, -100, 100), "presence penalty ", o.presence_penalty,
            "; it must be -100 to 100");
    for (const LogitBias& b : o.bias) {
        require(in_range(b.bias, -1000, 1000), "a logit bias of ", b.bias,
                "; it must be -1000 to 1000");
    }
    require(o.penalty_last_n >= 0, "penalties over ", o.penalty_last_n, " tokens");
}

bool has_penalties(const SamplingOptions& o) {
    return o.penalty_last_n > 0 &&
           (o.repeat_penalty != 1.0F || o.frequency_penalty != 0.0F || o.presence_penalty != 0.0F);
}

std::string quoted(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (std::string_view("\\^$.|?*+()[]{}/-").find(c) != std::string_view::npos) out += '\\';
        out += c;
    }
    return out;
}

/// libllama lets the grammar begin where the first group of a pattern does. It looks for patterns
/// in the whole text, token after token: words are looked for by Sampler itself.
std::string pattern_of(const GrammarTrigger& trigger) {
    switch (trigger.kind) {
        case GrammarTrigger::Kind::kWord:
            break;
        case GrammarTrigger::Kind::kPattern:
            return cat("^[\\s\\S]*?(", trigger.value, ")[\\s\\S]*");
        case GrammarTrigger::Kind::kWholePattern:
            return trigger.value;
    }
    return cat("[\\s\\S]*?(", quoted(trigger.value), "[\\s\\S]*)");
}

llama_sampler* make_lazy_grammar(const SamplingOptions& o, const llama_vocab* vocab) {
    std::vector<std::string> patterns;
    for (const GrammarTrigger& t : o.triggers) patterns.push_back(pattern_of(t));
    std::vector<const char*> texts;
    for (const std::string& p : patterns) texts.push_back(p.c_str());
    return llama_sampler_init_grammar_lazy_patterns(vocab, o.grammar.c_str(), "root", texts.data(),
                                                    texts.size(), nullptr, 0);
}

bool waits_for_words(const SamplingOptions& o) {
    return !o.triggers.empty() && std::ranges::all_of(o.triggers, [](const GrammarTrigger& t) {
        return t.kind == GrammarTrigger::Kind::kWord;
    });
}

llama_sampler* make_grammar(const SamplingOptions& o, const llama_vocab* vocab) {
    require(vocab != nullptr, "a grammar needs a model with a vocabulary");
    check_grammar(o.grammar);
    llama_sampler* grammar = nullptr;
    try {
        grammar = o.triggers.empty() ? llama_sampler_init_grammar(vocab, o.grammar.c_str(), "root")
                                     : make_lazy_grammar(o, vocab);
    } catch (const std::exception&) {
        grammar = nullptr;  // said below
    }
    require(grammar != nullptr, "the grammar is not valid GBNF, or has no rule called 'root'");
    return grammar;
}

/// Under a grammar, no token of more bytes is picked: libllama follows each of them by recursion.
constexpr size_t kMostBytesByGrammar = 1024;

/// Tokens that only fill the vocabulary up: so converters call ids that a tokenizer does not have,
/// where the token table has rows for them. With a grammar, those that are too long for it, too.
std::vector<TokenId> never_picked(const llama_vocab* vocab, const SamplingOptions& o) {
    const bool by_grammar = !o.grammar.empty();
    std::vector<TokenId> ids = o.never;
    const int32_t n = vocab == nullptr ? 0 : llama_vocab_n_tokens(vocab);
    for (TokenId t = 0; t < n; ++t) {
        const std::string_view text = llama_vocab_get_text(vocab, t);
        const bool is_unused = (llama_vocab_get_attr(vocab, t) & LLAMA_TOKEN_ATTR_UNUSED) != 0;
        const bool is_filling = is_unused && text.starts_with("[PAD");
        if (is_filling || (by_grammar && text.size() > kMostBytesByGrammar)) ids.push_back(t);
    }
    std::ranges::sort(ids);
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

constexpr size_t kBlock = 1024;  // logits

/// As many comparisons at once as there is room for; one after another they take longer than some
/// layers do.
float greatest_of(std::span<const float> logits) {
    std::array<float, 16> lanes{};
    lanes.fill(-std::numeric_limits<float>::infinity());
    size_t i = 0;
    for (; i + lanes.size() <= logits.size(); i += lanes.size()) {
        for (size_t k = 0; k < lanes.size(); ++k) {
            lanes[k] = logits[i + k] > lanes[k] ? logits[i + k] : lanes[k];
        }
    }
    float greatest = *std::ranges::max_element(lanes);
    for (; i < logits.size(); ++i) greatest = std::max(greatest, logits[i]);
    return greatest;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& o, int64_t n_vocab, const llama_vocab* vocab)
    : is_argmax_(o.temperature == 0.0F && !has_penalties(o) && o.grammar.empty() && o.bias.empty()),
      never_(never_picked(vocab, o)),
      n_known_(static_cast<size_t>(vocab == nullptr ? n_vocab : llama_vocab_n_tokens(vocab))) {
    check_options(o);
    if (!is_argmax_) set_up(o, n_vocab, vocab);
}

void Sampler::set_up(const SamplingOptions& o, int64_t n_vocab, const llama_vocab* vocab) {
    if (!o.grammar.empty()) grammar_.reset(make_grammar(o, vocab));
    if (grammar_ && !o.triggers.empty()) waiting_ = Waiting{.options = o, .vocab = vocab};
    if (waiting_ && waits_for_words(o)) grammar_.reset();
    chain_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler* s) { llama_sampler_chain_add(chain_.get(), s); };
    if (!o.bias.empty()) {
        std::vector<llama_logit_bias> all;
        for (const LogitBias& b : o.bias) all.push_back({b.token, b.bias});
        add(llama_sampler_init_logit_bias(static_cast<int32_t>(n_vocab),
                                          static_cast<int32_t>(all.size()), all.data()));
    }
    if (has_penalties(o)) {
        add(llama_sampler_init_penalties(static_cast<int32_t>(n_vocab), o.penalty_last_n,
                                         o.repeat_penalty, o.frequency_penalty,
                                         o.presence_penalty));
    }
    if (o.temperature == 0.0F) {
        add(llama_sampler_init_greedy());
        return;
    }
    if (o.top_k > 0) add(llama_sampler_init_top_k(o.top_k));
    if (o.top_p < 1) add(llama_sampler_init_top_p(o.top_p, 1));
    if (o.min_p > 0) add(llama_sampler_init_min_p(o.min_p, 1));
    add(llama_sampler_init_temp(o.temperature));
    // libllama takes its default seed for a wish for a random one.
    add(llama_sampler_init_dist(o.seed == LLAMA_DEFAULT_SEED ? 0 : o.seed));
}

TokenId Sampler::likeliest(std::span<const float> logits) const {
    std::optional<size_t> best;  // where a block begins that has the greatest
    float greatest = 0;
    size_t size = 0;
    const auto look_at = [&](size_t begin, size_t end) {
        for (; begin < end; begin += kBlock) {
            const size_t n = std::min(kBlock, end - begin);
            const float of_block = greatest_of(logits.subspan(begin, n));
            if (best && !(of_block > greatest)) continue;
            best = begin;
            greatest = of_block;
            size = n;
        }
    };
    size_t begin = 0;
    for (const TokenId never : never_) {
        const size_t end = std::min(static_cast<size_t>(never), logits.size());
        look_at(begin, end);
        begin = end + 1;
    }
    look_at(begin, logits.size());
    check(best.has_value(), "a vocabulary of no token that may be picked");
    const std::span<const float> block = logits.subspan(*best, size);
    return static_cast<TokenId>(
        *best + static_cast<size_t>(std::ranges::find(block, greatest) - block.begin()));
}

void Sampler::fill_candidates(std::span<const float> logits) {
    candidates_.clear();
    candidates_.reserve(logits.size());
    auto never = never_.begin();
    for (size_t i = 0; i < logits.size(); ++i) {
        const auto id = static_cast<TokenId>(i);
        if (never != never_.end() && *never == id) {
            ++never;
            continue;
        }
        candidates_.push_back({.id = id, .logit = logits[i], .p = 0.0F});
    }
}

/// Where a grammar allows no token, libllama would take one of those it forbids, and may abort on
/// it: nothing after it sees them.
void Sampler::drop_forbidden() {
    llama_token_data_array array = {candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(grammar_.get(), &array);
    std::erase_if(candidates_, [](const llama_token_data& c) {
        return c.logit == -std::numeric_limits<float>::infinity();
    });
    require(!candidates_.empty(), "the grammar allows no token after this text: nothing that it ",
            "may go on with is in the vocabulary, or there is nothing");
}

/// A grammar that holds from a word on begins once that is there: with the tokens that it lies in.
void Sampler::look_for_trigger(TokenId token) {
    constexpr size_t kMostPatternBytes = 16384;  // libllama looks at all of it for every token
    Waiting& w = *waiting_;
    std::string bytes(64, '\0');
    int32_t n = llama_token_to_piece(w.vocab, token, bytes.data(), 64, 0, true);
    if (n < 0) {
        bytes.resize(static_cast<size_t>(-n));
        n = llama_token_to_piece(w.vocab, token, bytes.data(), -n, 0, true);
    }
    bytes.resize(static_cast<size_t>(std::max(n, 0)));
    w.n_bytes += bytes.size();
    if (grammar_) {  // patterns
        if (w.n_bytes > kMostPatternBytes) grammar_.reset();
        if (!grammar_) waiting_.reset();
        return;
    }
    w.tail.emplace_back(token, std::move(bytes));
    size_t longest = 0;
    for (const GrammarTrigger& t : w.options.triggers) longest = std::max(longest, t.value.size());
    std::string text;
    for (const auto& [id, piece] : w.tail) text += piece;
    for (const GrammarTrigger& t : w.options.triggers) {
        const size_t at = text.find(t.value);
        if (at == std::string::npos) continue;
        grammar_.reset(make_lazy_grammar(w.options, w.vocab));
        size_t end = 0;
        for (const auto& [id, piece] : w.tail) {
            end += piece.size();
            if (end > at) llama_sampler_accept(grammar_.get(), id);
        }
        waiting_.reset();
        return;
    }
    while (w.tail.size() > 1 && text.size() - w.tail.front().second.size() >= longest) {
        text.erase(0, w.tail.front().second.size());
        w.tail.pop_front();
    }
}

void Sampler::accept(TokenId token) {
    try {
        if (grammar_) llama_sampler_accept(grammar_.get(), token);
        if (waiting_) look_for_trigger(token);
        llama_sampler_accept(chain_.get(), token);
    } catch (const std::exception& e) {
        throw Error(ErrorCode::kInvalidArgument,
                    cat("the grammar allows no token after this text: ", e.what()));
    }
}

TokenId Sampler::pick(std::span<const float> logits) {
    logits = logits.first(std::min(logits.size(), n_known_));
    check(!logits.empty(), "no logits to pick from");
    if (is_argmax_) return likeliest(logits);
    fill_candidates(logits);
    check(!candidates_.empty(), "a vocabulary of no token that may be picked");
    if (grammar_) drop_forbidden();
    llama_token_data_array array = {candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(chain_.get(), &array);
    check(array.selected >= 0 && array.selected < static_cast<int64_t>(array.size),
          "the sampler picked nothing");
    const TokenId token = array.data[array.selected].id;
    accept(token);
    return token;
}

}  // namespace palimpsest
