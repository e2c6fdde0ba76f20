// Files of prefix memories: what comes back from them, and what is refused.

#include "memory/prefix/prefix_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "memory/prefix/prefix_assembly.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/traced_prefix.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::kPrefix;
using testing::layout_of;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::Traced;
using testing::using_prefix;

std::string written(const std::shared_ptr<const PrefixDocument>& d) {
    const testing::TemporaryFile file("", ".prefix.gguf");
    const std::vector<std::shared_ptr<const PrefixDocument>> all = {d};
    write_prefixes(file.path(), all);
    return testing::read_text(file.path());
}

TEST(PrefixFile, ReadsBackWhatWasWritten) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny, 2));
    traced.follow(tiny_tokens(30, 2));
    for (const PrefixStorage storage : {PrefixStorage::kF16, PrefixStorage::kI8}) {
        const auto d = traced.document(10, storage, true, 0.5F);
        const testing::TemporaryFile file(written(d), ".prefix.gguf");
        const auto read = read_prefixes(file.path());
        ASSERT_EQ(read.size(), 1U);
        EXPECT_EQ(read.front()->header().tokens, d->header().tokens);
        EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
        EXPECT_TRUE(read.front()->has_exact());
        EXPECT_EQ(read.front()->floor(1, 0), 0.5F);
        Session a = using_prefix(tiny, {.documents = {d}});
        Session b = using_prefix(tiny, {.documents = read});
        const auto asked = tiny_tokens(20, 8);
        EXPECT_EQ(all_logits(a, asked), all_logits(b, asked));
    }
}

TEST(PrefixFile, KeepsWhitenedKeys) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny, 2));
    for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(40, seed));
    for (const bool has_lists : {false, true}) {
        PrefixHeader h = traced.header();
        h.is_whitened = true;
        PrefixAssembly assembly(h, PrefixStorage::kI8);
        for (size_t l = 0; l < 2; ++l) {
            std::vector<Codebook> books;
            std::vector<EntryLists> lists;
            for (size_t c = 0; c < 2; ++c) {
                books.push_back(build_codebook(tiny.backend(), traced.records()[l * 2 + c],
                                               {.k = 30, .whiten = true}));
                if (has_lists) lists.push_back(put_in_lists(tiny.backend(), books.back(), 1));
            }
            assembly.add_layer(books, lists);
        }
        const auto d = std::make_shared<const PrefixDocument>(assembly.document(h));
        const testing::TemporaryFile file(written(d), ".prefix.gguf");
        const auto read = read_prefixes(file.path());
        EXPECT_TRUE(read.front()->header().is_whitened);
        Session a = using_prefix(tiny, {.documents = {d}});
        Session b = using_prefix(tiny, {.documents = read});
        const auto asked = tiny_tokens(20, 8);
        const auto logits = all_logits(a, asked);
        EXPECT_EQ(logits, all_logits(b, asked));
        // A query's cosine is one after whitening: never above 1, and high for what was recorded.
        const MemoryReport::Prefix r = b.memory().report().prefix;
        EXPECT_GT(r.mean_similarity, 0.2);
        const StateRecords& seen = traced.records().front();
        double mean = 0;
        for (size_t i = 0; i < 20; ++i) {
            const auto key = std::span(seen.keys).subspan(i * 32, 32);
            const PrefixEntry found = read.front()->find(0, 0, key);
            EXPECT_LE(found.similarity, 1.0F);
            mean += double{found.similarity} / 20;
        }
        EXPECT_GT(mean, 0.6);
        // Without its whitening the file is no memory.
        std::vector<PrefixLayer> layers = d->layers();
        layers.back().whitening = {};
        EXPECT_THROW(PrefixDocument(h, layers, d), Error);
    }
}

TEST(PrefixFile, KeepsLists) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 8; ++seed) traced.follow(tiny_tokens(50, seed));
    const auto d = traced.document(200, PrefixStorage::kI8, false, -2, true);
    const testing::TemporaryFile file(written(d), ".prefix.gguf");
    const auto read = read_prefixes(file.path());
    EXPECT_TRUE(read.front()->has_lists());
    EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
    EXPECT_LT(read.front()->moved_bytes(), d->held_bytes());
    Session a = using_prefix(tiny, {.documents = {d}});
    Session b = using_prefix(tiny, {.documents = read});
    EXPECT_EQ(all_logits(a, tiny_tokens(20, 8)), all_logits(b, tiny_tokens(20, 8)));
}

/// A document in lists whose first layer lies.
void expect_lists_refused(const std::function<void(PrefixLayer&, std::vector<int32_t>&)>& lie,
                          const std::string& says) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(50, 2));
    const auto d = traced.document(60, PrefixStorage::kI8, false, -2, true);
    std::vector<PrefixLayer> layers = d->layers();
    GgufTensor& t = layers.front().list_start;
    const auto* from = reinterpret_cast<const int32_t*>(t.data.data());
    std::vector<int32_t> start(from, from + t.shape[0] * t.shape[1]);
    t.data = std::as_bytes(std::span(start));
    EXPECT_NO_THROW(PrefixDocument(d->header(), layers, d));
    lie(layers.front(), start);
    try {
        const PrefixDocument refused(d->header(), layers, d);
        FAIL() << says;
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
        EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
}

TEST(PrefixFile, ListsThatLieAreRefused) {
    const std::string uncovered = "do not cover";
    // A member past the last entry, before the first, and lists that go back or leave some out.
    expect_lists_refused([](auto& /*l*/, auto& start) { start[1] = 1 << 20; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { start[1] = -5; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { start[0] = 1; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { std::swap(start[1], start[2]); },
                         uncovered);
    expect_lists_refused(
        [](auto& l, auto& start) { start[size_t(l.list_start.shape[0]) - 1] -= 1; }, uncovered);
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_keys = {}; }, "half of its lists");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_start = {}; }, "list");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_start.shape[0] -= 1; }, "list");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_keys = l.list_start = {}; },
                         "not all layers");
}

TEST(PrefixFile, KeepsKeptEntries) {
    constexpr int64_t kKept = 7 + 8 + 9 + 7;
    for (const auto& [d_head, storage, type] :
         {std::tuple(16, PrefixStorage::kF16, GGML_TYPE_F16),
          {16, PrefixStorage::kI8, GGML_TYPE_F16},  // no whole block of q8_0
          {32, PrefixStorage::kI8, GGML_TYPE_Q8_0}}) {
        TinyModel tiny({.n_layer = 2, .d_head = d_head});
        Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, 7);
        traced.follow(tiny_tokens(30, 2));
        const auto d = traced.document(10, storage);
        const testing::TemporaryFile file(written(d), ".prefix.gguf");
        EXPECT_EQ(GgufFile::open(file.path()).integer("prefix.version"), 3);
        const auto read = read_prefixes(file.path());
        EXPECT_EQ(read.front()->kept(0, 0).type, type);
        EXPECT_EQ(read.front()->n_kept(0, 0), 7);
        EXPECT_EQ(read.front()->n_kept(1, 0), 9);
        EXPECT_EQ(read.front()->kept_positions(), d->kept_positions());
        EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
        Session a = using_prefix(tiny, {.documents = {d}});
        Session b = using_prefix(tiny, {.documents = read});
        EXPECT_EQ(all_logits(a, tiny_tokens(20, 8)), all_logits(b, tiny_tokens(20, 8)));
        // The rest is as it was without them, and so is its file's version.
        Traced all(tiny, layout_of(tiny));
        all.follow(tiny_tokens(30, 2));
        const auto plain = all.document(10, storage);
        EXPECT_EQ(d->held_bytes(),
                  plain->held_bytes() + prefix_kept_bytes(d->header().layout, 2, kKept, storage));
        const testing::TemporaryFile older(written(plain), ".prefix.gguf");
        EXPECT_EQ(GgufFile::open(older.path()).integer("prefix.version"), 1);
    }
}

TEST(PrefixFile, KeptEntriesThatLieAreRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, 7);
    traced.follow(tiny_tokens(30, 2));
    const auto d = traced.document(10);
    using Numbers = std::vector<int32_t>;
    const auto copied = [](GgufTensor& t) {
        const auto* first = reinterpret_cast<const int32_t*>(t.data.data());
        return Numbers(first, first + t.data.size() / sizeof(int32_t));
    };
    const auto refused = [&](const std::function<void(PrefixLayer&, Numbers&, Numbers&)>& lie,
                             const std::string& says) {
        std::vector<PrefixLayer> layers = d->layers();
        Numbers at = copied(layers[0].kept_at);
        Numbers start = copied(layers[0].kept_start);
        layers[0].kept_at.data = std::as_bytes(std::span(at));
        layers[0].kept_start.data = std::as_bytes(std::span(start));
        EXPECT_NO_THROW(PrefixDocument(d->header(), layers, d));
        lie(layers[0], at, start);
        try {
            const PrefixDocument made(d->header(), layers, d);
            ADD_FAILURE() << "not refused: " << says;
        } catch (const Error& e) {
            EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
        }
    };
    refused([](auto& /*l*/, auto& at, auto& /*start*/) { at[0] = -1; }, "no positions");
    refused([](auto& /*l*/, auto& at, auto& /*start*/) { at[6] = kPrefix; }, "no positions");
    refused([](auto& /*l*/, auto& at, auto& /*start*/) { std::swap(at[1], at[2]); },
            "no positions");
    refused([](auto& /*l*/, auto& /*at*/, auto& start) { start[0] = 1; }, "do not share");
    refused([](auto& /*l*/, auto& /*at*/, auto& start) { start[1] = start[2]; }, "do not share");
    refused([](auto& /*l*/, auto& /*at*/, auto& start) { start[1] = -7; }, "do not share");
    refused([](auto& /*l*/, auto& /*at*/, auto& start) { start[2] += 1; }, "do not share");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_k = {}; }, "a part of its kept");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_at = {}; }, "kept");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_start = {}; },
            "a part of its kept");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_start.shape[0] = 2; }, "kept");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_at.shape[0] = 6; }, "kept");
    refused([](auto& l, auto& /*at*/, auto& /*start*/) { l.kept_v.type = GGML_TYPE_Q8_0; }, "kept");
}

/// Layers with a window keep none; older programs are told so by the file's version.
TEST(PrefixFile, KeepsEntriesOfSomeLayers) {
    TinyModel tiny({.architecture = "gemma3", .n_layer = 4});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, 7);
    traced.follow(tiny_tokens(30, 2));
    const auto d = traced.document(10);
    EXPECT_TRUE(d->keeps_entries() && !d->keeps_in_all_layers());
    const testing::TemporaryFile file(written(d), ".prefix.gguf");
    EXPECT_EQ(GgufFile::open(file.path()).integer("prefix.version"), 4);
    const auto read = read_prefixes(file.path());
    EXPECT_EQ(read.front()->kept_positions(), d->kept_positions());
    EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
    EXPECT_EQ(read.front()->moved_bytes(), d->moved_bytes());
    Session a = using_prefix(tiny, {.documents = {d}});
    Session b = using_prefix(tiny, {.documents = read});
    EXPECT_EQ(all_logits(a, tiny_tokens(20, 8)), all_logits(b, tiny_tokens(20, 8)));
}

TEST(PrefixFile, PiecesThatKeepEntriesAreRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, 7);
    traced.follow(tiny_tokens(30, 2));
    const auto d = traced.document(10);
    PrefixHeader h = d->header();
    h.n_chunks = 2;
    h.chunks_end = kPrefix;
    try {
        const PrefixDocument made(h, d->layers(), d);
        FAIL() << "not refused";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("keeps entries of the whole"), std::string::npos)
            << e.what();
    }
}

TEST(PrefixFile, OneOfTheLostFormatIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, 7);
    traced.follow(tiny_tokens(30, 2));
    std::string bytes = written(traced.document(10));
    const std::string key = "prefix.version";
    const size_t at = bytes.find(key) + key.size() + sizeof(uint32_t);  // behind its type
    ASSERT_EQ(bytes[at], 3);
    bytes[at] = 2;
    const testing::TemporaryFile file(bytes, ".prefix.gguf");
    try {
        read_prefixes(file.path());
        FAIL() << "not refused";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
        EXPECT_NE(std::string(e.what()).find("build it anew"), std::string::npos) << e.what();
    }
}

TEST(PrefixFile, PiecesThatLieAreRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto whole = traced.document(10);
    const auto exact = traced.document(10, PrefixStorage::kF16, true);
    const auto made = [&](const PrefixDocument& d, int64_t n_chunks, int64_t end) {
        PrefixHeader h = d.header();
        h.n_chunks = n_chunks;
        h.chunks_end = end;
        return PrefixDocument(h, d.layers(), whole).n_positions();
    };
    EXPECT_EQ(made(*whole, 2, 40), 40);
    EXPECT_EQ(made(*whole, 1, 40), kPrefix);  // a whole one ends where it ends
    EXPECT_THROW(made(*whole, 0, 40), Error);
    EXPECT_THROW(made(*whole, 2, 0), Error);
    EXPECT_THROW(made(*whole, 2, int64_t{1} << 40), Error);
    EXPECT_THROW(made(*exact, 2, 40), Error);
}

TEST(PrefixFile, ADamagedFileIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const std::string whole = written(traced.document(10, PrefixStorage::kI8));
    const auto refused = [](const std::string& bytes) {
        const testing::TemporaryFile file(bytes, ".prefix.gguf");
        try {
            read_prefixes(file.path());
        } catch (const Error& e) {
            return e.code() == ErrorCode::kCorrupt || e.code() == ErrorCode::kUnsupported;
        }
        return false;
    };
    EXPECT_FALSE(refused(whole));
    for (size_t n = 64; n < whole.size(); n += whole.size() / 40) {
        EXPECT_TRUE(refused(whole.substr(0, whole.size() - n))) << "without the last " << n;
    }
    // Bytes that say nothing (padding, names that nobody looks for) may change; those that do not,
    // may not.
    int64_t passed = 0;
    int64_t tried = 0;
    for (size_t at = 0; at < whole.size(); at += 97) {
        std::string bytes = whole;
        bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
        ++tried;
        passed += refused(bytes) ? 0 : 1;
    }
    EXPECT_LT(passed * 20, tried);
}

TEST(PrefixFile, AnotherModelIsRefusedByName) {
    const testing::TemporaryFile one = testing::tiny_model_file({.seed = 1});
    const testing::TemporaryFile other = testing::tiny_model_file({.seed = 2});
    PrefixHeader h;
    h.name = "rules";
    const GgufFile file = GgufFile::open(one.path());
    set_hashes(h, file);
    EXPECT_NO_THROW(check_made_for(h, file));
    try {
        check_made_for(h, GgufFile::open(other.path()));
        FAIL() << "another model passed";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find("model, or its quantisation"), std::string::npos);
        EXPECT_NE(std::string(e.what()).find("rules"), std::string::npos);
    }
}

/// Everything that a memory depends on, and what a message calls it.
TEST(PrefixFile, WhateverChangesInTheModelIsNamed) {
    testing::GgufBuilder model = testing::tiny_llama(300);
    testing::add_bpe_vocabulary(model);
    const testing::TemporaryFile built_with(model.bytes(), ".gguf");
    PrefixHeader h;
    set_hashes(h, GgufFile::open(built_with.path()));
    const auto refusal = [&](const std::function<void(testing::GgufBuilder&)>& change) {
        testing::GgufBuilder other = model;
        change(other);
        const testing::TemporaryFile file(other.bytes(), ".gguf");
        try {
            check_made_for(h, GgufFile::open(file.path()));
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
            return std::string(e.what());
        }
        return std::string("nothing");
    };
    EXPECT_EQ(refusal([](auto& m) { m.set_text("general.author", "whoever"); }), "nothing");
    const auto names = [&](const std::string& what,
                           const std::function<void(testing::GgufBuilder&)>& change) {
        const std::string said = refusal(change);
        EXPECT_NE(said.find("and " + what), std::string::npos) << what << ": " << said;
    };
    names("the positions' rotation", [](auto& m) { m.set("llama.rope.freq_base", 5e5F); });
    names("the positions' rotation",
          [](auto& m) { m.set_text("llama.rope.scaling.type", "linear"); });
    names("the tokenizer", [](auto& m) { m.set_text("tokenizer.ggml.pre", "qwen2"); });
    names("the tokenizer", [](auto& m) { m.set_texts("tokenizer.ggml.merges", {"a b"}); });
    names("the chat template", [](auto& m) { m.set_text("tokenizer.chat_template", "{{ x }}"); });
    // The same numbers in another type.
    names("the model, or its quantisation", [](auto& m) {
        testing::TensorField& t = m.tensor("token_embd.weight");
        std::string half(t.data.size() / 2, '\0');
        ggml_fp32_to_fp16_row(reinterpret_cast<const float*>(t.data.data()),
                              reinterpret_cast<ggml_fp16_t*>(half.data()),
                              static_cast<int64_t>(half.size() / 2));
        t.type = GGML_TYPE_F16;
        t.data = half;
    });
}

}  // namespace
}  // namespace palimpsest
