#include "compress/compression_form.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostRatio = 1024, kMostWindow = 1 << 20, kMostWidth = 1 << 20, kMostLayers = 64;
constexpr int64_t kVersion = 1;

constexpr std::array<std::pair<std::string_view, Pooling>, 3> kPoolings = {
    {{"mean", Pooling::kMean}, {"concat", Pooling::kConcat}, {"eos", Pooling::kEos}}};
constexpr std::array<std::pair<std::string_view, AdapterKind>, 3> kKinds = {
    {{"mlp", AdapterKind::kMlp},
     {"attn_mlp", AdapterKind::kAttentionMlp},
     {"mlp_attn", AdapterKind::kMlpAttention}}};
constexpr std::array<std::pair<std::string_view, bool>, 2> kMasks = {
    {{"causal", false}, {"bidirectional", true}}};

template <typename Table>
auto named(const Table& table, std::string_view what, std::string_view name) {
    std::string names;
    for (const auto& [known, value] : table) {
        if (known == name) return value;
        names += cat(names.empty() ? "" : ", ", known);
    }
    throw Error(ErrorCode::kUnsupported, cat(what, " '", name, "'; there are: ", names));
}

template <typename Table, typename Value>
std::string_view name_of(const Table& table, Value value) {
    return std::ranges::find(table, value, [](const auto& line) { return line.second; })->first;
}

/// The `lclm.` keys of a file.
class Keys {
 public:
    explicit Keys(const GgufFile& file) : file_(file) {}

    [[nodiscard]] int64_t count(std::string_view key, int64_t least, int64_t most) const {
        const auto value = file_.integer(whole(key));
        if (!value) missing(key);
        if (*value < least || *value > most) {
            throw Error(ErrorCode::kCorrupt,
                        cat("'", whole(key), "' is ", *value, "; it can be ", least, " to ", most));
        }
        return *value;
    }
    [[nodiscard]] TokenId token_or_none(std::string_view key) const {
        constexpr int64_t kMost = std::numeric_limits<TokenId>::max();
        return file_.has(whole(key)) ? static_cast<TokenId>(count(key, 0, kMost)) : -1;
    }
    [[nodiscard]] std::string_view text(std::string_view key) const {
        const auto value = file_.text(whole(key));
        if (!value) missing(key);
        return *value;
    }

 private:
    static std::string whole(std::string_view key) { return cat("lclm.", key); }
    [[noreturn]] static void missing(std::string_view key) {
        throw Error(ErrorCode::kNotFound, cat("it has no key '", whole(key), "'"));
    }
    const GgufFile& file_;
};

}  // namespace

std::string_view to_string(Pooling pooling) { return name_of(kPoolings, pooling); }
std::string_view to_string(AdapterKind kind) { return name_of(kKinds, kind); }
Pooling pooling_named(std::string_view name) { return named(kPoolings, "pooling", name); }
AdapterKind adapter_kind_named(std::string_view name) {
    return named(kKinds, "an adapter of type", name);
}
bool is_bidirectional_named(std::string_view name) { return named(kMasks, "a mask", name); }

void check_compression_form(const CompressionForm& f) {
    const auto need = [](bool ok, const auto&... what) {
        if (!ok) throw Error(ErrorCode::kCorrupt, cat(what...));
    };
    need(f.window % f.ratio == 0, "a window of ", f.window, " tokens is no multiple of the ratio, ",
         f.ratio);
    need((f.adapter == AdapterKind::kMlp) == (f.n_adapter_layers == 0), "an adapter of type ",
         to_string(f.adapter), " with ", f.n_adapter_layers, " layers that attend");
    need(f.pooling != Pooling::kConcat || f.adapter != AdapterKind::kAttentionMlp,
         "groups laid end to end are wider than the encoder's layers, which the adapter has too");
    need(f.pooling != Pooling::kEos || f.marker >= 0,
         "pooling by marker tokens ('eos') needs the key 'lclm.token.marker'");
    need((f.start >= 0) == (f.end >= 0), "one of the tags is a token, and the other is not");
}

CompressionForm read_compression_form(const GgufFile& file) {
    const Keys keys(file);
    if (const int64_t version = keys.count("version", 0, 1 << 20); version != kVersion) {
        throw Error(ErrorCode::kUnsupported,
                    cat("an adapter of version ", version, "; this program reads ", kVersion));
    }
    CompressionForm f = {.ratio = keys.count("compression_ratio", 1, kMostRatio),
                         .window = keys.count("window", 1, kMostWindow),
                         .overlap = keys.count("overlap", 0, kMostWindow),
                         .pooling = pooling_named(keys.text("pooling")),
                         .is_bidirectional = is_bidirectional_named(keys.text("mask")),
                         .adapter = adapter_kind_named(keys.text("adapter_type")),
                         .n_adapter_layers = keys.count("adapter_layers", 0, kMostLayers),
                         .encoder_width = keys.count("encoder_dim", 1, kMostWidth),
                         .decoder_width = keys.count("decoder_dim", 1, kMostWidth),
                         .start = keys.token_or_none("token.start"),
                         .end = keys.token_or_none("token.end"),
                         .slot = keys.token_or_none("token.slot"),
                         .marker = keys.token_or_none("token.marker")};
    check_compression_form(f);
    return f;
}

void describe(const CompressionForm& f, GgufWriter& to) {
    const auto set = [&to](const char* key, int64_t value) {
        to.set_count(cat("lclm.", key), static_cast<uint32_t>(value));
    };
    const auto set_token = [&set](const char* key, TokenId token) {
        if (token >= 0) set(key, token);
    };
    set("version", kVersion);
    set("compression_ratio", f.ratio);
    set("window", f.window);
    set("overlap", f.overlap);
    set("adapter_layers", f.n_adapter_layers);
    set("encoder_dim", f.encoder_width);
    set("decoder_dim", f.decoder_width);
    set_token("token.start", f.start);
    set_token("token.end", f.end);
    set_token("token.slot", f.slot);
    set_token("token.marker", f.marker);
    to.set_text("lclm.pooling", to_string(f.pooling));
    to.set_text("lclm.mask", name_of(kMasks, f.is_bidirectional));
    to.set_text("lclm.adapter_type", to_string(f.adapter));
}

int64_t count_latents(const CompressionForm& form, int64_t n_tokens) {
    // Windows are whole numbers of groups, so only the last group can be short.
    return (n_tokens + form.ratio - 1) / form.ratio;
}

std::vector<EncoderWindow> windows_of(const CompressionForm& form, int64_t n_tokens) {
    std::vector<EncoderWindow> all;
    for (int64_t begin = 0; begin < n_tokens; begin += form.window) {
        const int64_t end = std::min(begin + form.window, n_tokens);
        const int64_t first = std::max<int64_t>(0, begin - form.overlap);
        const int64_t last = form.is_bidirectional ? std::min(end + form.overlap, n_tokens) : end;
        all.push_back({.first = first,
                       .n_tokens = last - first,
                       .pool_begin = begin - first,
                       .n_pooled = end - begin,
                       .n_latents = count_latents(form, end - begin)});
    }
    return all;
}

std::vector<int32_t> latent_lengths(const CompressionForm& form, int64_t n_tokens) {
    std::vector<int32_t> lengths(static_cast<size_t>(count_latents(form, n_tokens)),
                                 static_cast<int32_t>(form.ratio));
    const int64_t rest = n_tokens % form.ratio;
    if (rest > 0) lengths.back() = static_cast<int32_t>(rest);
    return lengths;
}

}  // namespace palimpsest
