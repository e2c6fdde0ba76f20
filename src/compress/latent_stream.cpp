#include "compress/latent_stream.h"

#include <algorithm>

#include "memory/cache/memories.h"

namespace palimpsest {

LatentStream::LatentStream(LatentEncoder& encoder) : encoder_(encoder) {
    if (!form().is_final_at_group()) return;
    const LoadedModel& model = encoder_.model();
    const KvCacheOptions options = {.n_ctx = form().window + form().overlap,
                                    .entries = GGML_TYPE_F32};
    session_ = std::make_unique<Session>(model.model(), encoder_.backend(),
                                         make_memory("kv", {.backend = encoder_.backend(),
                                                            .shape = model.config().memory_shape(),
                                                            .cache = options}));
}

std::vector<float> LatentStream::add(std::span<const TokenId> tokens) {
    if (session_ != nullptr) return add_to_groups(tokens);
    held_.insert(held_.end(), tokens.begin(), tokens.end());
    return take_windows();
}

std::vector<float> LatentStream::rest() {
    if (session_ != nullptr) return take_groups(true);
    // What is held is a region's end: its last windows, and before them what they overlap.
    std::vector<float> pooled = waiting_;
    if (std::ssize(held_) > n_before_) {
        std::vector<EncoderWindow> windows = windows_of(form(), std::ssize(held_) - n_before_);
        for (EncoderWindow& w : windows) {
            const int64_t more = std::min(n_before_, form().overlap - w.pool_begin);
            w.first += n_before_ - more;
            w.n_tokens += more;
            w.pool_begin += more;
        }
        const std::vector<float> last = encoder_.pool(held_, windows);
        pooled.insert(pooled.end(), last.begin(), last.end());
    }
    return encoder_.adapt(pooled);
}

// ---- group by group -----------------------------------------------------------------------------

void LatentStream::read(std::span<const TokenId> tokens, bool pools) {
    if (tokens.empty()) return;
    FeedHooks hooks;
    if (pools) {
        hooks.on_hidden = [this](int64_t, std::span<const float> state) {
            states_.insert(states_.end(), state.begin(), state.end());
        };
    }
    session_->feed(std::vector<TokenId>(tokens.begin(), tokens.end()), hooks);
}

void LatentStream::begin_window() {
    session_->reset();
    n_in_window_ = 0;
    read(before_, false);
}

std::vector<float> LatentStream::add_to_groups(std::span<const TokenId> tokens) {
    std::vector<float> latents;
    while (!tokens.empty()) {
        if (n_in_window_ == form().window) begin_window();
        const int64_t n = std::min(form().window - n_in_window_, std::ssize(tokens));
        const auto part = tokens.first(static_cast<size_t>(n));
        read(part, true);
        n_in_window_ += n;
        before_.insert(before_.end(), part.begin(), part.end());
        if (const int64_t past = std::ssize(before_) - form().overlap; past > 0) {
            before_.erase(before_.begin(), before_.begin() + past);
        }
        const std::vector<float> ready = take_groups(false);
        latents.insert(latents.end(), ready.begin(), ready.end());
        tokens = tokens.subspan(part.size());
    }
    return latents;
}

/// Of whole groups, which go; and of a last one that is not whole, which stays.
std::vector<float> LatentStream::take_groups(bool with_rest) {
    const int64_t n = std::ssize(states_) / form().encoder_width;
    const int64_t whole = n / form().ratio * form().ratio;
    const int64_t n_pooled = with_rest ? n : whole;
    if (n_pooled == 0) return {};
    std::vector<float> pooled;
    pool_states(
        form(),
        {.n_tokens = n_pooled, .n_pooled = n_pooled, .n_latents = count_latents(form(), n_pooled)},
        states_, pooled);
    if (!with_rest) {
        states_.erase(states_.begin(), states_.begin() + whole * form().encoder_width);
    }
    return encoder_.adapt(pooled);
}

// ---- window by window ---------------------------------------------------------------------------

/// Of windows that are whole, with all that they overlap.
std::vector<float> LatentStream::take_windows() {
    std::vector<float> pooled;
    const int64_t behind = form().is_bidirectional ? form().overlap : 0;
    while (std::ssize(held_) >= n_before_ + form().window + behind) {
        const EncoderWindow w = {.n_tokens = n_before_ + form().window + behind,
                                 .pool_begin = n_before_,
                                 .n_pooled = form().window,
                                 .n_latents = count_latents(form(), form().window)};
        const std::vector<float> some = encoder_.pool(held_, std::span(&w, 1));
        pooled.insert(pooled.end(), some.begin(), some.end());
        const int64_t read = n_before_ + form().window;
        const int64_t stays = std::min(form().overlap, read);
        held_.erase(held_.begin(), held_.begin() + read - stays);
        n_before_ = stays;
    }
    if (form().n_adapter_layers == 0) return encoder_.adapt(pooled);
    waiting_.insert(waiting_.end(), pooled.begin(), pooled.end());
    return {};
}

}  // namespace palimpsest
