// The library from outside: answers a prompt, or continues token ids if the model has no words.
//
//   answer model.gguf "Why is the sky blue?"
//   answer model.gguf 17 4 99

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "memory/cache/memories.h"
#include "model/load.h"

using namespace palimpsest;

int main(int argc, char** argv) try {
    if (argc < 3) throw std::runtime_error("usage: answer MODEL PROMPT | answer MODEL TOKEN-ID...");
    Backend backend(Backend::available_threads());
    const LoadedModel loaded(argv[1], backend);
    const int64_t n_ctx = std::min<int64_t>(loaded.config().n_ctx_train, 4096);
    Session session(loaded.model(), backend,
                    make_memory("kv", backend, loaded.config().memory_shape(), {.n_ctx = n_ctx}));

    if (const Tokenizer* tokenizer = loaded.tokenizer()) {
        const ChatMessage question = {.role = "user", .parts = {{.text = argv[2]}}};
        generate(session, *tokenizer, tokenizer->encode_chat({&question, 1}), {},
                 [](std::string_view text) { return bool(std::cout << text << std::flush); });
    } else {
        std::vector<TokenId> tokens;
        std::transform(argv + 2, argv + argc, std::back_inserter(tokens), std::atoi);
        session.feed(tokens);
        Sampler sampler({}, loaded.config().n_vocab, nullptr);
        for (int i = 0; i < 8; ++i) {
            session.accept(tokens.emplace_back(sampler.pick(session.logits())));
            std::cout << tokens.back() << ' ';
        }
    }
    std::cout << '\n';
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
