// From a prefix and traces to a dictionary (Okoshi et al., 2026, arXiv:2605.18226, section 3).
//
// Records of queries and states wait on disk, layer by layer, and are clustered one layer at a
// time: memory stays bounded by one layer's records without running the traces twice.

#include "prefix/prefix_build.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <random>
#include <set>
#include <sstream>

#include "core/digest.h"
#include "core/error.h"
#include "core/file_lock.h"
#include "core/sealed_file.h"
#include "engine/session.h"
#include "memory/binary_stream.h"
#include "memory/prefix/prefix_assembly.h"
#include "memory/prefix/prefix_file.h"
#include "prefix/prefix_kept.h"
#include "prefix/prefix_records.h"
#include "prefix/prefix_sizes.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kLanesAtOnce = 16;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr uint64_t kSplitSeed = 1;  // of which traces are held out

/// Usable traces, shuffled; those to check with come last. Every seed of the clustering has the
/// same.
struct Chosen {
    std::vector<TraceTokens> all;
    int64_t n_made_from = 0;
};

Chosen choose(int64_t room, const PrefixText& text, const std::vector<TraceText>& traces,
              const PrefixBuildOptions& o, PrefixBuild& told) {
    Chosen chosen;
    std::set<std::vector<TokenId>> known;
    for (const TraceText& t : traces) {
        // A trace that is also a demonstration looks at its own copy, which no request can.
        const bool is_in_prefix =
            t.prompt.size() >= 16 && text.text().find(t.prompt) != std::string::npos;
        told.n_in_prefix += is_in_prefix ? 1 : 0;
        if (is_in_prefix) continue;
        const bool is_empty = t.prompt.find_first_not_of(" \t\r\n") == std::string::npos;
        told.n_empty += is_empty ? 1 : 0;
        if (is_empty) continue;
        TraceTokens tokens = text.trace(t);
        const bool fits = std::ssize(tokens.tokens) <= room;
        told.n_too_long += fits ? 0 : 1;
        if (!fits) continue;
        // Twice the same: one of them could be held out to check what the other had taught.
        const bool is_new = known.insert(tokens.tokens).second;
        told.n_repeated += is_new ? 0 : 1;
        if (is_new) chosen.all.push_back(std::move(tokens));
    }
    require(chosen.all.size() >= 2, "of ", traces.size(), " traces, ", chosen.all.size(),
            " can be used (", told.n_in_prefix, " repeat the prefix, ", told.n_empty,
            " are empty, ", told.n_repeated, " repeat another, ", told.n_too_long,
            " do not fit behind it); at least 2 are needed, and hundreds are better");
    std::mt19937_64 random(kSplitSeed);
    for (size_t i = 0; i + 1 < chosen.all.size(); ++i) {
        std::swap(chosen.all[i], chosen.all[i + random() % (chosen.all.size() - i)]);
    }
    const int64_t n = std::ssize(chosen.all);
    chosen.n_made_from = n - std::clamp<int64_t>(n / 8, 1, std::max<int64_t>(1, o.n_held_out));
    return chosen;
}

/// Everything that reading a prefix and its traces depends on.
std::string purpose_of(const PrefixRuntime& with, const PrefixPieces& pieces,
                       const Chosen& chosen) {
    PrefixHeader h;
    set_hashes(h, with.engine.loaded().file());
    Digest sum;
    for (const PrefixText& text : pieces.texts()) {
        sum.add(cat(text.tokens().size()));
        sum.add(std::as_bytes(std::span(text.tokens())));
    }
    for (const TraceTokens& t : chosen.all) sum.add(std::as_bytes(std::span(t.tokens)));
    return cat("prefix 5 ", h.model, " ", sum.hex(), "\n");
}

/// What records depend on besides.
std::string purpose_of_records(const PrefixBuildOptions& o, const Chosen& chosen, int64_t n_kept) {
    const std::string kept =
        n_kept > 0 ? cat(" without ", n_kept, " by ", to_string(o.kept_by)) : "";
    return cat(chosen.n_made_from, " traces, ", to_string(o.keys), kept, "\n");
}

/// What traces see of each piece, piece after piece.
class Recording {
 public:
    Recording(const PrefixRuntime& with, PrefixPieces& pieces, const Chosen& chosen,
              PrefixKeys keys, PrefixRecords& records)
        : with_(with), pieces_(pieces), chosen_(chosen), keys_(keys), records_(records) {
        int64_t n = 0;
        for (int64_t i = 0; i < chosen.n_made_from; ++i) n += length(i);
        n_tokens_ = n * pieces.size();
        for (int64_t i = 0; i < records.n_done(); ++i) n_done_ += length(i % chosen.n_made_from);
    }

    void run() {
        while (records_.n_done() < records_.n_traces()) {
            const int64_t piece = records_.n_done() / chosen_.n_made_from;
            follow(pieces_.read(piece), records_.n_done() % chosen_.n_made_from);
            with_.tell("following traces", n_done_, n_tokens_);
        }
    }

 private:
    [[nodiscard]] const std::vector<TokenId>& trace(int64_t i) const {
        return chosen_.all[static_cast<size_t>(i)].tokens;
    }
    [[nodiscard]] int64_t length(int64_t i) const { return std::ssize(trace(i)); }

    void follow(const ExactPrefix& exact, int64_t first) {
        length(first) > PrefixRecords::kMostAtOnce ? follow_long(exact, first)
                                                   : follow_some(exact, first);
    }

    std::unique_ptr<TraceMemory> memory_for(const ExactPrefix& exact, int64_t i) {
        return std::make_unique<TraceMemory>(
            with_.engine.backend(), exact, length(i), keys_,
            [this](int64_t /*first*/, int64_t /*n*/, std::span<const TracedLayer> layers) {
                records_.add(layers);
            });
    }

    /// One trace, part by part.
    void follow_long(const ExactPrefix& exact, int64_t i) {
        Session session(with_.engine.model(), with_.engine.backend(), memory_for(exact, i),
                        {.n_chunk = PrefixRecords::kMostAtOnce});
        session.feed(trace(i));
        n_done_ += length(i);
    }

    /// Traces from `first` on, side by side, so that weights are read once for all of them. Of one
    /// kind only: those of many rows and of few are computed one kind after the other, and records
    /// come in the order of traces.
    void follow_some(const ExactPrefix& exact, int64_t first) {
        const int64_t many = with_.engine.model().products().many_rows();
        const auto is_many = [&](int64_t i) { return length(i) >= many; };
        std::vector<std::unique_ptr<TraceMemory>> memories;
        std::vector<Lane> lanes;
        int64_t n = 0;
        for (int64_t i = first; i < chosen_.n_made_from && i < first + kLanesAtOnce; ++i) {
            if (n > 0 && n + length(i) > PrefixRecords::kMostAtOnce) break;
            if (is_many(i) != is_many(first)) break;
            n += length(i);
            memories.push_back(memory_for(exact, i));
            lanes.push_back({.memory = memories.back().get(),
                             .step = {.n = length(i),
                                      .first_pos = memories.back()->next_position(),
                                      .is_prefill = true},
                             .runs = {{.tokens = trace(i)}},
                             .n_logits = 0});
        }
        // Of this batch only: its graph reads memories that go with it.
        Evaluator(with_.engine.model(), with_.engine.backend()).evaluate(lanes);
        n_done_ += n;
    }

    const PrefixRuntime& with_;
    PrefixPieces& pieces_;
    const Chosen& chosen_;
    PrefixKeys keys_;
    PrefixRecords& records_;
    int64_t n_done_ = 0, n_tokens_ = 0;
};

/// Of what is held, the share that goes to kept entries.
double share_of_kept(const PrefixRuntime& with, const PrefixText& text,
                     const PrefixBuildOptions& o) {
    const double share = o.kept_share.value_or(0.5);
    require(share >= 0 && share < 1, "a share of ", share,
            " for kept entries; it must be 0 or more and less than 1");
    if (share <= 0) return 0;
    const std::string why = why_none_is_kept(with, text, o.n_chunks, o.kept_by);
    require(why.empty() || !o.kept_share, why);
    return why.empty() ? share : 0;
}

void save_book(const fs::path& path, const Codebook& book) {
    std::ostringstream out;
    out.exceptions(std::ios::badbit);  // no memory is said, not left out
    put_all(out, book.queries);
    put_all(out, book.outputs);
    put_all(out, book.lse);
    put_all(out, book.count);
    put_all(out, book.radius);
    put(out, static_cast<int64_t>(book.whitening.size()));
    for (const Whitening& w : book.whitening) put_all(out, w.root);
    write_sealed(path.string(), std::move(out).str());
}

Codebook book_in(std::string saved, const PrefixLayout& layout) {
    constexpr int64_t kMost = int64_t{1} << 40;
    std::istringstream in(std::move(saved));
    Codebook book = {.n_block = layout.blocks(), .d_head = layout.d_head};
    book.queries = take_all<float>(in, kMost);
    book.outputs = take_all<float>(in, kMost);
    book.lse = take_all<float>(in, kMost);
    book.count = take_all<int32_t>(in, kMost);
    book.radius = take_all<float>(in, kMost);
    const auto n = take<int64_t>(in);
    for (int64_t i = 0; i < n; ++i) {
        book.whitening.push_back({.d = layout.d_head, .root = take_all<float>(in, kMost)});
    }
    return book;
}

/// A dictionary of an interrupted run; nullopt if it has none, or a damaged one.
std::optional<Codebook> saved_book(const PrefixRuntime& with, const fs::path& path,
                                   const PrefixLayout& layout) {
    try {
        std::optional<std::string> saved = read_sealed(path.string());
        if (!saved) return std::nullopt;
        return book_in(std::move(*saved), layout);
    } catch (const Error& e) {
        with.note(cat(e.what(), "; its dictionary is made again"));
        return std::nullopt;
    }
}

/// Clusters layer after layer. Dictionaries of an interrupted run with the same options are taken
/// from the work folder.
struct Dictionaries {
    PrefixAssembly all, mean;
};

class Clustering {
 public:
    Clustering(const PrefixRuntime& with, const PrefixRecords& records, const PrefixHeader& header,
               const PrefixBuildOptions& o)
        : with_(with),
          records_(records),
          header_(header),
          o_(o),
          folder_(records.folder() / cat("books_", header.k, "_", header.n_traces, "_",
                                         header.layout.heads_per_key, header.layout.is_shared,
                                         o.whiten, "_", o.seed, "_",
                                         static_cast<int>(o.aggregation))) {
        fs::create_directories(folder_);
    }

    Dictionaries run() {
        PrefixHeader mean_header = header_;
        mean_header.is_whitened = false;
        Dictionaries made = {PrefixAssembly(header_, o_.storage),
                             PrefixAssembly(mean_header, o_.storage)};
        for (int64_t layer = 0; layer < header_.n_layer; ++layer) {
            add_layer(layer, made);
            with_.tell("clustering layers", layer + 1, header_.n_layer);
        }
        return made;
    }

 private:
    void add_layer(int64_t layer, Dictionaries& to) {
        const PrefixLayout& at = header_.layout;
        std::vector<Codebook> books;
        std::vector<Codebook> means;
        for (int64_t c = 0; c < at.n_codebooks(); ++c) {
            const fs::path path = folder_ / cat("layer_", layer, "_", c);
            const fs::path mean_path = folder_ / cat("mean_", layer, "_", c);
            std::optional<Codebook> book = saved_book(with_, path, at);
            std::optional<Codebook> mean = saved_book(with_, mean_path, at);
            if (!book || !mean) {
                const StateRecords r = records_.read(layer, at, c);
                book = clustered(r, layer * at.n_codebooks() + c);
                mean = build_codebook(with_.engine.backend(), r, {.k = 1});
                save_book(path, *book);
                save_book(mean_path, *mean);
            }
            books.push_back(std::move(*book));
            means.push_back(std::move(*mean));
        }
        std::vector<EntryLists> lists;
        if (wants_lists(o_, at, header_.k)) {
            for (Codebook& book : books) {
                lists.push_back(put_in_lists(with_.engine.backend(), book, o_.seed));
            }
        }
        to.all.add_layer(books, lists);
        to.mean.add_layer(means);
    }

    [[nodiscard]] Codebook clustered(const StateRecords& records, int64_t number) const {
        return build_codebook(with_.engine.backend(), records,
                              {.k = header_.k,
                               .seed = o_.seed + static_cast<uint64_t>(number),
                               .whiten = o_.whiten,
                               .aggregation = o_.aggregation,
                               .most_points = 64 * header_.k});
    }

    const PrefixRuntime& with_;
    const PrefixRecords& records_;
    const PrefixHeader& header_;
    const PrefixBuildOptions& o_;
    fs::path folder_;
};

/// A layer's entries, all KV heads.
std::vector<EntryRows> heads_of(const ExactPrefix& exact, int64_t layer) {
    std::vector<EntryRows> heads;
    heads.reserve(static_cast<size_t>(exact.shape().n_head_kv));
    for (int64_t h = 0; h < exact.shape().n_head_kv; ++h) heads.push_back(exact.rows(layer, h));
    return heads;
}

void set_kept(const ExactPrefix& exact, std::span<const std::vector<int32_t>> kept,
              Dictionaries& made) {
    for (int64_t layer = 0; layer < exact.shape().n_layer; ++layer) {
        const std::vector<EntryRows> heads = heads_of(exact, layer);
        const auto of = kept.subspan(static_cast<size_t>(layer) * heads.size(), heads.size());
        made.all.set_kept(layer, heads, of);
        made.mean.set_kept(layer, heads, of);
    }
}

void set_exact(const ExactPrefix& exact, PrefixAssembly& to) {
    for (int64_t layer = 0; layer < exact.shape().n_layer; ++layer) {
        to.set_exact(layer, heads_of(exact, layer));
    }
}

void note_errors(const PrefixErrors& errors, PrefixHeader& h) {
    h.n_held_out = errors.n_traces;
    h.e_out = static_cast<float>(errors.e_out);
    h.e_out_worst = static_cast<float>(errors.e_out_worst);
    h.e_out_answer = static_cast<float>(errors.e_out_answer);
    h.agreement = static_cast<float>(errors.memory.share());
    h.divergence = static_cast<float>(errors.memory.divergence);
    h.is_against_pieces = errors.n_pieces > 1;
    for (const PrefixLayerErrors& e : errors.layers) {
        for (const double x : {e.e_out, e.e_state, e.e_lse, e.e_weight}) {
            h.layer_errors.push_back(static_cast<float>(x));
        }
    }
}

/// What is known before anything is read.
PrefixHeader header_of(const PrefixRuntime& with, const PrefixText& text,
                       const PrefixBuildOptions& o) {
    const MemoryShape shape = with.engine.shape();
    PrefixHeader h;
    set_hashes(h, with.engine.loaded().file());
    h.name = o.name;
    h.text = text.text();
    require(h.text.find('\0') == std::string::npos,
            "the prefix has a byte 0 in it, which its file could not hold");
    h.is_raw = text.is_raw();
    h.tokens = text.tokens();
    h.n_layer = shape.n_layer;
    h.layout = {.n_head = shape.n_head,
                .n_head_kv = shape.n_head_kv,
                .d_head = shape.d_head,
                .heads_per_key = o.heads_per_key > 0 ? o.heads_per_key : shape.group(),
                .is_shared = o.is_shared};
    require(shape.group() % h.layout.heads_per_key == 0, h.layout.heads_per_key,
            " heads a key do not divide the ", shape.group(), " that share a KV head");
    h.keys = o.keys;
    h.is_whitened = o.whiten;
    h.aggregation = o.aggregation == Aggregation::kPlain ? "plain" : "weighted";
    h.seed = static_cast<int64_t>(o.seed);
    return h;
}

}  // namespace

PrefixBuild build_prefix(const PrefixRuntime& with, const PrefixText& text,
                         const std::vector<TraceText>& traces, const PrefixBuildOptions& o) {
    const ModelConfig& config = with.engine.config();
    const MemoryShape shape = config.memory_shape();
    PrefixBuild built;
    require(o.n_chunks == 1 || !o.keep_exact,
            "the gate reads a whole prefix, and one in pieces has none; leave --keep-exact out");
    PrefixPieces pieces(with, text, o.n_chunks);
    const Chosen chosen = choose(config.n_ctx_train - pieces.end(), text, traces, o, built);
    PrefixHeader h = header_of(with, text, o);
    h.n_traces = chosen.n_made_from;
    h.n_chunks = pieces.size();
    h.chunks_end = pieces.end();
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < h.n_chunks * h.n_traces; ++i) {
        lengths.push_back(std::ssize(chosen.all[static_cast<size_t>(i % h.n_traces)].tokens));
        if (i < h.n_traces) h.n_trace_tokens += lengths.back();
    }
    built.n_records = h.n_chunks * h.n_trace_tokens * h.layout.rows();
    built.cache_bytes = bytes_of_all(shape, GGML_TYPE_F16, std::ssize(h.tokens));
    const PrefixSizes sizes = choose_sizes(o, h,
                                           {.cache_bytes = built.cache_bytes,
                                            .n_records = built.n_records,
                                            .kept_share = share_of_kept(with, text, o),
                                            .n_keeping = n_keeping_layers(shape)});
    h.k = sizes.k;
    built.k_was_lowered = sizes.k_was_lowered;
    const int64_t n_kept = sizes.n_kept;
    if (n_kept > 0) h.kept_by = to_string(o.kept_by);

    const fs::path work = o.work_folder;
    const FolderLock lock(work.string());  // two builds in one folder would mix what they record
    claim_folder(work, purpose_of(with, pieces, chosen));
    PrefixRecords records(work / "records", purpose_of_records(o, chosen, n_kept), shape, lengths,
                          [&with](const std::string& said) { with.note(said); });
    pieces.wait_in(work.string());
    auto start = Clock::now();
    std::vector<std::vector<int32_t>> kept;
    if (n_kept > 0) {
        const KeptSearch search = {
            .by = o.kept_by,
            .prefix = h.tokens,
            .traces = std::span(chosen.all).first(static_cast<size_t>(chosen.n_made_from)),
            .folder = work};
        kept = find_kept(with, pieces.read(0), search, n_kept);
        pieces.set_apart(kept);
    }
    Recording(with, pieces, chosen, o.keys, records).run();
    built.traces_s = seconds_since(start) - pieces.seconds_reading();
    start = Clock::now();
    Dictionaries made = Clustering(with, records, h, o).run();
    built.clustering_s = seconds_since(start);
    if (n_kept > 0) set_kept(pieces.read(0), kept, made);
    if (o.keep_exact) set_exact(pieces.read(0), made.all);
    built.prefill_s = pieces.seconds_reading();
    start = Clock::now();
    PrefixHeader mean_header = h;
    mean_header.is_whitened = false;
    built.errors =
        pieces.check(std::make_shared<const PrefixDocument>(made.all.document(h)),
                     std::make_shared<const PrefixDocument>(made.mean.document(mean_header)),
                     std::span(chosen.all).subspan(static_cast<size_t>(chosen.n_made_from)));
    built.checking_s = seconds_since(start);
    made.all.set_floors(built.errors.floors);
    note_errors(built.errors, h);
    built.document = std::make_shared<const PrefixDocument>(made.all.document(h));
    return built;
}

}  // namespace palimpsest
