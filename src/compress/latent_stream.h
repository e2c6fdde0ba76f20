#pragma once

#include <memory>
#include <span>
#include <vector>

#include "compress/latent_encoder.h"
#include "engine/session.h"

namespace palimpsest {

/// One region whose tokens come bit by bit. Latents are given as soon as nothing that may follow
/// can change them: after their group, where tokens see only what is before them; after their
/// window and what it overlaps, otherwise; at the end, where an adapter attends. Never more than a
/// window is held. Not thread-safe.
class LatentStream {
 public:
    /// `encoder` must outlive it.
    explicit LatentStream(LatentEncoder& encoder);

    /// Takes more of the region. Returns the latents that became final, [n][decoder width].
    [[nodiscard]] std::vector<float> add(std::span<const TokenId> tokens);

    /// Latents of what has come and is not final, as if the region ended here. More may follow:
    /// add() then goes on as if this had not been asked.
    [[nodiscard]] std::vector<float> rest();

 private:
    [[nodiscard]] const CompressionForm& form() const { return encoder_.form(); }
    [[nodiscard]] std::vector<float> add_to_groups(std::span<const TokenId> tokens);
    void read(std::span<const TokenId> tokens, bool pools);
    void begin_window();
    [[nodiscard]] std::vector<float> take_groups(bool with_rest);
    [[nodiscard]] std::vector<float> take_windows();

    LatentEncoder& encoder_;
    // Of latents that are final after their group: the running window is read token by token.
    std::unique_ptr<Session> session_;
    std::vector<float> states_;    // that are not pooled yet, [tokens][encoder width]
    std::vector<TokenId> before_;  // the last `overlap` tokens
    int64_t n_in_window_ = 0;
    // Of others: what the next window reads,.
    std::vector<TokenId> held_;
    int64_t n_before_ = 0;        // of held_, those that overlap
    std::vector<float> waiting_;  // pooled states that the adapter wants all at once
};

}  // namespace palimpsest
