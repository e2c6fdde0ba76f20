#include "train/linear/linear_task.h"

#include <array>
#include <functional>
#include <unordered_set>

#include "core/error.h"
#include "core/text_hash.h"
#include "memory/option_reader.h"
#include "train/training_texts.h"

namespace palimpsest {

namespace {

constexpr size_t kSpokenLine = 16;  // bytes, from which on a line is told again if it is the same

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

void append_tokens(const std::string& text, const Tokenizer* tokenizer, std::vector<int64_t>& to) {
    if (tokenizer == nullptr) {
        for (const char c : text) to.push_back(static_cast<unsigned char>(c));
        return;
    }
    for (const TokenId t : tokenizer->encode(tokenizer->replace_inexpressible(text)))
        to.push_back(t);
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

uint64_t fingerprint(const LinearTaskOptions& o, const LinearTexts& texts) {
    std::string settings = cat(o.name, " ", o.length, " ", o.n_vocab, " ", o.needle_share);
    for (const int64_t n : o.pairs) settings += cat(" ", n);
    uint64_t hash = text_hash(settings);
    for (const auto* tokens : {&texts.learnt, &texts.held_out}) {
        hash = text_hash(
            {reinterpret_cast<const char*>(tokens->data()), tokens->size() * sizeof(int64_t)},
            hash);
    }
    return hash;
}

LinearTexts read_linear_texts(const LinearTaskOptions& options, const Tokenizer* tokenizer,
                              int64_t length) {
    require(!options.documents.empty() && !options.held_out.empty(), "the task '", options.name,
            "' needs texts to learn from (--documents) and texts to be examined in (--held-out)");
    LinearTexts texts;
    std::unordered_set<size_t> seen;  // hashes of lines
    for (const std::string& text : read_training_texts(options.documents, 1)) {
        for_lines(text,
                  [&](std::string_view line) { seen.insert(std::hash<std::string_view>()(line)); });
        append_tokens(text, tokenizer, texts.learnt);
    }
    for (const std::string& text : read_training_texts(options.held_out, 1)) {
        std::string kept;
        for_lines(text, [&](std::string_view line) {
            const bool is_known =
                line.size() >= kSpokenLine && seen.contains(std::hash<std::string_view>()(line));
            if (!is_known) kept += line;
        });
        append_tokens(kept, tokenizer, texts.held_out);
    }
    for (const auto* part : {&texts.learnt, &texts.held_out}) {
        require(std::ssize(*part) > length, "the texts ",
                part == &texts.learnt ? "to learn from" : "to be examined in", " have ",
                part->size(), " tokens; more than ", length, " are needed, four times --length");
    }
    return texts;
}

}  // namespace palimpsest
