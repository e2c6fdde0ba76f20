#include "prefix/prefix_pieces.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/sealed_file.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

void require_window(int64_t n_tokens, int64_t window) {
    // Pieces that leave a quarter of the window to traces.
    const int64_t n = n_tokens / std::max<int64_t>(1, window * 3 / 4) + 1;
    require(n_tokens < window, "the prefix has ", n_tokens, " tokens, and this model sees ", window,
            "; read it in pieces with --chunks ", std::max<int64_t>(2, n),
            ", or build parts of it on their own and join them with 'palimpsest prefix compose'");
}

/// Takes `n` entries from a file of an earlier run. False: there is none, or it is damaged.
bool load_saved(const PrefixRuntime& with, const std::string& path, ExactPrefix& to, int64_t n) {
    try {
        std::optional<std::string> saved = read_sealed(path);
        if (!saved) return false;
        std::istringstream in(std::move(*saved));
        to.load(in);
        if (to.size() == n) return true;
    } catch (const Error& e) {
        with.note(cat(e.what(), "; the prefix is read again"));
    }
    to.reset();
    return false;
}

}  // namespace

ReadPrefix read_prefix(const PrefixRuntime& with, const PrefixText& text, const ReadPlace& place) {
    const ModelConfig& config = with.engine.config();
    const int64_t n = std::ssize(text.tokens());
    require_window(n, config.n_ctx_train);
    const int64_t first = place.end > 0 ? place.end - n : 0;
    auto memory = std::make_unique<ExactPrefix>(with.engine.backend(), config.memory_shape(),
                                                GGML_TYPE_F16, n, first);
    ReadPrefix read = {.session = nullptr, .exact = memory.get()};
    const bool is_there = !place.saved_in.empty() && load_saved(with, place.saved_in, *memory, n);
    read.session = with.engine.make_session(std::move(memory));
    if (is_there) return read;
    read.session->feed(text.tokens(), {.on_progress = [&](int64_t done, int64_t total) {
                           with.tell("reading the prefix", done, total);
                           return true;
                       }});
    if (!place.saved_in.empty()) {
        std::ostringstream out;
        out.exceptions(std::ios::badbit);  // no memory is said, not left out
        read.exact->save(out);
        write_sealed(place.saved_in, std::move(out).str());
    }
    return read;
}

PrefixPieces::PrefixPieces(const PrefixRuntime& with, const PrefixText& text, int64_t n,
                           std::string folder)
    : with_(with),
      whole_(text),
      texts_(n > 1 ? text.pieces(n) : std::vector<PrefixText>{text}),
      folder_(std::move(folder)) {
    for (const PrefixText& t : texts_) end_ = std::max(end_, std::ssize(t.tokens()));
    const int64_t window = with.engine.config().n_ctx_train;
    if (n == 1) require_window(end_, window);
    require(end_ < window, "the longest of ", n, " pieces has ", end_,
            " tokens, and this model sees ", window, "; raise --chunks");
}

void PrefixPieces::set_apart(std::vector<std::vector<int32_t>> chosen) {
    palimpsest::check(size() == 1, "a prefix in one piece");
    if (apart_ == chosen) return;
    apart_ = std::move(chosen);
    last_ = {};
    last_is_ = -1;
}

const ExactPrefix& PrefixPieces::read(int64_t i) {
    if (last_is_ == i) return *last_.exact;
    last_ = {};  // gone before the next one needs its place
    last_is_ = -1;
    const auto start = std::chrono::steady_clock::now();
    const std::string saved_in =
        folder_.empty() ? "" : (fs::path(folder_) / cat("piece_", i, ".entries")).string();
    last_ = read_prefix(with_, texts_[static_cast<size_t>(i)], {.saved_in = saved_in, .end = end_});
    last_is_ = i;
    if (!apart_.empty()) last_.exact->set_apart(apart_);
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return *last_.exact;
}

PrefixErrors PrefixPieces::check(const std::shared_ptr<const PrefixDocument>& document,
                                 const std::shared_ptr<const PrefixDocument>& mean_state,
                                 std::span<const TraceTokens> traces) {
    if (document->keeps_entries()) set_apart(document->kept_positions());
    int64_t longest = 0;
    for (const TraceTokens& t : traces) longest = std::max(longest, std::ssize(t.tokens));
    const int64_t whole = std::ssize(whole_.tokens());
    if (size() > 1 && whole + longest <= with_.engine.config().n_ctx_train) {
        // It ends where the pieces do: requests start there.
        const ReadPrefix exact = read_prefix(with_, whole_, {.saved_in = "", .end = end_});
        return check_prefix(with_, *exact.exact, document, mean_state, traces);
    }
    return check_prefix(
        with_, {.n = size(), .read = [this](int64_t i) -> const ExactPrefix& { return read(i); }},
        document, mean_state, traces);
}

}  // namespace palimpsest
