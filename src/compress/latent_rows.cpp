#include "compress/latent_rows.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include "core/digest.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/finite.h"
#include "core/sealed_file.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".latents";

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

}  // namespace

// ---- LatentCache --------------------------------------------------------------------------------

LatentCache::LatentCache(std::string folder, const LatentEncoder& encoder)
    : folder_(std::move(folder)),
      maker_(cat(model_fingerprint(encoder.model().file()), "-",
                 model_fingerprint(encoder.adapter().file()), "-", encoder.model().reading().name)),
      row_bytes_(static_cast<size_t>(encoder.form().decoder_width) * sizeof(float)) {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) {
        throw Error(ErrorCode::kUnwritable,
                    cat("cannot make the folder '", folder_, "': ", error.message()));
    }
    make_room();
}

/// Removes the oldest ones. Whoever cannot be looked at or removed stays.
void LatentCache::make_room() const {
    struct Kept {
        fs::path path;
        fs::file_time_type when;
        size_t bytes;
    };
    std::vector<Kept> all;
    size_t total = 0;
    std::error_code error;
    for (const fs::directory_entry& e : fs::directory_iterator(folder_, error)) {
        if (e.path().extension() != kSuffix) continue;
        const auto when = e.last_write_time(error);
        const auto bytes = error ? 0 : e.file_size(error);
        if (error) continue;
        all.push_back({e.path(), when, bytes});
        total += bytes;
    }
    std::ranges::sort(all, {}, &Kept::when);
    for (auto at = all.begin(); at != all.end() && total > kMostBytes; ++at) {
        if (fs::remove(at->path, error)) total -= at->bytes;
    }
}

std::string LatentCache::key_of(std::span<const TokenId> region, const EncoderWindow& w) const {
    Digest digest;
    digest.add(maker_);
    digest.add(bytes_of(w.pool_begin));
    digest.add(bytes_of(w.n_pooled));
    digest.add(std::as_bytes(
        region.subspan(static_cast<size_t>(w.first), static_cast<size_t>(w.n_tokens))));
    return digest.hex();
}

std::string LatentCache::path_of(const std::string& key) const {
    return (fs::path(folder_) / cat(key, kSuffix)).string();
}

std::vector<float> LatentCache::find(const std::string& key) {
    std::optional<std::string> content;
    try {
        content = read_sealed(path_of(key));
    } catch (const Error&) {
        return {};  // it is damaged, and will be made anew
    }
    if (!content || content->empty() || content->size() % row_bytes_ != 0) return {};
    std::vector<float> latents(content->size() / sizeof(float));
    std::memcpy(latents.data(), content->data(), content->size());
    if (!is_finite(latents)) return {};
    bytes_ += content->size();
    return latents;
}

void LatentCache::keep(const std::string& key, std::span<const float> latents) {
    const auto bytes = std::as_bytes(latents);
    write_sealed(path_of(key), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    bytes_ += bytes.size();
}

// ---- LatentRows ---------------------------------------------------------------------------------

LatentRows::LatentRows(LatentEncoder& encoder, LatentCache* cache, LatentWork& work,
                       std::vector<TokenId> region)
    : encoder_(encoder),
      cache_(encoder.form().n_adapter_layers == 0 ? cache : nullptr),
      work_(work),
      region_(std::move(region)),
      windows_(windows_of(encoder.form(), std::ssize(region_))) {}

int64_t LatentRows::n_rows() const { return count_latents(encoder_.form(), std::ssize(region_)); }

std::span<const float> LatentRows::rows(int64_t from, int64_t n) {
    check(from >= first_ && from + n <= n_rows(), "rows of latents are read in order");
    const int64_t width = encoder_.form().decoder_width;
    while (first_ + std::ssize(ready_) / width < from + n) encode_more();
    // What was read goes, now and then, so that rows stay together.
    if (const int64_t gone = from - first_; gone > 0) {
        ready_.erase(ready_.begin(), ready_.begin() + gone * width);
        first_ = from;
    }
    return std::span(ready_).first(static_cast<size_t>(n * width));
}

bool LatentRows::take_from_cache() {
    if (cache_ == nullptr) return false;
    const EncoderWindow& w = windows_[next_];
    const std::vector<float> found = cache_->find(cache_->key_of(region_, w));
    if (std::ssize(found) != w.n_latents * encoder_.form().decoder_width) return false;
    ready_.insert(ready_.end(), found.begin(), found.end());
    work_.tokens_found += w.n_pooled;
    work_.latents += w.n_latents;
    ++next_;
    return true;
}

void LatentRows::encode_more() {
    using Clock = std::chrono::steady_clock;
    if (take_from_cache()) return;
    const auto start = Clock::now();
    auto windows = std::span<const EncoderWindow>(windows_).subspan(next_);
    if (encoder_.form().n_adapter_layers == 0) {
        windows = windows.first(encoder_.how_many_at_once(windows));
    }
    const std::vector<float> latents = encoder_.adapt(encoder_.pool(region_, windows));
    work_.encoding_s += std::chrono::duration<double>(Clock::now() - start).count();
    auto rest = std::span<const float>(latents);
    for (const EncoderWindow& w : windows) {
        const auto own =
            rest.first(static_cast<size_t>(w.n_latents * encoder_.form().decoder_width));
        rest = rest.subspan(own.size());
        work_.tokens_encoded += w.n_pooled;
        work_.latents += w.n_latents;
        if (cache_ != nullptr) cache_->keep(cache_->key_of(region_, w), own);
    }
    ready_.insert(ready_.end(), latents.begin(), latents.end());
    next_ += windows.size();
}

}  // namespace palimpsest
