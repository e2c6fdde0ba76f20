#include "core/guarded_call.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <thread>

namespace palimpsest {
namespace {

using namespace std::chrono_literals;

constexpr GuardLimits kLimits = {.seconds = 5, .bytes = size_t{64} << 20U};

TEST(GuardedCall, ReturnsTheTextOrWhatWasThrown) {
    const GuardedResult result = guarded_call(kLimits, [] { return std::string(100'000, 'x'); });
    EXPECT_EQ(result.text, std::string(100'000, 'x'));
    EXPECT_EQ(result.ended, "");
    const GuardedResult thrown =
        guarded_call(kLimits, []() -> std::string { throw std::runtime_error("no"); });
    EXPECT_EQ(thrown.text, "no");
    EXPECT_EQ(thrown.ended, "");
}

TEST(GuardedCall, SaysHowItEndedInstead) {
    EXPECT_NE(guarded_call(kLimits, []() -> std::string { std::abort(); }).ended.find("crashed"),
              std::string::npos);
    const GuardedResult late = guarded_call({.seconds = 1, .bytes = kLimits.bytes}, [] {
        volatile bool is_done = false;
        while (!is_done) {
        }
        return std::string();
    });
    EXPECT_EQ(late.ended, "took more than 1 s");
}

TEST(GuardedCall, IsMadeAgainIfACopyWaitsForALockOfAnotherThread) {
    std::binary_semaphore lock(0);
    std::thread other([&] {
        std::this_thread::sleep_for(500ms);
        lock.release();
    });
    const GuardedResult result = guarded_call(kLimits, [&] {
        lock.acquire();
        return std::string("in");
    });
    other.join();
    EXPECT_EQ(result.text, "in");
    EXPECT_EQ(result.ended, "");
}

TEST(GuardedCall, GivesUpACopyThatStandsStill) {
    const GuardedResult result = guarded_call(kLimits, [] {
        std::this_thread::sleep_for(60s);
        return std::string("late");
    });
    EXPECT_EQ(result.ended, "waited for what never came");
}

}  // namespace
}  // namespace palimpsest
