// Every way in which a GGUF file can lie: an Error with the right code, at once, without a crash.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/gguf.h"
#include "support/gguf_builder.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::raw_text;
using testing::small_file;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr uint64_t kHalf = uint64_t{1} << 63U;

void read(const std::string& bytes) { const GgufFile file(std::as_bytes(std::span(bytes))); }

struct Lie {
    const char* name;
    std::function<void(GgufBuilder&)> tell;
    ErrorCode code = ErrorCode::kCorrupt;
};

class HostileGguf : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileGguf, IsRefusedAtOnce) {
    GgufBuilder f = small_file();
    GetParam().tell(f);
    const auto start = std::chrono::steady_clock::now();
    std::optional<Error> refusal;
    try {
        read(f.bytes());
    } catch (const Error& e) {
        refusal = e;
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
    ASSERT_TRUE(refusal) << "it was read";
    EXPECT_EQ(refusal->code(), GetParam().code) << refusal->what();
    EXPECT_GT(std::string_view(refusal->what()).size(), 20U) << refusal->what();
}

const Lie kHeaderLies[] = {
    {"wrong_magic", [](GgufBuilder& f) { f.magic = "GGML"; }},
    {"version_0", [](GgufBuilder& f) { f.version = 0; }, ErrorCode::kUnsupported},
    {"version_1", [](GgufBuilder& f) { f.version = 1; }, ErrorCode::kUnsupported},
    {"version_4", [](GgufBuilder& f) { f.version = 4; }, ErrorCode::kUnsupported},
    {"big_endian", [](GgufBuilder& f) { f.version = 3U << 24U; }, ErrorCode::kUnsupported},
    {"huge_tensor_count", [](GgufBuilder& f) { f.n_tensors = kHuge; }},
    {"negative_tensor_count", [](GgufBuilder& f) { f.n_tensors = kHalf; }},
    {"one_tensor_too_many", [](GgufBuilder& f) { f.n_tensors = 3; }},
    {"huge_key_count", [](GgufBuilder& f) { f.n_keys = kHuge; }},
    {"many_keys", [](GgufBuilder& f) { f.n_keys = 1U << 30U; }},
    {"one_key_too_many", [](GgufBuilder& f) { f.n_keys = f.keys.size() + 1; }},
    {"one_key_too_few", [](GgufBuilder& f) { f.n_keys = f.keys.size() - 1; }},
};

const Lie kKeyLies[] = {
    {"empty_key", [](GgufBuilder& f) { f.set("", uint32_t{1}); }},
    {"long_key", [](GgufBuilder& f) { f.set(std::string(65536, 'k'), uint32_t{1}); }},
    {"duplicate_key", [](GgufBuilder& f) { f.keys.push_back(f.keys.front()); }},
    {"unknown_value_type", [](GgufBuilder& f) { f.set("x", 13, raw(uint64_t{0})); }},
    {"huge_value_type", [](GgufBuilder& f) { f.set("x", 0xFFFFFFFF, raw(uint64_t{0})); }},
    {"huge_text", [](GgufBuilder& f) { f.set("x", GGUF_TYPE_STRING, raw(kHuge) + "text"); }},
    {"text_past_the_end",
     [](GgufBuilder& f) { f.set("x", GGUF_TYPE_STRING, raw(uint64_t{1} << 20U) + "text"); }},
    {"unknown_element_type", [](GgufBuilder& f) { f.set_array("x", 13, 1, raw(uint64_t{0})); }},
    {"huge_element_type",
     [](GgufBuilder& f) { f.set_array("x", 0xFFFFFFFF, 1, raw(uint64_t{0})); }},
    {"array_of_arrays",
     [](GgufBuilder& f) { f.set_array("x", GGUF_TYPE_ARRAY, 1, raw(uint64_t{0})); }},
    {"huge_array", [](GgufBuilder& f) { f.set_array("x", GGUF_TYPE_FLOAT64, kHuge, ""); }},
    {"array_size_overflows",
     [](GgufBuilder& f) { f.set_array("x", GGUF_TYPE_FLOAT64, kHuge / 8 + 2, raw(0.0)); }},
    {"huge_array_of_texts", [](GgufBuilder& f) { f.set_array("x", GGUF_TYPE_STRING, kHuge, ""); }},
    {"text_in_array_past_the_end",
     [](GgufBuilder& f) { f.set_array("x", GGUF_TYPE_STRING, 1, raw(kHuge)); }},
    {"alignment_0", [](GgufBuilder& f) { f.set("general.alignment", uint32_t{0}); }},
    {"alignment_not_a_power", [](GgufBuilder& f) { f.set("general.alignment", uint32_t{48}); }},
    {"alignment_huge", [](GgufBuilder& f) { f.set("general.alignment", uint32_t{1U << 31U}); }},
    {"alignment_negative", [](GgufBuilder& f) { f.set("general.alignment", int32_t{-32}); }},
    {"alignment_text", [](GgufBuilder& f) { f.set_text("general.alignment", "32"); }},
    {"alignment_float", [](GgufBuilder& f) { f.set("general.alignment", 32.0F); }},
    {"alignment_bool", [](GgufBuilder& f) { f.set_bool("general.alignment", true); }},
};

const Lie kTensorLies[] = {
    {"empty_name", [](GgufBuilder& f) { f.tensors[0].name = ""; }},
    {"long_name", [](GgufBuilder& f) { f.tensors[0].name = std::string(64, 'n'); }},
    {"huge_name_length", [](GgufBuilder& f) { f.tensors[0].name_bytes = kHuge; }},
    {"name_past_the_end", [](GgufBuilder& f) { f.tensors[0].name_bytes = 1U << 20U; }},
    {"duplicate_name", [](GgufBuilder& f) { f.tensors[1].name = "first"; }},
    {"no_dimensions", [](GgufBuilder& f) { f.tensors[1].dims = {}; }},
    {"five_dimensions",
     [](GgufBuilder& f) {
         f.tensors[1].dims = {3, 1, 1, 1, 1};
     }},
    {"huge_number_of_dimensions", [](GgufBuilder& f) { f.tensors[1].n_dims = 0xFFFFFFFF; }},
    {"dimension_0",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {4, 0};
     }},
    {"dimension_negative",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {4, kHuge};
     }},
    {"dimension_2_to_63", [](GgufBuilder& f) { f.tensors[0].dims = {kHalf}; }},
    {"product_overflows",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {1ULL << 32U, 1ULL << 32U};
     }},
    {"product_wraps_to_8",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {(1ULL << 61U) + 1, 8};
     }},
    {"bytes_overflow", [](GgufBuilder& f) { f.tensors[0].dims = {1ULL << 62U}; }},
    {"four_large_dimensions",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {1ULL << 20U, 1ULL << 20U, 1ULL << 20U, 1ULL << 20U};
     }},
    {"longer_than_the_file",
     [](GgufBuilder& f) {
         f.tensors[0].dims = {4, 1000};
     }},
    {"unknown_type", [](GgufBuilder& f) { f.tensors[0].type = GGML_TYPE_COUNT; },
     ErrorCode::kUnsupported},
    {"huge_type", [](GgufBuilder& f) { f.tensors[0].type = 0xFFFFFFFF; }, ErrorCode::kUnsupported},
    {"removed_type_4", [](GgufBuilder& f) { f.tensors[0].type = 4; }, ErrorCode::kUnsupported},
    {"removed_type_5", [](GgufBuilder& f) { f.tensors[0].type = 5; }, ErrorCode::kUnsupported},
    {"removed_type_31", [](GgufBuilder& f) { f.tensors[0].type = 31; }, ErrorCode::kUnsupported},
    {"rows_not_of_whole_blocks", [](GgufBuilder& f) { f.tensors[0].type = GGML_TYPE_Q8_0; }},
    {"offset_off_alignment", [](GgufBuilder& f) { f.tensors[1].offset = 33; }},
    {"offset_past_the_end", [](GgufBuilder& f) { f.tensors[1].offset = 1U << 20U; }},
    {"offset_huge", [](GgufBuilder& f) { f.tensors[1].offset = kHuge / 32 * 32; }},
    {"same_offset", [](GgufBuilder& f) { f.tensors[1].offset = 0; }},
    {"partly_overlapping",
     [](GgufBuilder& f) {
         f.tensors[0] = {.name = "first", .dims = {16}, .data = std::string(64, '\0')};
         f.tensors[1].offset = 32;
     }},
};

const auto kLieName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Header, HostileGguf, ::testing::ValuesIn(kHeaderLies), kLieName);
INSTANTIATE_TEST_SUITE_P(Keys, HostileGguf, ::testing::ValuesIn(kKeyLies), kLieName);
INSTANTIATE_TEST_SUITE_P(Tensors, HostileGguf, ::testing::ValuesIn(kTensorLies), kLieName);

/// Reads, and says of what is no Error: "std::bad_alloc" and the like. Empty if all is well.
std::string complaint(const std::string& bytes) {
    try {
        read(bytes);
    } catch (const Error&) {
        return "";
    } catch (const std::exception& e) {
        return e.what();
    }
    return "";
}

TEST(HostileGgufFile, IsRefusedWhereverItIsCut) {
    const std::string whole = small_file().bytes();
    const size_t needed = whole.size() - 20;  // the last tensor's padding
    for (size_t n = 0; n < needed; ++n) {
        const std::string cut = whole.substr(0, n);
        EXPECT_THROW(read(cut), Error) << n << " of " << whole.size() << " bytes";
    }
}

TEST(HostileGgufFile, SurvivesEveryFlippedBit) {
    const std::string whole = small_file().bytes();
    const size_t header = small_file().header().size();
    for (size_t bit = 0; bit < 8 * header; ++bit) {
        std::string bytes = whole;
        bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
        EXPECT_EQ(complaint(bytes), "") << "bit " << bit % 8 << " of byte " << bit / 8;
    }
}

TEST(HostileGgufFile, SurvivesEveryFieldAtItsLargest) {
    const std::string whole = small_file().bytes();
    for (const size_t width : {size_t{1}, size_t{4}, size_t{8}}) {
        for (size_t at = 0; at + width <= small_file().header().size(); ++at) {
            std::string bytes = whole;
            bytes.replace(at, width, width, '\xFF');
            EXPECT_EQ(complaint(bytes), "") << width << " bytes at " << at;
        }
    }
}

TEST(HostileGgufFile, DoesNotAllocateWhatItOnlyClaims) {
    // 2^40 texts need 8 TiB of lengths: the count must be refused before anything is reserved.
    GgufBuilder f = small_file();
    f.set_array("x", GGUF_TYPE_STRING, uint64_t{1} << 40U, raw_text("a"));
    EXPECT_THROW(read(f.bytes()), Error);
}

TEST(HostileGgufFile, HoldsItsTensorsInsideEvenWhenTheDataIsMissing) {
    const std::string header = small_file().header();
    EXPECT_THROW(read(header), Error);
}

TEST(HostileGgufFile, OfRandomBytesIsRefused) {
    uint32_t state = 1;
    for (int i = 0; i < 1000; ++i) {
        std::string bytes = "GGUF" + raw(uint32_t{3});
        for (int n = 0; n < 200; ++n) {
            state = state * 1664525U + 1013904223U;
            bytes += static_cast<char>(state >> 24U);
        }
        EXPECT_EQ(complaint(bytes), "") << i;
    }
}

}  // namespace
}  // namespace palimpsest
