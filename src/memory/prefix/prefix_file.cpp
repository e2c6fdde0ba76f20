// The `.prefix.gguf` file; docs/formats.md describes it.

#include "memory/prefix/prefix_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/digest.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/gguf_writer.h"

namespace palimpsest {

namespace {

// 1: no kept entries; 3: some in every layer; 4: in some layers. Each file is of the oldest that
// can say what it holds.
constexpr int64_t kVersion = 4;
constexpr int64_t kLostVersion = 2;  // kept entries in another layout; for a day
constexpr int64_t kMostDocuments = 1024;

[[noreturn]] void corrupt(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, cat("the prefix memory is damaged: ", what));
}

/// Calls `text`, `later_text`, `integer`, `number` or `flag` for every value of a header: one list
/// for writing, reading and the check sum.
template <class Header, class Visitor>
void for_values(Header& h, Visitor& v) {
    v.text("name", h.name);
    v.text("text", h.text);
    v.flag("raw", h.is_raw);
    v.text("model_name", h.model_name);
    v.text("hash.model", h.model);
    v.text("hash.tokenizer", h.tokenizer);
    v.text("hash.chat_template", h.chat_template);
    v.text("hash.rotation", h.rotation);
    v.integer("layers", h.n_layer);
    v.integer("heads", h.layout.n_head);
    v.integer("kv_heads", h.layout.n_head_kv);
    v.integer("head_size", h.layout.d_head);
    v.integer("heads_per_key", h.layout.heads_per_key);
    v.flag("shared", h.layout.is_shared);
    v.flag("whitened", h.is_whitened);
    v.integer("entries", h.k);
    v.integer("seed", h.seed);
    v.integer("traces", h.n_traces);
    v.integer("trace_tokens", h.n_trace_tokens);
    v.integer("held_out", h.n_held_out);
    v.later_text("aggregation", h.aggregation);
    v.later_text("kept_by", h.kept_by);
    v.integer("chunks", h.n_chunks);
    if (h.n_chunks > 1) {
        v.integer("chunks_end", h.chunks_end);
        v.flag("verified.against_pieces", h.is_against_pieces);
    }
    v.number("verified.e_out", h.e_out);
    v.number("verified.e_out_worst_layer", h.e_out_worst);
    v.number("verified.e_out_answer", h.e_out_answer);
    v.number("verified.agreement", h.agreement);
    v.number("verified.divergence", h.divergence);
}

struct Writing {
    GgufWriter& to;
    std::string prefix;

    void text(const char* key, const std::string& x) const { to.set_text(prefix + key, x); }
    void later_text(const char* key, const std::string& x) const {
        if (!x.empty()) text(key, x);
    }
    void integer(const char* key, int64_t x) const { to.set_integer(prefix + key, x); }
    void number(const char* key, float x) const { to.set_number(prefix + key, x); }
    void flag(const char* key, bool x) const { to.set_boolean(prefix + key, x); }
};

struct Reading {
    const GgufFile& from;
    std::string prefix;

    template <typename T>
    T needed(const char* key, const std::optional<T>& x) const {
        if (!x) corrupt(cat("it has no '", prefix, key, "'"));
        return *x;
    }
    void text(const char* key, std::string& x) const { x = needed(key, from.text(prefix + key)); }
    void later_text(const char* key, std::string& x) const {
        x = std::string(from.text(prefix + key).value_or(""));
    }
    void integer(const char* key, int64_t& x) const { x = needed(key, from.integer(prefix + key)); }
    void number(const char* key, float& x) const {
        x = static_cast<float>(needed(key, from.number(prefix + key)));
    }
    void flag(const char* key, bool& x) const { x = needed(key, from.boolean(prefix + key)); }
};

struct Summing {
    Digest& to;

    void text(const char* key, const std::string& x) const {
        to.add(key);
        to.add(x);
    }
    void later_text(const char* key, const std::string& x) const {
        if (!x.empty()) text(key, x);
    }
    void integer(const char* key, int64_t x) const { text(key, std::to_string(x)); }
    void number(const char* key, float x) const {
        to.add(key);
        to.add(std::as_bytes(std::span(&x, 1)));
    }
    void flag(const char* key, bool x) const { integer(key, x ? 1 : 0); }
};

std::string digest_of(const PrefixDocument& d) {
    Digest sum;
    const Summing visitor = {sum};
    for_values(d.header(), visitor);
    sum.add(to_string(d.header().keys));
    sum.add(std::as_bytes(std::span(d.header().tokens)));
    const std::vector<float>& errors = d.header().layer_errors;
    if (!errors.empty()) sum.add(std::as_bytes(std::span(errors)));
    for (PrefixLayer l : d.layers()) {
        for (const PrefixPart& part : parts_of(l, d.header())) {
            // These came later: what has none keeps the sum that it had.
            const bool is_later = part.name.starts_with("list_") || part.name.starts_with("kept_");
            if (part.tensor->data.empty() && is_later) continue;
            sum.add(part.name);
            sum.add(part.tensor->data);
        }
    }
    return sum.hex();
}

std::string part_name(int64_t document, int64_t layer, std::string_view part) {
    return cat("prefix.", document, ".blk.", layer, ".", part);
}

void write(GgufWriter& to, const PrefixDocument& d, int64_t i) {
    const std::string prefix = cat("prefix.", i, ".");
    const Writing visitor = {to, prefix};
    for_values(d.header(), visitor);
    to.set_text(prefix + "key", to_string(d.header().keys));
    to.set_text(prefix + "check_sum", digest_of(d));
    const std::string tokens = prefix + "tokens";
    to.add_copy({.name = tokens,
                 .type = GGML_TYPE_I32,
                 .shape = {d.n_tokens(), 1, 1, 1},
                 .data = std::as_bytes(std::span(d.header().tokens))});
    const std::string errors = prefix + "layer_errors";
    if (!d.header().layer_errors.empty()) {
        to.add_copy({.name = errors,
                     .type = GGML_TYPE_F32,
                     .shape = {4, d.header().n_layer, 1, 1},
                     .data = std::as_bytes(std::span(d.header().layer_errors))});
    }
    for (int64_t n = 0; n < d.header().n_layer; ++n) {
        PrefixLayer l = d.layers()[static_cast<size_t>(n)];
        for (const PrefixPart& part : parts_of(l, d.header())) {
            if (part.tensor->data.empty()) continue;
            const std::string name = part_name(i, n, part.name);
            GgufTensor t = *part.tensor;
            t.name = name;
            to.add_copy(t);
        }
    }
}

std::shared_ptr<const PrefixDocument> read(const std::shared_ptr<const GgufFile>& file, int64_t i) {
    const std::string prefix = cat("prefix.", i, ".");
    PrefixHeader h;
    const Reading visitor = {*file, prefix};
    for_values(h, visitor);
    std::string keys;
    visitor.text("key", keys);
    if (keys != "pre" && keys != "post") corrupt(cat("its keys are '", keys, "'"));
    h.keys = keys == "pre" ? PrefixKeys::kPre : PrefixKeys::kPost;
    const GgufTensor* tokens = file->find_tensor(prefix + "tokens");
    if (tokens == nullptr || tokens->type != GGML_TYPE_I32) corrupt("it has no tokens");
    h.tokens.resize(tokens->data.size() / sizeof(TokenId));
    std::memcpy(h.tokens.data(), tokens->data.data(), h.tokens.size() * sizeof(TokenId));
    if (const GgufTensor* errors = file->find_tensor(prefix + "layer_errors")) {
        if (errors->type != GGML_TYPE_F32) corrupt("its layers' errors are no numbers");
        h.layer_errors.resize(errors->data.size() / sizeof(float));
        std::memcpy(h.layer_errors.data(), errors->data.data(), errors->data.size());
    }
    if (h.n_layer < 1 || h.n_layer > 4096) corrupt(cat("it has ", h.n_layer, " layers"));
    std::vector<PrefixLayer> layers(static_cast<size_t>(h.n_layer));
    for (int64_t n = 0; n < h.n_layer; ++n) {
        for (const PrefixPart& part : parts_of(layers[static_cast<size_t>(n)], h)) {
            const GgufTensor* t = file->find_tensor(part_name(i, n, part.name));
            if (t != nullptr) *part.tensor = *t;
        }
    }
    auto d = std::make_shared<const PrefixDocument>(h, std::move(layers), file);
    std::string sum;
    visitor.text("check_sum", sum);
    if (sum != digest_of(*d)) {
        corrupt("its check sum is wrong; copy the file anew, or build it again");
    }
    // Only the gate reads these again, if it does at all.
    if (const MappedFile* mapping = file->mapping()) {
        for (const PrefixLayer& l : d->layers()) {
            for (const GgufTensor* t : {&l.exact_k, &l.exact_v}) {
                if (!t->data.empty()) mapping->forget(t->data);
            }
        }
    }
    return d;
}

/// A hash of the values of keys, absent ones included.
std::string hash_of(const GgufFile& file, std::span<const std::string> keys) {
    Digest sum;
    for (const std::string& key : keys) {
        sum.add(key);
        const GgufValue* value = file.find(key);
        if (value != nullptr) sum.add(value->bytes);
    }
    return sum.hex();
}

}  // namespace

void write_prefixes(const std::string& path,
                    std::span<const std::shared_ptr<const PrefixDocument>> documents) {
    require(!documents.empty(), "no prefix memory is left to write");
    GgufWriter to;
    to.set_text("general.architecture", "palimpsest-prefix");
    int64_t version = 1;
    for (const auto& d : documents) {
        if (d->keeps_entries())
            version = std::max(version, d->keeps_in_all_layers() ? 3 : kVersion);
    }
    to.set_integer("prefix.version", version);
    to.set_integer("prefix.count", std::ssize(documents));
    for (int64_t i = 0; i < std::ssize(documents); ++i) {
        write(to, *documents[static_cast<size_t>(i)], i);
    }
    to.write(path);
}

std::vector<std::shared_ptr<const PrefixDocument>> read_prefixes(const std::string& path) {
    const auto file = std::make_shared<const GgufFile>(GgufFile::open(path));
    if (file->text("general.architecture") != "palimpsest-prefix") {
        throw Error(ErrorCode::kUnsupported,
                    cat("'", path, "' is no prefix memory; 'palimpsest prefix build' makes one"));
    }
    const int64_t version = file->integer("prefix.version").value_or(0);
    if (version < 1 || version > kVersion || version == kLostVersion) {
        throw Error(ErrorCode::kUnsupported, cat("'", path, "' is of format ", version,
                                                 "; this program reads formats 1, 3 and ", kVersion,
                                                 version == kLostVersion ? "; build it anew" : ""));
    }
    const int64_t n = file->integer("prefix.count").value_or(0);
    if (n < 1 || n > kMostDocuments) corrupt(cat("it has ", n, " documents"));
    std::vector<std::shared_ptr<const PrefixDocument>> documents;
    for (int64_t i = 0; i < n; ++i) documents.push_back(read(file, i));
    return documents;
}

void set_hashes(PrefixHeader& h, const GgufFile& model) {
    const std::string arch(model.text("general.architecture").value_or(""));
    h.model_name = std::string(model.text("general.name").value_or(arch));
    h.model = model_fingerprint(model);
    const std::array<std::string, 10> tokenizer = {
        "tokenizer.ggml.model",         "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",        "tokenizer.ggml.token_type",
        "tokenizer.ggml.bos_token_id",  "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"};
    h.tokenizer = hash_of(model, tokenizer);
    const std::array<std::string, 1> chat = {"tokenizer.chat_template"};
    h.chat_template = hash_of(model, chat);
    std::vector<std::string> rotation;
    for (const char* key :
         {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scaling.type",
          "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length",
          "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
          "attention.sliding_window"}) {
        rotation.push_back(cat(arch, ".", key));
    }
    // These came later: a model without them keeps the hash that it had.
    for (const char* key : {"attention.sliding_window_pattern", "final_logit_softcapping"}) {
        if (model.has(cat(arch, ".", key))) rotation.push_back(cat(arch, ".", key));
    }
    h.rotation = hash_of(model, rotation);
}

void check_made_for(const PrefixHeader& header, const GgufFile& model) {
    PrefixHeader wanted;
    set_hashes(wanted, model);
    struct Compared {
        const char* what;
        const std::string &had, &has;
    };
    const std::array<Compared, 4> all = {{
        {"the positions' rotation", header.rotation, wanted.rotation},
        {"the tokenizer", header.tokenizer, wanted.tokenizer},
        {"the chat template", header.chat_template, wanted.chat_template},
        {"the model, or its quantisation,", header.model, wanted.model},
    }};
    for (const Compared& c : all) {
        require(c.had == c.has, "the prefix memory '", header.name, "' was built with '",
                header.model_name, "', and ", c.what, " is another one here (", c.had, ", now ",
                c.has, "); use the model it was built with, or build it again");
    }
}

PrefixDocuments read_prefixes_for(const GgufFile& model, std::span<const std::string> paths) {
    PrefixDocuments all;
    for (const std::string& path : paths) {
        for (auto& d : read_prefixes(path)) {
            check_made_for(d->header(), model);
            all.push_back(std::move(d));
        }
    }
    require_one_kind(all);
    return all;
}

void require_one_kind(const PrefixDocuments& documents) {
    for (const auto& d : documents) {
        require(d->header().is_raw == documents.front()->header().is_raw,
                "prefix memories for chats and raw ones cannot be used together");
    }
}

}  // namespace palimpsest
