// Adapters of latent context from arbitrary files: they load and map states to numbers, or Error
// says what is wrong. What one asks to compute is kept small.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compress/latent_adapter.h"
#include "input_file.h"

namespace {

using palimpsest::Backend;
using palimpsest::CompressionForm;
using palimpsest::LatentAdapter;
using palimpsest::fuzzing::expect;
using palimpsest::fuzzing::InputFile;
using palimpsest::fuzzing::is_refused;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Backend backend(1);
    static InputFile file;
    is_refused([&] {
        const LatentAdapter adapter(file.holding({data, size}), backend);
        const CompressionForm& f = adapter.form();
        for (const int64_t n : {int64_t{0}, int64_t{1}, f.ratio, f.window + 1}) {
            int64_t sum = 0;
            for (const int32_t length : latent_lengths(f, n)) sum += length;
            expect(sum == n, "every token is in one latent");
        }
        const std::vector<float> pooled(static_cast<size_t>(3 * f.pooled_width()), 0.5F);
        const std::vector<float> latents = adapter.apply(pooled, backend);
        expect(std::ssize(latents) == 3 * f.decoder_width, "as many latents as pooled states");
    });
    return 0;
}
