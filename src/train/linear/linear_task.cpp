#include "train/linear/linear_task.h"

#include <algorithm>
#include <array>
#include <functional>
#include <unordered_set>

#include "core/error.h"
#include "core/text_hash.h"
#include "memory/option_reader.h"
#include "train/training_texts.h"

namespace palimpsest {

namespace {

constexpr size_t kTellingLine = 16;  // bytes; shorter lines stand in any text

constexpr std::array<LinearTaskKind, 3> kKinds = {{
    {"recall", "pairs of keys and values, then keys whose values are asked for (MQAR)",
     make_recall_task},
    {"needles", "codes hidden in documentation, asked for at its end", make_needle_task},
    {"text", "what comes next in documentation", make_text_task},
}};

/// Calls with every line, its end included.
void for_lines(const std::string& text, const std::function<void(std::string_view)>& call) {
    const std::string_view all = text;
    for (size_t at = 0; at < all.size();) {
        const size_t end = all.find('\n', at);
        const size_t n = end == std::string_view::npos ? all.size() - at : end + 1 - at;
        call(all.substr(at, n));
        at += n;
    }
}

}  // namespace

LinearBatch::LinearBatch(int64_t n, int64_t of) : n_sequences(n), length(of) {
    const auto size = static_cast<size_t>(n * of);
    tokens.assign(size, 0);
    targets.assign(size, -1);
    weights.assign(size, 0.0F);
    sets.assign(size, 0);
    opens.assign(size, 0);
}

void LinearBatch::set_target(size_t place, int64_t token, uint64_t in_sets, float weight) {
    targets[place] = token;
    sets[place] = in_sets;
    weights[place] = weight;
}

std::span<const LinearTaskKind> linear_task_kinds() { return kKinds; }

std::unique_ptr<LinearTask> make_linear_task(const LinearTaskOptions& options,
                                             const Tokenizer* tokenizer) {
    std::vector<std::string_view> names;
    for (const LinearTaskKind& kind : kKinds) {
        if (kind.name == options.name) return kind.make(options, tokenizer);
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("task", options.name, names));
}

uint64_t fingerprint(const LinearTaskOptions& o) {
    std::string settings = cat(o.name, " ", o.length, " ", o.n_vocab, " ", o.needle_share);
    for (const int64_t n : o.pairs) settings += cat(" ", n);
    return text_hash(settings);
}

LinearTexts::LinearTexts(const LinearTaskOptions& options, const Tokenizer* tokenizer,
                         int64_t length)
    : tokenizer_(tokenizer) {
    require(!options.documents.empty() && !options.held_out.empty(), "the task '", options.name,
            "' needs texts to learn from (--documents) and texts to be examined in (--held-out)");
    const auto append = [this](std::vector<int64_t>& to, const std::string& text) {
        const std::vector<int64_t> tokens = tokens_of(text);
        to.insert(to.end(), tokens.begin(), tokens.end());
    };
    std::unordered_set<size_t> seen;  // hashes of lines
    for (const std::string& text : read_training_texts(options.documents, 1)) {
        for_lines(text,
                  [&](std::string_view line) { seen.insert(std::hash<std::string_view>()(line)); });
        append(learnt_, text);
    }
    for (const std::string& text : read_training_texts(options.held_out, 1)) {
        std::string kept;
        for_lines(text, [&](std::string_view line) {
            const bool is_known =
                line.size() >= kTellingLine && seen.contains(std::hash<std::string_view>()(line));
            if (!is_known) kept += line;
        });
        append(held_out_, kept);
    }
    for (const auto* part : {&learnt_, &held_out_}) {
        require(std::ssize(*part) > length, "the texts ",
                part == &learnt_ ? "to learn from" : "to be examined in", " have ", part->size(),
                " tokens; more than ", length, " are needed, four times --length");
    }
}

int64_t LinearTexts::n_vocab() const {
    return tokenizer_ == nullptr ? kByteVocabulary : tokenizer_->n_vocab();
}

int64_t LinearTexts::bytes_of(int64_t token) const {
    return tokenizer_ == nullptr ? 1 : std::ssize(tokenizer_->bytes(static_cast<TokenId>(token)));
}

std::vector<int64_t> LinearTexts::tokens_of(const std::string& text) const {
    std::vector<int64_t> tokens;
    if (tokenizer_ == nullptr) {
        for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    } else {
        const auto ids = tokenizer_->encode(tokenizer_->replace_inexpressible(text));
        tokens.assign(ids.begin(), ids.end());
    }
    return tokens;
}

uint64_t LinearTexts::fingerprint() const {
    uint64_t hash = text_hash("");
    for (const auto* tokens : {&learnt_, &held_out_}) {
        hash = text_hash(
            {reinterpret_cast<const char*>(tokens->data()), tokens->size() * sizeof(int64_t)},
            hash);
    }
    return hash;
}

int64_t LinearTexts::cut(LinearBatch& batch, int64_t sequence, bool held_out,
                         Random& random) const {
    const std::vector<int64_t>& from = held_out ? held_out_ : learnt_;
    const auto first = from.begin() + random.below(std::ssize(from) - batch.length);
    std::copy_n(first, batch.length,
                batch.tokens.begin() + static_cast<std::ptrdiff_t>(batch.at(sequence, 0)));
    return first[batch.length];
}

}  // namespace palimpsest
