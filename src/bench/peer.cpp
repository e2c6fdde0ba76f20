#include "bench/peer.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

void discard(ggml_log_level /*level*/, const char* /*text*/, void* /*unused*/) {}

[[noreturn]] void fail(const std::string& what) {
    throw Error(ErrorCode::kUnsupported, "libllama " + what);
}

}  // namespace

Peer::Peer(const std::string& path, const PeerOptions& options) : options_(options) {
    llama_log_set(discard, nullptr);
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_.reset(llama_model_load_from_file(path.c_str(), model_params));
    if (!model_) fail("cannot load '" + path + "'");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(options.n_ctx);
    params.n_batch = static_cast<uint32_t>(options.n_chunk);
    params.n_ubatch = params.n_batch;
    params.n_threads = options.n_threads;
    params.n_threads_batch = options.n_threads;
    params.flash_attn_type =
        options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    if (options.f32_entries) params.type_k = params.type_v = GGML_TYPE_F32;
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) fail("cannot make a context for '" + path + "'");
    n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
}

void Peer::decode(std::span<const TokenId> tokens, bool all_logits) {
    const auto n = static_cast<int32_t>(tokens.size());
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int32_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i);
        batch.token[at] = tokens[at];
        batch.pos[at] = static_cast<llama_pos>(position_ + i);
        batch.n_seq_id[at] = 1;
        batch.seq_id[at][0] = 0;
        batch.logits[at] = static_cast<int8_t>(all_logits || i + 1 == n);
    }
    const int32_t status = llama_decode(context_.get(), batch);
    llama_batch_free(batch);
    if (status != 0) fail(cat("cannot decode (status ", status, ")"));
    position_ += n;
}

void Peer::feed(std::span<const TokenId> tokens) {
    const auto chunk = static_cast<size_t>(options_.n_chunk);
    for (size_t at = 0; at < tokens.size(); at += chunk) {
        decode(tokens.subspan(at, std::min(chunk, tokens.size() - at)), false);
    }
    llama_synchronize(context_.get());
}

std::span<const float> Peer::logits() const {
    return {llama_get_logits_ith(context_.get(), -1), static_cast<size_t>(n_vocab_)};
}

std::vector<float> Peer::feed_for_all_logits(std::span<const TokenId> tokens) {
    decode(tokens, true);
    const float* all = llama_get_logits(context_.get());
    return {all, all + tokens.size() * static_cast<size_t>(n_vocab_)};
}

void Peer::reset() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    position_ = 0;
}

}  // namespace palimpsest
