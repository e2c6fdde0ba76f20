// Files of trained banks: what belongs to another model, or contradicts itself, is refused.

#include "memory/recurrent/bank_read_out.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "memory/recurrent/recurrent_memory.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

constexpr int64_t kWidth = 6, kHeads = 2, kStates = 3;

/// Two recurrent layers with one that attends between.
MemoryShape shape() {
    const RecurrentLayer recurrent = {.kind = "gated-delta",
                                      .n_head = kHeads,
                                      .n_key_head = kHeads,
                                      .n_rows = 4,
                                      .n_columns = 5,
                                      .n_channels = 26,
                                      .n_before = 3};
    MemoryShape s;
    s.n_layer = 3;
    s.n_embd = kWidth;
    s.layers = {recurrent, AttentionLayer{.n_head_kv = 1, .d_head = 4}, recurrent};
    return s;
}

using Change = std::function<void(GgufWriter&)>;

/// A whole file, after which `change` may set other keys; `left_out`: a tensor that is not there.
std::string written(const testing::TemporaryFolder& folder, const Change& change = {},
                    const std::string& left_out = "", int64_t width = kWidth) {
    GgufWriter to;
    to.set_text("general.architecture", kReadOutArchitecture);
    to.set_text(kReadOutModel, "0123456789abcdef");
    describe_bank({.name = "dla", .n_states = kStates, .threshold = 0.9F}, to);
    for (const int layer : {0, 2}) {
        const auto add = [&](const char* part, const Shape& of) {
            const std::string name = cat("blk.", layer, ".", part);
            if (name == left_out) return;
            const std::vector<float> values(static_cast<size_t>(of[0] * of[1]), 0.5F);
            to.add(name, of, values);
        };
        add(kBankWeigh, {width, kHeads * kStates, 1, 1});
        add(kBankScale, {kStates, kHeads, 1, 1});
        add(kBankThreshold, {1, 1, 1, 1});
    }
    if (change) change(to);
    const std::string path = folder.path() + "/read-out.gguf";
    to.write(path);
    return path;
}

class ReadOut : public ::testing::Test {
 protected:
    void expect_refused(const std::string& path, ErrorCode code, const std::string& says) {
        try {
            const BankReadOut read(path, backend_, shape(), "0123456789abcdef");
            FAIL() << "was read";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), code) << e.what();
            EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
        }
    }
    Backend backend_{1};
    testing::TemporaryFolder folder_;
};

TEST_F(ReadOut, IsOfEveryRecurrentLayer) {
    const BankReadOut read(written(folder_), backend_, shape(), "0123456789abcdef");
    EXPECT_EQ(read.bank().name, "dla");
    EXPECT_EQ(read.bank().n_states, kStates);
    ASSERT_EQ(read.layers().size(), 2U);
    EXPECT_FLOAT_EQ(read.layers()[1].threshold, 0.5F);
    EXPECT_NE(read.layers()[1].weigh, nullptr);
    // Without one in the file, the options'.
    const testing::TemporaryFolder other;
    const BankReadOut usual(written(other, {}, "blk.2.bank_threshold"), backend_, shape(),
                            "0123456789abcdef");
    EXPECT_FLOAT_EQ(usual.layers()[1].threshold, 0.9F);
    EXPECT_NE(usual.fingerprint(), read.fingerprint());
}

TEST_F(ReadOut, WhatDoesNotFitIsRefused) {
    expect_refused(written(folder_, [](auto& to) { to.set_text(kReadOutModel, "another"); }),
                   ErrorCode::kUnsupported, "another model");
    expect_refused(written(folder_, [](auto& to) { to.set_text("general.architecture", "llama"); }),
                   ErrorCode::kUnsupported, "no bank of states");
    const auto options = [&](const std::string& text) {
        return written(folder_, [&](auto& to) { to.set_text("palimpsest.bank.options", text); });
    };
    expect_refused(options("dlq:states=3"), ErrorCode::kNotFound, "dlq");
    expect_refused(options("dla:states=0"), ErrorCode::kInvalidArgument, "states");
    expect_refused(options("dla:states=3;colour=red"), ErrorCode::kInvalidArgument, "colour");
    expect_refused(options(""), ErrorCode::kNotFound, "bank");
    expect_refused(options("dla:states"), ErrorCode::kInvalidArgument, "states");
    expect_refused(options("dla:states=4"), ErrorCode::kCorrupt, "bank_weigh");
    expect_refused(written(folder_, {}, "blk.0.bank_scale.weight"), ErrorCode::kNotFound,
                   "bank_scale");
    expect_refused(written(folder_, {}, "", kWidth + 1), ErrorCode::kCorrupt, "bank_weigh");
    expect_refused(
        written(folder_,
                [](auto& to) {
                    to.add("blk.1.bank_threshold", {1, 1, 1, 1}, std::vector<float>{0.5F});
                }),
        ErrorCode::kCorrupt, "blk.1.bank_threshold");
}

}  // namespace
}  // namespace palimpsest
