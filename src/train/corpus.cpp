#include "train/corpus.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "text/input_files.h"

namespace palimpsest {

namespace {

using Windows = std::vector<std::vector<TokenId>>;

/// Adds a text's whole windows, each begun as the model wants texts begun; returns its tokens.
int64_t add_windows(Windows& to, const std::string& text, const Tokenizer& tokenizer,
                    int64_t length) {
    const std::vector<TokenId> tokens = tokenizer.encode(tokenizer.replace_inexpressible(text));
    const std::vector<TokenId> beginning = tokenizer.beginning();
    const int64_t step = length - std::ssize(beginning);
    require(step > 0, "windows of ", length, " tokens");
    for (int64_t at = 0; at + step <= std::ssize(tokens); at += step) {
        std::vector<TokenId>& window = to.emplace_back(beginning);
        window.insert(window.end(), tokens.begin() + at, tokens.begin() + at + step);
    }
    return std::ssize(tokens);
}

void add_file(Windows& to, const std::string& path, const Tokenizer& tokenizer, int64_t length) {
    const size_t before = to.size();
    int64_t longest = 0;
    if (path.ends_with(".jsonl")) {
        for (const JsonLine& line : read_json_lines(path, std::numeric_limits<int64_t>::max())) {
            const std::string& text = text_field(line.value, "text", line.where);
            longest = std::max(longest, add_windows(to, text, tokenizer, length));
        }
    } else {
        longest = add_windows(to, read_text_file(path), tokenizer, length);
    }
    require(to.size() > before, "'", path, "' is too short: its longest text has ", longest,
            " tokens, and a window ", length, "; leave it out, or shorten windows with --length");
}

uint64_t fingerprint_of(const Windows& windows) {
    uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a over ids
    for (const auto& window : windows) {
        for (const TokenId token : window) {
            hash = (hash ^ static_cast<uint64_t>(static_cast<uint32_t>(token))) * 0x100000001b3ULL;
        }
    }
    return hash;
}

}  // namespace

Corpus make_corpus(Windows windows, const CorpusOptions& options) {
    const int64_t n = std::ssize(windows);
    require(options.n_held_out >= 0 && n > options.n_held_out, "the texts come to ", n,
            " windows of ", options.length, " tokens, of which ", options.n_held_out,
            " are to be held out: nothing would be left to learn from; name more texts, or lower "
            "--held-out or --length");
    Random random(options.seed);
    random.shuffle(windows);
    Corpus corpus;
    corpus.fingerprint = fingerprint_of(windows);
    const auto middle = windows.begin() + options.n_held_out;
    corpus.held_out.assign(std::make_move_iterator(windows.begin()),
                           std::make_move_iterator(middle));
    corpus.learnt.assign(std::make_move_iterator(middle), std::make_move_iterator(windows.end()));
    return corpus;
}

Corpus read_corpus(std::span<const std::string> paths, const Tokenizer& tokenizer,
                   const CorpusOptions& options) {
    require(!paths.empty(), "no texts to learn from");
    Windows windows;
    for (const std::string& path : paths) add_file(windows, path, tokenizer, options.length);
    return make_corpus(std::move(windows), options);
}

}  // namespace palimpsest
