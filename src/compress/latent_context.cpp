#include "palimpsest/latent_context.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "compress/latent_encoder.h"
#include "compress/latent_regions.h"
#include "compress/latent_rows.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/sha256.h"
#include "engine/runtime.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

/// Of the file itself, if it is an adapter; nullopt if it is another GGUF file.
std::optional<int64_t> ratio_of(const fs::path& path) {
    try {
        const GgufFile file = GgufFile::open(path.string());
        if (file.text("general.architecture") != "lclm") return std::nullopt;
        return read_compression_form(file).ratio;
    } catch (const Error&) {
        return std::nullopt;  // whoever names it hears why
    }
}

/// The one adapter of a folder that has the ratio; 0: of any.
std::string adapter_in(const std::string& folder, int64_t ratio) {
    std::vector<std::pair<int64_t, std::string>> found;
    std::error_code error;
    for (const fs::directory_entry& e : fs::directory_iterator(folder, error)) {
        if (e.path().extension() != ".gguf") continue;
        if (const auto own = ratio_of(e.path())) found.emplace_back(*own, e.path().string());
    }
    std::ranges::sort(found);
    std::string list;
    for (const auto& [own, path] : found) {
        list += cat(list.empty() ? "" : ", ", fs::path(path).filename().string(), " (", own, "x)");
    }
    if (ratio != 0) std::erase_if(found, [ratio](const auto& f) { return f.first != ratio; });
    if (found.size() == 1) return found.front().second;
    throw Error(found.empty() ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument,
                cat("'", folder, "' has ", list.empty() ? "no adapter of latent context" : list,
                    list.empty()    ? ""
                    : found.empty() ? cat(", none of ratio ", ratio)
                    : ratio == 0    ? "; choose one by its ratio (flag --latent-ratio)"
                                    : "; name the file"));
}

std::string find_adapter(const LatentOptions& o) {
    require(!o.adapter.empty(), "latent context needs an adapter file");
    std::error_code error;
    if (fs::is_directory(o.adapter, error)) return adapter_in(o.adapter, o.ratio);
    return o.adapter;
}

std::string find_encoder(const LatentOptions& o, const std::string& adapter) {
    if (!o.encoder.empty()) return o.encoder;
    std::string beside = (fs::path(adapter).parent_path() / "encoder.gguf").string();
    std::error_code error;
    if (fs::exists(beside, error)) return beside;
    throw Error(ErrorCode::kNotFound, cat("there is no 'encoder.gguf' beside '", adapter,
                                          "'; name the encoder (flag --encoder)"));
}

/// A model that an adapter was not made for gives answers that make no sense. Its fingerprint is
/// looked at if the adapter has one, else the whole file's SHA-256, which takes longer.
void check_made_for(const LatentAdapter& adapter, std::string_view part, const LoadedModel& model) {
    const GgufFile& file = adapter.file();
    const auto refuse = [&](const std::string& wanted, const std::string& found) {
        require(wanted == found, "the adapter '", adapter.path(), "' was made for another ", part,
                " than '", model.path(), "' (", wanted.substr(0, 16), ", not ", found.substr(0, 16),
                "); name the one that was converted with it");
    };
    if (const auto print = file.text(cat("lclm.", part, ".fingerprint"))) {
        refuse(std::string(*print), model_fingerprint(model.file()));
    } else if (const auto sum = file.text(cat("lclm.", part, ".sha256"))) {
        refuse(std::string(*sum), sha256_of_file(model.path()));
    }
}

void check_decoder(const LatentAdapter& adapter, const LoadedModel& decoder) {
    const CompressionForm& f = adapter.form();
    const ModelConfig& c = decoder.config();
    require(c.n_embd == f.decoder_width, "the adapter '", adapter.path(),
            "' is for a decoder of width ", f.decoder_width, ", and '", decoder.path(), "' has ",
            c.n_embd);
    const TokenId most = std::max({f.start, f.end, f.slot});
    require(most < c.n_vocab, "the adapter '", adapter.path(), "' has tags up to token ", most,
            ", and '", decoder.path(), "' has ", c.n_vocab, " tokens");
}

/// Are the encoder's tokens the decoder's first ones?
bool shares_vocabulary(const GgufFile& encoder, const GgufFile& decoder) {
    const auto some = encoder.texts("tokenizer.ggml.tokens");
    const auto all = decoder.texts("tokenizer.ggml.tokens");
    if (!some || !all || some->size() > all->size()) return false;
    return std::equal(some->begin(), some->end(), all->begin());
}

}  // namespace

struct LatentContext::Parts {
    LatentAdapter adapter;
    LoadedModel model;
    LatentEncoder encoder;
    std::optional<LatentCache> cache;
    LatentWork work;
    bool shares_tokens;

    Parts(const Runtime& runtime, const LatentOptions& o)
        : adapter(find_adapter(o), runtime.backend()),
          model(find_encoder(o, adapter.path()), runtime.backend(),
                runtime.loaded().products().reading_asked()),
          encoder(model, adapter, runtime.backend()),
          shares_tokens(shares_vocabulary(model.file(), runtime.loaded().file())) {
        require(o.ratio == 0 || o.ratio == adapter.form().ratio, "'", adapter.path(), "' turns ",
                adapter.form().ratio, " tokens into one, not ", o.ratio);
        check_decoder(adapter, runtime.loaded());
        check_made_for(adapter, "encoder", model);
        check_made_for(adapter, "decoder", runtime.loaded());
        if (!o.cache.empty()) cache.emplace(o.cache, encoder);
    }
};

LatentContext::LatentContext(const Engine& engine, const LatentOptions& options)
    : LatentContext(engine.runtime(), options) {}
LatentContext::LatentContext(const Runtime& runtime, const LatentOptions& options)
    : parts_(std::make_shared<Parts>(runtime, options)) {}
LatentContext::~LatentContext() = default;
LatentContext::LatentContext(LatentContext&&) noexcept = default;
LatentContext& LatentContext::operator=(LatentContext&&) noexcept = default;

std::shared_ptr<const Regions> LatentContext::regions() const { return latent_regions(true); }

std::shared_ptr<const LatentRegions> LatentContext::latent_regions(bool on_lines) const {
    Parts& p = *parts_;
    const LatentMaker maker = {.encoder = p.encoder,
                               .cache = p.cache ? &*p.cache : nullptr,
                               .work = p.work,
                               .shares_tokens = p.shares_tokens};
    return std::make_shared<LatentRegions>(parts_, maker, on_lines);
}

int64_t LatentContext::ratio() const { return parts_->adapter.form().ratio; }
const std::string& LatentContext::adapter_path() const { return parts_->adapter.path(); }
const std::string& LatentContext::encoder_path() const { return parts_->model.path(); }

LatentContext::Usage LatentContext::usage() const {
    return {.tokens_encoded = parts_->work.tokens_encoded,
            .tokens_found = parts_->work.tokens_found,
            .latents = parts_->work.latents,
            .encoding_s = parts_->work.encoding_s,
            .encoder_bytes = parts_->encoder.peak_bytes(),
            .cache_bytes = parts_->cache ? parts_->cache->bytes() : 0};
}

}  // namespace palimpsest
