// Prefix memories from arbitrary files: they load, or Error says what is wrong. What loaded is
// asked for everything it says it holds; the sanitizer objects where that lies outside.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "input_file.h"
#include "memory/prefix/prefix_file.h"

namespace palimpsest {

// In this program every check sum is the same, instead of core/digest.cpp's. A true one would
// refuse nearly every input, and it guards against damage only: who means harm can compute it.
void Digest::add(std::span<const std::byte> bytes) { lanes_[0] ^= bytes.size(); }
std::string Digest::hex() const { return "0000000000000000"; }

namespace {

unsigned sum_of(std::span<const std::byte> bytes) {
    unsigned sum = 0;
    for (const std::byte b : bytes) sum += std::to_integer<unsigned>(b);
    return sum;
}

/// `n` rows of keys and values, and the padding that kernels may touch.
unsigned sum_of(const EntryRows& rows, int64_t n) {
    const size_t bytes = static_cast<size_t>(n + kPaddingRows) * rows.row_bytes;
    return sum_of({rows.k, bytes}) + sum_of({rows.v, bytes});
}

void ask_codebook(const PrefixDocument& d, int64_t layer, int64_t codebook) {
    const PrefixLayout& at = d.header().layout;
    std::vector<float> key(static_cast<size_t>(at.width()), 0.25F);
    std::vector<float> state(static_cast<size_t>(at.d_head));
    const int64_t n = d.count(layer, codebook);
    const PrefixEntry found = d.find(layer, codebook, key);
    fuzzing::expect(found.index >= 0 && found.index < n, "an entry is found that is none");
    for (int64_t block = 0; block < at.blocks(); ++block) {
        for (const int64_t entry : {int64_t{0}, found.index, n - 1}) {
            static_cast<void>(d.state(layer, codebook, entry, block, state));
        }
    }
    static_cast<void>(d.floor(layer, codebook));
}

unsigned ask(const PrefixDocument& d) {
    const PrefixHeader& h = d.header();
    unsigned sum = 0;
    for (int64_t layer = 0; layer < h.n_layer; ++layer) {
        for (int64_t c = 0; c < h.layout.n_codebooks(); ++c) ask_codebook(d, layer, c);
        for (int64_t head = 0; head < h.layout.n_head_kv; ++head) {
            if (d.has_exact()) sum += sum_of(d.exact(layer, head), d.n_tokens());
            if (!d.keeps_entries(layer)) continue;
            sum += sum_of(d.kept(layer, head), d.n_kept(layer, head));
        }
    }
    for (const std::vector<int32_t>& positions : d.kept_positions()) {
        for (const int32_t p : positions) {
            fuzzing::expect(p >= 0 && p < d.n_tokens(), "an entry is kept of no position");
        }
    }
    fuzzing::expect(d.n_positions() > 0 && d.held_bytes() > 0 && d.moved_bytes() > 0,
                    "a prefix of nothing");
    return sum;
}

}  // namespace
}  // namespace palimpsest

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static palimpsest::fuzzing::InputFile file;
    const std::string& path = file.holding({data, size});
    palimpsest::fuzzing::is_refused([&] {
        volatile unsigned sum = 0;
        for (const auto& d : palimpsest::read_prefixes(path)) sum = sum + palimpsest::ask(*d);
    });
    return 0;
}
