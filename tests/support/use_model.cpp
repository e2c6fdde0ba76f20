#include "support/use_model.h"

#include <algorithm>

#include "engine/session.h"
#include "memory/cache/memories.h"

namespace palimpsest::testing {

void use_tokenizer(const Tokenizer& tokenizer) {
    (void)tokenizer.decode(tokenizer.encode("hello,\n w\xC3\xB6rld \xE2\x82\xAC 123\t<|im_end|>"));
    (void)tokenizer.encode_template("<|im_start|>hello<|im_end|><s></s>\n");
    (void)tokenizer.beginning();
    for (TokenId t = 0; t < tokenizer.n_vocab(); ++t) {
        (void)tokenizer.visible(t);
        (void)tokenizer.bytes(t);
        (void)tokenizer.ends_text(t);
    }
    if (!tokenizer.has_chat_template()) return;
    const std::vector<ChatMessage> chat = {{"system", {{"be", false}}}, {"user", {{"x", false}}}};
    (void)tokenizer.encode_chat(chat);
    (void)tokenizer.encode_next_turn({"user", {{"more", false}}});
}

void use_model(const LoadedModel& loaded, Backend& backend) {
    const int64_t n_ctx = std::min<int64_t>(loaded.config().n_ctx_train, 64);
    Session session(loaded.model(), backend,
                    make_memory("kv", backend, loaded.config().memory_shape(),
                                {.n_ctx = n_ctx, .entries = GGML_TYPE_F32}),
                    {.n_chunk = 3});
    session.feed(std::vector<TokenId>{1, 2, 3, 0});
    if (loaded.tokenizer() != nullptr) use_tokenizer(*loaded.tokenizer());
}

}  // namespace palimpsest::testing
