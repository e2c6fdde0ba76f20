// From a prefix and traces to a dictionary (Okoshi et al., 2026, arXiv:2605.18226, section 3).
//
// Records of queries and states wait on disk, layer by layer, and are clustered one layer at a
// time: memory stays bounded by one layer's records without running the traces twice.

#include "engine/prefix_build.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>

#include "core/digest.h"
#include "core/error.h"
#include "engine/generate.h"
#include "engine/prefix_kept.h"
#include "engine/prefix_records.h"
#include "engine/session.h"
#include "memory/binary_stream.h"
#include "memory/prefix_assembly.h"
#include "memory/prefix_file.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kRecordsPerEntry = 8;
constexpr int64_t kTokensAtOnce = 256;  // of traces that share a pass
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
        if (fits) chosen.all.push_back(std::move(tokens));
    }
    require(chosen.all.size() >= 2, "of ", traces.size(), " traces, ", chosen.all.size(),
            " can be used (", told.n_in_prefix, " repeat the prefix, ", told.n_empty,
            " are empty, ", told.n_too_long,
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
    set_hashes(h, with.loaded.file());
    Digest sum;
    for (const PrefixText& text : pieces.texts()) {
        sum.add(cat(text.tokens().size()));
        sum.add(std::as_bytes(std::span(text.tokens())));
    }
    for (const TraceTokens& t : chosen.all) sum.add(std::as_bytes(std::span(t.tokens)));
    return cat("prefix 3 ", h.model, " ", sum.hex(), "\n");
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

    /// Traces from `first` on, side by side, so that weights are read once for all of them.
    void follow(const ExactPrefix& exact, int64_t first) {
        std::vector<std::unique_ptr<TraceMemory>> memories;
        std::vector<Lane> lanes;
        int64_t n = 0;
        for (int64_t i = first; i < chosen_.n_made_from && i < first + kLanesAtOnce; ++i) {
            if (n > 0 && n + length(i) > kTokensAtOnce) break;
            n += length(i);
            memories.push_back(std::make_unique<TraceMemory>(
                with_.backend, exact, length(i), keys_,
                [this](int64_t /*first*/, int64_t /*n*/, std::span<const TracedLayer> layers) {
                    records_.add(layers);
                }));
            lanes.push_back({.memory = memories.back().get(),
                             .step = {.n = length(i),
                                      .first_pos = memories.back()->next_position(),
                                      .is_prefill = true},
                             .tokens = trace(i),
                             .rows = {},
                             .n_logits = 0});
        }
        // Of this batch only: its graph reads memories that go with it.
        Evaluator(with_.loaded.model(), with_.backend).evaluate(lanes);
        n_done_ += n;
    }

    const PrefixRuntime& with_;
    PrefixPieces& pieces_;
    const Chosen& chosen_;
    PrefixKeys keys_;
    PrefixRecords& records_;
    int64_t n_done_ = 0, n_tokens_ = 0;
};

bool wants_lists(const PrefixBuildOptions& o, const PrefixLayout& at, int64_t k) {
    if (o.lookup == PrefixLookup::kFaster) return lists_pay(k, at.width());
    return o.lookup == PrefixLookup::kTwoLevel;
}

/// Bytes that may be held in all, where they are not given by a number of entries.
size_t budget_of(const PrefixBuildOptions& o, size_t cache_bytes) {
    return o.budget_bytes > 0 ? o.budget_bytes : cache_bytes / 4;
}

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

/// Entries that all heads keep together.
int64_t choose_kept(const PrefixBuildOptions& o, double share, const PrefixHeader& h,
                    size_t budget) {
    if (share <= 0) return 0;
    // With a number of entries, so much that their bytes are the rest.
    const size_t entries =
        static_cast<size_t>(o.k) * prefix_entry_bytes(h.layout, h.n_layer, o.storage);
    const double held =
        o.k > 0 ? static_cast<double>(entries) / (1 - share) : static_cast<double>(budget);
    const auto bytes = static_cast<size_t>(held * share);
    const int64_t n_heads = h.n_layer * h.layout.n_head_kv;
    const size_t first = prefix_kept_bytes(h.layout, h.n_layer, 1, o.storage);
    const size_t another = prefix_kept_bytes(h.layout, h.n_layer, 2, o.storage) - first;
    const auto n = bytes < first ? 0 : static_cast<int64_t>((bytes - first) / another) + 1;
    const int64_t most = n_heads * (std::ssize(h.tokens) - 1);
    if (n >= n_heads) return std::min(n, most);
    require(!o.kept_share, "a share of ", share, " of what is held (", bytes,
            " bytes) is too small for one kept entry a head; raise --budget, or keep none with ",
            "--kept 0");
    return 0;
}

/// The most entries that a budget holds, lists and whitening included; whole tiles if it holds one.
int64_t entries_in(size_t budget, const PrefixBuildOptions& o, const PrefixHeader& h) {
    const size_t entry = prefix_entry_bytes(h.layout, h.n_layer, o.storage);
    const size_t whitening = o.whiten ? prefix_whitening_bytes(h.layout, h.n_layer) : 0;
    const auto fits = [&](int64_t k) {
        const size_t lists =
            wants_lists(o, h.layout, k) ? prefix_list_bytes(h.layout, h.n_layer, k) : 0;
        return static_cast<size_t>(k) * entry + lists + whitening <= budget;
    };
    auto k = static_cast<int64_t>(budget / entry);
    if (k >= kMatchTile) k = k / kMatchTile * kMatchTile;
    while (k > 0 && !fits(k)) k -= k > kMatchTile ? kMatchTile : 1;
    return k;
}

/// Entries a dictionary may have, and why.
int64_t choose_k(const PrefixBuildOptions& o, const PrefixHeader& h, size_t budget,
                 PrefixBuild& told) {
    const int64_t allowed = std::max<int64_t>(1, told.n_records / kRecordsPerEntry);
    const bool is_asked = o.k > 0 || o.budget_bytes > 0;
    const int64_t k = o.k > 0 ? o.k : entries_in(budget, o, h);
    require(k >= 1, "the ", budget,
            " bytes that dictionaries may have are too few: an entry takes ",
            prefix_entry_bytes(h.layout, h.n_layer, o.storage), " bytes over all layers",
            o.whiten ? cat(", whitening ", prefix_whitening_bytes(h.layout, h.n_layer)) : "");
    if (k <= allowed) return k;
    require(
        !is_asked || o.is_forced, k, " entries are too many for ", told.n_records, " records: at ",
        kRecordsPerEntry, " records an entry, ", allowed,
        " can be told apart; give more traces, lower --entries-per-head or --budget, or insist ",
        "with --force");
    if (is_asked) return k;
    told.k_was_lowered = true;
    return allowed;
}

void put_book(const fs::path& path, const Codebook& book) {
    std::ofstream out(path, std::ios::binary);
    put_all(out, book.queries);
    put_all(out, book.outputs);
    put_all(out, book.lse);
    put_all(out, book.count);
    put_all(out, book.radius);
    put(out, static_cast<int64_t>(book.whitening.size()));
    for (const Whitening& w : book.whitening) put_all(out, w.root);
    finish(out, path.string());
}

Codebook take_book(const fs::path& path, const PrefixLayout& layout) {
    constexpr int64_t kMost = int64_t{1} << 40;
    std::ifstream in(path, std::ios::binary);
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

/// Clusters layer after layer. Finished ones of an interrupted run with the same options are taken
/// from the work folder.
struct Dictionaries {
    PrefixAssembly all, mean;
};

Dictionaries cluster(const PrefixRuntime& with, const PrefixRecords& records,
                     const PrefixHeader& header, const PrefixBuildOptions& o) {
    PrefixHeader mean_header = header;
    mean_header.is_whitened = false;
    Dictionaries made = {PrefixAssembly(header, o.storage), PrefixAssembly(mean_header, o.storage)};
    const PrefixLayout& at = header.layout;
    const fs::path folder = records.folder() / cat("books_", header.k, "_", header.n_traces, "_",
                                                   at.heads_per_key, at.is_shared, o.whiten, "_",
                                                   o.seed, "_", static_cast<int>(o.aggregation));
    fs::create_directories(folder);
    for (int64_t layer = 0; layer < header.n_layer; ++layer) {
        std::vector<Codebook> books;
        std::vector<Codebook> means;
        const fs::path done = folder / cat("layer_", layer, ".done");
        const bool is_there = fs::exists(done);
        std::vector<StateRecords> seen;
        if (!is_there) seen = records.read(layer, at);
        for (int64_t c = 0; c < at.n_codebooks(); ++c) {
            const fs::path path = folder / cat("layer_", layer, "_", c);
            const fs::path mean_path = folder / cat("mean_", layer, "_", c);
            if (is_there) {
                books.push_back(take_book(path, at));
                means.push_back(take_book(mean_path, at));
                continue;
            }
            const StateRecords& r = seen[static_cast<size_t>(c)];
            const auto seed = o.seed + static_cast<uint64_t>(layer * at.n_codebooks() + c);
            books.push_back(build_codebook(with.backend, r,
                                           {.k = header.k,
                                            .seed = seed,
                                            .whiten = o.whiten,
                                            .aggregation = o.aggregation,
                                            .most_points = 64 * header.k}));
            means.push_back(build_codebook(with.backend, r, {.k = 1}));
            put_book(path, books.back());
            put_book(mean_path, means.back());
        }
        std::vector<EntryLists> lists;
        if (wants_lists(o, at, header.k)) {
            for (Codebook& book : books) {
                lists.push_back(put_in_lists(with.backend, book, o.seed));
            }
        }
        made.all.add_layer(books, lists);
        made.mean.add_layer(means);
        std::ofstream(done, std::ios::binary) << "\n";
        with.tell("clustering layers", layer + 1, header.n_layer);
    }
    return made;
}

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
}

/// What is known before anything is read.
PrefixHeader header_of(const PrefixRuntime& with, const PrefixText& text,
                       const PrefixBuildOptions& o) {
    const MemoryShape shape = with.loaded.config().memory_shape();
    PrefixHeader h;
    set_hashes(h, with.loaded.file());
    h.name = o.name;
    h.text = text.text();
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
    h.seed = static_cast<int64_t>(o.seed);
    return h;
}

}  // namespace

PrefixBuild build_prefix(const PrefixRuntime& with, const PrefixText& text,
                         const std::vector<TraceText>& traces, const PrefixBuildOptions& o) {
    const ModelConfig& config = with.loaded.config();
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
    built.cache_bytes =
        static_cast<size_t>(shape.n_layer * shape.n_head_kv * shape.d_head * std::ssize(h.tokens)) *
        2 * sizeof(ggml_fp16_t);
    const size_t budget = budget_of(o, built.cache_bytes);
    const int64_t n_kept = choose_kept(o, share_of_kept(with, text, o), h, budget);
    const size_t kept_bytes = prefix_kept_bytes(h.layout, h.n_layer, n_kept, o.storage);
    h.k = choose_k(o, h, budget > kept_bytes ? budget - kept_bytes : 0, built);

    const fs::path work = o.work_folder;
    claim_folder(work, purpose_of(with, pieces, chosen));
    PrefixRecords records(work / "records", purpose_of_records(o, chosen, n_kept), shape, lengths);
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
    Dictionaries made = cluster(with, records, h, o);
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

// ---- self-study ------------------------------------------------------------------------------

namespace {

constexpr size_t kQuoted = 200;  // characters of the prefix that a question starts from

/// What a model is asked to ask; {} stands for a piece of the text.
std::vector<std::string> askings() {
    std::vector<std::string> ways = {
        "Write one short question that the text answers.",
        "Write one question about a detail in this part of the text: \"{}\".",
        "Write a request that somebody who knows the text could be asked to carry out.",
        "Write one question about what this means: \"{}\".",
        "Write one question that compares two things in the text."};
    for (std::string& way : ways) {
        const bool is_request = way.find("request") != std::string::npos;
        way += is_request ? " Write the request only." : " Write the question only.";
    }
    return ways;
}

/// A piece of the prefix's text that begins and ends at a space.
std::string quote(const std::string& text, uint64_t random) {
    if (text.size() <= kQuoted) return text;
    size_t begin = random % (text.size() - kQuoted);
    begin = std::min(text.find(' ', begin), text.size() - kQuoted) + 1;
    const size_t end = text.rfind(' ', std::min(text.size() - 1, begin + kQuoted));
    return end == std::string::npos || end <= begin ? "" : text.substr(begin, end - begin);
}

}  // namespace

namespace {

/// Everything that a study depends on.
std::string study_of(const PrefixRuntime& with, const PrefixText& text, uint64_t seed) {
    PrefixHeader h;
    set_hashes(h, with.loaded.file());
    Digest sum;
    sum.add(cat(h.model, " ", h.tokenizer, " ", h.chat_template, " ", seed));
    sum.add(std::as_bytes(std::span(text.tokens())));
    return sum.hex();
}

}  // namespace

std::vector<TraceText> self_study(const PrefixRuntime& with, const PrefixText& text, int64_t n,
                                  uint64_t seed, const std::string& beside) {
    require(!text.is_raw(), "a model can ask itself only in a chat; a raw prefix needs traces");
    // Named after what it depends on: another text's questions are none of this one's.
    const std::string saved_in = cat(beside, ".", study_of(with, text, seed), ".jsonl");
    std::vector<TraceText> traces;
    if (fs::exists(saved_in)) {
        std::ifstream in(saved_in, std::ios::binary);
        std::ostringstream lines;
        lines << in.rdbuf();
        if (!lines.str().empty()) traces = parse_traces(lines.str());
        if (std::ssize(traces) > n) traces.resize(static_cast<size_t>(n));
    }
    if (std::ssize(traces) == n) return traces;
    const Tokenizer& tokenizer = with.loaded.require_tokenizer();
    const ReadPrefix prefix = read_prefix(with, text, {.saved_in = saved_in + ".entries"});
    const int64_t room = with.loaded.config().n_ctx_train - std::ssize(text.tokens());
    const auto say = [&](const std::string& request, const GenerateOptions& options) {
        const std::vector<Segment> tokens = text.request({{request}});
        int64_t length = options.max_tokens;
        for (const Segment& s : tokens) length += std::ssize(s.tokens);
        if (length > room) return std::string();
        Session session(with.loaded.model(), with.backend,
                        std::make_unique<TraceMemory>(with.backend, *prefix.exact, length + 1,
                                                      PrefixKeys::kPre, TraceMemory::OnStep()),
                        {.n_chunk = with.n_chunk});
        return generate(session, tokenizer, tokens, options, {}).text;
    };
    const std::vector<std::string> ways = askings();
    int64_t n_failed = 0;
    for (uint64_t i = traces.size(); std::ssize(traces) < n; ++i) {
        std::mt19937_64 random(seed + i);
        std::string ask = ways[i % ways.size()];
        if (const size_t at = ask.find("{}"); at != std::string::npos) {
            ask.replace(at, 2, quote(text.text(), random()));
        }
        const auto of_seed = static_cast<uint32_t>(random());
        TraceText trace;
        GenerateOptions asking;
        asking.sampling.temperature = 0.9F;
        asking.sampling.seed = of_seed;
        asking.max_tokens = 48;
        asking.stop = {"\n"};
        trace.prompt = say(ask, asking);
        GenerateOptions answering;
        answering.max_tokens = 80;
        if (trace.prompt.size() >= 4) trace.response = say(trace.prompt, answering);
        // A study that goes on asks again what failed before, and so what came after it.
        const bool is_known = std::ranges::any_of(
            traces, [&](const TraceText& other) { return other.prompt == trace.prompt; });
        if (trace.prompt.size() < 4 || trace.response.empty() || is_known) {
            require(++n_failed <= 2 * n + 16,
                    "the model asks itself nothing about this prefix; give ", "traces instead");
            continue;
        }
        std::ofstream(saved_in, std::ios::binary | std::ios::app) << to_json_line(trace);
        traces.push_back(std::move(trace));
        with.tell("asking itself", std::ssize(traces), n);
    }
    fs::remove(saved_in + ".entries");
    return traces;
}

}  // namespace palimpsest
