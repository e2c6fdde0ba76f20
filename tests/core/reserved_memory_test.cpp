#include "core/reserved_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "core/error.h"

namespace palimpsest {
namespace {

constexpr size_t kLarge = size_t{64} << 20U;
// What else the process may take or give back meanwhile: the allocator, the sanitizers.
constexpr size_t kSlack = size_t{8} << 20U;

size_t resident_bytes() {
    size_t total = 0;
    size_t resident = 0;
    std::ifstream("/proc/self/statm") >> total >> resident;
    return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST(ReservedMemory, TakesNothingUntilItIsWritten) {
    const size_t before = resident_bytes();
    const ReservedMemory memory(kLarge);
    EXPECT_LT(resident_bytes(), before + kSlack);
    EXPECT_GE(memory.size(), kLarge);
}

TEST(ReservedMemory, ReadsAsZeroBeforeItIsWritten) {
    const ReservedMemory memory(kLarge);
    EXPECT_EQ(memory.data()[kLarge / 2], std::byte{0});
}

TEST(ReservedMemory, ReallyGivesPagesBack) {
    ReservedMemory memory(kLarge);
    std::memset(memory.data(), 1, kLarge);
    const size_t written = resident_bytes();
    memory.release(0, kLarge);
    EXPECT_LT(resident_bytes() + kLarge, written + kSlack);
}

TEST(ReservedMemory, ReadsAsZeroAfterItWasGivenBack) {
    ReservedMemory memory(kLarge);
    std::memset(memory.data(), 1, kLarge);
    memory.release(0, kLarge);
    EXPECT_TRUE(std::all_of(memory.data(), memory.data() + kLarge,
                            [](std::byte b) { return b == std::byte{0}; }));
}

TEST(ReservedMemory, KeepsPagesThatAreGivenBackInPartOnly) {
    const size_t page = ReservedMemory::page_bytes();
    ReservedMemory memory(4 * page);
    std::memset(memory.data(), 1, memory.size());
    memory.release(1, 2 * page);  // only the second page lies wholly inside
    EXPECT_EQ(memory.data()[page - 1], std::byte{1});
    EXPECT_EQ(memory.data()[page], std::byte{0});
    EXPECT_EQ(memory.data()[2 * page], std::byte{1});
}

TEST(ReservedMemory, ReleaseOfLessThanAPageDoesNothing) {
    ReservedMemory memory(ReservedMemory::page_bytes());
    memory.data()[10] = std::byte{7};
    memory.release(10, 1);
    EXPECT_EQ(memory.data()[10], std::byte{7});
}

TEST(ReservedMemory, RoundsUpToWholePages) {
    const size_t page = ReservedMemory::page_bytes();
    EXPECT_EQ(ReservedMemory(1).size(), page);
    EXPECT_EQ(ReservedMemory::round_to_pages(page), page);
    EXPECT_EQ(ReservedMemory::round_to_pages(page + 1), 2 * page);
    EXPECT_EQ(ReservedMemory::round_to_pages(0), 0U);
}

TEST(ReservedMemory, MovesItsPages) {
    ReservedMemory memory(1);
    memory.data()[0] = std::byte{7};
    ReservedMemory moved(std::move(memory));
    ReservedMemory assigned;
    assigned = std::move(moved);
    EXPECT_EQ(assigned.data()[0], std::byte{7});
}

TEST(ReservedMemory, SaysWhenThereAreNoAddresses) {
    try {
        const ReservedMemory memory(std::numeric_limits<size_t>::max() / 4);
        FAIL() << "it was reserved";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kExhausted);
    }
}

TEST(ReservedMemory, OfASizeThatOverflowsIsRefused) {
    constexpr size_t kAll = std::numeric_limits<size_t>::max();
    EXPECT_THROW(const ReservedMemory memory(kAll), Error);
}

}  // namespace
}  // namespace palimpsest
