// What is noted for policies and allocators: who sees what, and what a copy shares.

#include "memory/policy/observer.h"

#include <gtest/gtest.h>

#include <sstream>
#include <stdexcept>

#include "memory/policy/observation.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

/// Counts the positions that passed. It can be copied, and not written down.
class Counting final : public Observer {
 public:
    explicit Counting(Rehearsed rehearsed = Rehearsed::kNothing) : rehearsed_(rehearsed) {}

    [[nodiscard]] std::unique_ptr<Observer> clone() const override {
        return std::make_unique<Counting>(*this);
    }
    [[nodiscard]] Rehearsed rehearsed() const override { return rehearsed_; }
    void begin(const Step& step, int64_t /*seen*/) override { n_ += step.n; }
    void observe(Graph& /*g*/, const AttentionInputs& /*in*/, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {}
    void keep(int64_t /*layer*/, int64_t /*head*/, std::span<const int32_t> kept) override {
        n_ = std::ssize(kept);
    }
    void shift(int64_t positions) override { shifted_ += positions; }
    void reset() override { n_ = 0; }
    [[nodiscard]] size_t bytes() const override { return 8; }
    [[nodiscard]] size_t bytes_per_entry() const override { return 3; }
    void save(std::ostream& /*out*/) const override { throw std::logic_error("not to be saved"); }
    void load(std::istream& /*in*/) override { throw std::logic_error("not to be loaded"); }

    [[nodiscard]] int64_t n() const { return n_; }
    [[nodiscard]] int64_t shifted() const { return shifted_; }

 private:
    Rehearsed rehearsed_;
    int64_t n_ = 0, shifted_ = 0;
};

MemoryShape small_shape() {
    return {.n_layer = 1, .n_head = 2, .n_head_kv = 1, .d_head = 16, .windows = {}};
}

void begin(const Observers& observers, const Step& step, int64_t seen) {
    for (Observer* observer : observers.of(step)) observer->begin(step, seen);
}

/// A fork is made of a clone: notes that nobody can write down must come along all the same.
TEST(Observers, AreClonedWithoutBeingSaved) {
    Observers observers;
    const Noted<Counting> counting = observers.add<Counting>();
    begin(observers, {.n = 5}, 0);
    Observers copy = observers.clone();
    EXPECT_EQ(copy[counting].n(), 5);
    begin(observers, {.n = 2}, 5);
    begin(copy, {.n = 1}, 5);
    EXPECT_EQ(observers[counting].n(), 7);
    EXPECT_EQ(copy[counting].n(), 6);
    copy.reset();
    EXPECT_EQ(observers[counting].n(), 7);
    std::ostringstream out;
    EXPECT_THROW(observers.save(out), std::logic_error);
}

TEST(Observers, OfAllKindsAreFoundWhereTheyWereNamed) {
    Observers observers;
    const Noted<QueryWindow> window = observers.add<QueryWindow>(small_shape(), 4);
    const Noted<Counting> counting = observers.add<Counting>();
    const Noted<QueryWindow> last = observers.add<QueryWindow>(small_shape(), 1);
    begin(observers, {.n = 3}, 0);
    const Observers copy = observers.clone();
    for (const Observers* all : {&std::as_const(observers), &copy}) {
        EXPECT_EQ(all->count(), 3);
        EXPECT_EQ((*all)[window].count(), 3);
        EXPECT_EQ((*all)[counting].n(), 3);
        EXPECT_EQ((*all)[last].count(), 1);
    }
}

TEST(Observers, OfTwoKindsOfRehearsalsAreRefused) {
    Observers observers;
    observers.add<Counting>(Rehearsed::kRepetition);
    observers.add<Counting>();
    observers.add<Counting>(Rehearsed::kQuestion);
    EXPECT_EQ(testing::code_of([&] { (void)observers.rehearsed(); }), ErrorCode::kInvalidArgument);
}

/// What asks for a repetition, and the repetition, are no queries of the text.
TEST(Observers, SeeRehearsalsOnlyIfTheyAreForThem) {
    Observers observers;
    const Noted<Counting> text = observers.add<Counting>();
    EXPECT_EQ(observers.rehearsed(), Rehearsed::kNothing);
    const Noted<Counting> repetition = observers.add<Counting>(Rehearsed::kRepetition);
    EXPECT_EQ(observers.rehearsed(), Rehearsed::kRepetition);
    begin(observers, {.n = 8}, 0);
    begin(observers, {.n = 9, .kind = StepKind::kRehearsal, .rehearsal = {.end = 8}}, 8);
    EXPECT_EQ(observers[text].n(), 8);
    EXPECT_EQ(observers[repetition].n(), 17);
}

TEST(Observers, AreAllToldAndAllCounted) {
    Observers observers;
    const Noted<Counting> first = observers.add<Counting>();
    const Noted<Counting> second = observers.add<Counting>();
    EXPECT_EQ(observers.bytes(), 16U);
    EXPECT_EQ(observers.bytes_per_entry(), 6U);
    const std::vector<int32_t> kept = {0, 2, 5};
    observers.keep(0, 0, kept);
    observers.shift(-4);
    for (const Noted<Counting>& of : {first, second}) {
        EXPECT_EQ(observers[of].n(), 3);
        EXPECT_EQ(observers[of].shifted(), -4);
    }
    observers.reset();
    EXPECT_EQ(observers[first].n() + observers[second].n(), 0);
}

/// Notes are read back by those who wrote them, in the same order; others refuse them.
TEST(Observers, AreSavedAndLoadedInOrder) {
    const auto both = [](int64_t first, int64_t second) {
        Observers observers;
        observers.add<QueryWindow>(small_shape(), first);
        observers.add<QueryWindow>(small_shape(), second);
        return observers;
    };
    Observers observers = both(4, 1);
    begin(observers, {.n = 3}, 0);
    std::stringstream state;
    observers.save(state);
    Observers loaded = both(4, 1);
    loaded.load(state);
    std::stringstream again;
    loaded.save(again);
    EXPECT_EQ(again.str(), state.str());
    Observers swapped = both(1, 4);
    std::stringstream other(state.str());
    EXPECT_THROW(swapped.load(other), Error);
}

TEST(ColumnMass, RefusesNotesOfOtherEntries) {
    Observers observers;
    observers.add<ColumnMass>(small_shape(), "h2o");
    begin(observers, {.n = 3}, 0);
    const std::vector<int32_t> three = {0, 1, 2};
    const std::vector<int32_t> two = {0, 1};
    std::span<const int32_t> heads[] = {three};
    EXPECT_NO_THROW(observers.held(0, heads));
    heads[0] = two;
    EXPECT_THROW(observers.held(0, heads), Error);
}

}  // namespace
}  // namespace palimpsest
