#include "core/finite.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

namespace palimpsest {

namespace {

constexpr size_t kPiece = size_t{1} << 20;  // bytes that a thread takes at once

/// Where a quantised type has its scales, halves all of them: `count` from byte `first` of a block.
struct Scales {
    ggml_type type;
    size_t first, count;
};

constexpr std::array<Scales, 20> kScales = {{
    {GGML_TYPE_Q4_0, 0, 1},   {GGML_TYPE_Q4_1, 0, 2},   {GGML_TYPE_Q5_0, 0, 1},
    {GGML_TYPE_Q5_1, 0, 2},   {GGML_TYPE_Q8_0, 0, 1},   {GGML_TYPE_Q2_K, 80, 2},
    {GGML_TYPE_Q3_K, 108, 1}, {GGML_TYPE_Q4_K, 0, 2},   {GGML_TYPE_Q5_K, 0, 2},
    {GGML_TYPE_Q6_K, 208, 1}, {GGML_TYPE_IQ1_S, 0, 1},  {GGML_TYPE_IQ2_XXS, 0, 1},
    {GGML_TYPE_IQ2_XS, 0, 1}, {GGML_TYPE_IQ2_S, 0, 1},  {GGML_TYPE_IQ3_XXS, 0, 1},
    {GGML_TYPE_IQ3_S, 0, 1},  {GGML_TYPE_IQ4_NL, 0, 1}, {GGML_TYPE_IQ4_XS, 0, 1},
    {GGML_TYPE_TQ1_0, 52, 1}, {GGML_TYPE_TQ2_0, 64, 1},
}};

constexpr uint16_t kHalfExponent = 0x7C00, kBfloatExponent = 0x7F80;
constexpr uint32_t kFloatExponent = 0x7F80'0000;
constexpr uint64_t kDoubleExponent = 0x7FF0'0000'0000'0000;

/// Numbers whose exponent is all ones are infinite or none. No branch: compilers make vectors of
/// it.
template <typename Word>
bool all_finite(std::span<const std::byte> bytes, Word exponent) {
    unsigned bad = 0;
    for (size_t at = 0; at + sizeof(Word) <= bytes.size(); at += sizeof(Word)) {
        Word word;
        std::memcpy(&word, bytes.data() + at, sizeof word);
        bad |= (word & exponent) == exponent ? 1U : 0U;
    }
    return bad == 0;
}

bool scales_finite(std::span<const std::byte> bytes, const Scales& scales) {
    const size_t block = ggml_type_size(scales.type);
    for (size_t at = 0; at < bytes.size(); at += block) {
        const auto part = bytes.subspan(at + scales.first, scales.count * sizeof(uint16_t));
        if (!all_finite(part, kHalfExponent)) return false;
    }
    return true;
}

/// Turned into plain numbers first, block by block.
bool values_finite(std::span<const std::byte> bytes, ggml_type type) {
    const ggml_to_float_t to_float = ggml_get_type_traits(type)->to_float;
    if (to_float == nullptr) return true;  // whole numbers
    std::vector<float> values(static_cast<size_t>(ggml_blck_size(type)));
    for (size_t at = 0; at < bytes.size(); at += ggml_type_size(type)) {
        to_float(bytes.data() + at, values.data(), std::ssize(values));
        if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); })) return false;
    }
    return true;
}

bool piece_finite(std::span<const std::byte> bytes, ggml_type type) {
    if (type == GGML_TYPE_F32) return all_finite(bytes, kFloatExponent);
    if (type == GGML_TYPE_F64) return all_finite(bytes, kDoubleExponent);
    if (type == GGML_TYPE_F16) return all_finite(bytes, kHalfExponent);
    if (type == GGML_TYPE_BF16) return all_finite(bytes, kBfloatExponent);
    const auto known = std::ranges::find(kScales, type, &Scales::type);
    return known == kScales.end() ? values_finite(bytes, type) : scales_finite(bytes, *known);
}

}  // namespace

bool is_finite(std::span<const float> numbers) {
    return all_finite(std::as_bytes(numbers), kFloatExponent);
}

bool is_finite(const GgufTensor& tensor, int64_t n_threads) {
    const size_t block = ggml_type_size(tensor.type);
    const size_t piece = kPiece / block * block;
    if (tensor.data.size() <= piece) return piece_finite(tensor.data, tensor.type);
    const auto n = static_cast<int64_t>((tensor.data.size() + piece - 1) / piece);
    std::atomic<bool> ok = true;
    std::atomic<int64_t> next = 0;
    const auto look = [&] {
        for (int64_t i = next++; i < n && ok; i = next++) {
            const size_t begin = static_cast<size_t>(i) * piece;
            const size_t size = std::min(piece, tensor.data.size() - begin);
            if (!piece_finite(tensor.data.subspan(begin, size), tensor.type)) ok = false;
        }
    };
    // Not the backend's threads: GNU OpenMP keeps a team for every thread that ever asked for one.
    // A second one, of the thread that loaded a model, makes it believe that there are more threads
    // than processors, and let all of them sleep at each wait.
    std::vector<std::jthread> others(static_cast<size_t>(std::min(n, n_threads) - 1));
    try {
        for (std::jthread& t : others) t = std::jthread(look);
    } catch (const std::system_error&) {  // there are no more to be had: fewer do as well
    }
    look();
    others.clear();
    return ok;
}

}  // namespace palimpsest
