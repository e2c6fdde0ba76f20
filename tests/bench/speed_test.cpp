// What is measured is put together as it is in use.

#include "bench/speed.h"

#include <gtest/gtest.h>

#include "engine/runtime.h"
#include "memory/prefix/prefix_file.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

class Speed : public testing::TinyBuild {};

/// `bench speed` once put its memory together by itself: with prefixes, a budget and chunks below
/// 512, steps were longer than the budget allowed for.
TEST_F(Speed, IsMeasuredBehindAPrefixWithABudgetAndShortChunks) {
    const testing::TemporaryFolder folder;
    const std::string file = folder.path() + "/rules.prefix.gguf";
    const PrefixText text = text_of(rules(4));
    const PrefixBuild built = build(text, {.k = 4});
    const std::vector<std::shared_ptr<const PrefixDocument>> documents = {built.document};
    write_prefixes(file, documents);
    SpeedOptions o;
    o.model_path = model_file.path();
    o.depths = {0};
    o.n_prefill = 24;
    o.n_decode = 4;
    o.n_repeat = 1;
    o.memory = {.budget = "48", .policy = "h2o", .n_recent = 4, .interval = 8, .prefixes = {file}};
    const SpeedReport report = measure_speed(o, [](const std::string&) {});
    EXPECT_GT(report.ours.peak_rss_bytes, 0);
    EXPECT_EQ(report.memory.policy, "h2o");
}

/// And it left out the texts that ask for a repetition.
TEST_F(Speed, IsMeasuredWithRehearsals) {
    SpeedOptions o;
    o.model_path = model_file.path();
    o.depths = {0};
    o.n_prefill = 160;
    o.n_decode = 4;
    o.n_repeat = 1;
    o.with_footprint = false;
    o.memory = {.budget = "64", .policy = "kvzip", .n_recent = 8, .interval = 8};
    const Runtime runtime(loaded, backend, 160);
    const auto session = runtime.make_session(runtime.make_cache(runtime.plan(o.memory).options));
    // Reading in smaller steps than the chunk shows that repetitions have their texts.
    int64_t steps = 0;
    session->feed(loaded.require_tokenizer().encode(rules(12)),
                  {.on_progress = [&](int64_t, int64_t) { return ++steps > 0; }});
    EXPECT_GT(steps, 1);
    EXPECT_NO_THROW(measure_speed(o, [](const std::string&) {}));
}

}  // namespace
}  // namespace palimpsest
