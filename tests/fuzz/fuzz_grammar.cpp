// Grammars from arbitrary text: they are taken, or Error says that they are none. One that is taken
// lets tokens be picked, until the text can go on no further.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/gguf.h"
#include "engine/sampler.h"
#include "expect.h"
#include "support/gguf_builder.h"
#include "support/tiny_model.h"
#include "text/tokenizer.h"

namespace {

using palimpsest::GgufFile;
using palimpsest::Tokenizer;
using palimpsest::testing::TemporaryFile;

/// A tiny model's. As in the default model, token 0 ends the text.
std::unique_ptr<Tokenizer> load_tokenizer() {
    auto model = palimpsest::testing::taken_apart(palimpsest::testing::speaking_model_bytes());
    const TemporaryFile file(model.set("tokenizer.ggml.eos_token_id", uint32_t{0}).bytes(),
                             ".gguf");
    return Tokenizer::load(file.path(), GgufFile::open(file.path()));
}

void write(const palimpsest::SamplingOptions& options, const Tokenizer& t) {
    constexpr int kMostPicked = 4;
    palimpsest::Sampler sampler(options, t.n_vocab(), t.vocab());
    const std::vector<float> flat(static_cast<size_t>(t.n_vocab()), 0.0F);
    for (int i = 0; i < kMostPicked; ++i) {
        const palimpsest::TokenId token = sampler.pick(flat);
        palimpsest::fuzzing::expect(token >= 0 && token < t.n_vocab(), "no token is picked");
        if (t.ends_text(token)) break;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::unique_ptr<Tokenizer> kTokenizer = load_tokenizer();
    palimpsest::SamplingOptions options;
    options.grammar.assign(reinterpret_cast<const char*>(data), size);
    for (const float temperature : {0.0F, 1.0F}) {  // the likeliest token, and one that is drawn
        options.temperature = temperature;
        palimpsest::fuzzing::is_refused([&] { write(options, *kTokenizer); });
    }
    return 0;
}
