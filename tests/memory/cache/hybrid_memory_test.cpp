// Layers that attend and layers that carry a state, in one memory.

#include "memory/cache/hybrid_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <sstream>

#include "core/error.h"
#include "memory/attention/attention.h"
#include "memory/binary_stream.h"
#include "memory/cache/memories.h"
#include "support/golden.h"
#include "support/reference_attention.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::MemoryScript;

constexpr int64_t kLength = 90;
constexpr int64_t kHeads = 3, kRows = 4, kColumns = 5;  // of a recurrent layer
constexpr int64_t kChannels = 7, kBefore = 3;           // of its convolution
constexpr int64_t kWindow = 24;

const RecurrentLayer kRecurrent = {.kind = "decayed-sum",
                                   .n_head = kHeads,
                                   .n_rows = kRows,
                                   .n_columns = kColumns,
                                   .n_channels = kChannels,
                                   .n_before = kBefore};

/// Recurrent, sliding, recurrent, attending to all.
MemoryShape hybrid_shape() {
    const AttentionLayer all = {.n_head_kv = 2, .d_head = 32};
    AttentionLayer slides = all;
    slides.window = kWindow;
    return {.n_layer = 4,
            .n_head = 4,
            .n_head_kv = 2,
            .d_head = 32,
            .windows = {},
            .layers = {kRecurrent, slides, kRecurrent, all}};
}

/// dst [n_columns * n_head, n]; sources: q, k, v, decay, write.
class SumOp final : public CustomOp {
 public:
    explicit SumOp(std::span<float> states) : states_(states) {}
    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const auto scalar = [&](int source, int64_t h, int64_t t) {
            const ggml_tensor* of = dst->src[source];
            return static_cast<const float*>(of->data)[t * of->ne[0] + h];
        };
        for (int64_t h = thread; h < kHeads; h += n_threads) {
            float* state = states_.data() + h * kRows * kColumns;
            for (int64_t t = 0; t < dst->ne[1]; ++t) {
                const float* q = head_row(dst->src[0], h, t);
                const float* k = head_row(dst->src[1], h, t);
                const float* v = head_row(dst->src[2], h, t);
                float* out = static_cast<float*>(dst->data) + (t * kHeads + h) * kColumns;
                std::fill_n(out, kColumns, 0.0F);
                const float stays = std::exp(scalar(3, h, t));
                for (int64_t i = 0; i < kRows * kColumns; ++i) {
                    const int64_t r = i / kColumns;
                    const int64_t c = i % kColumns;
                    state[i] = stays * state[i] + scalar(4, h, t) * k[r] * v[c];
                    out[c] += q[r] * state[i];
                }
            }
        }
    }

 private:
    std::span<float> states_;
};

/// dst [n_channels, n_before + n]; source: the channels of n positions.
class BeforeOp final : public CustomOp {
 public:
    explicit BeforeOp(std::span<float> before) : before_(before) {}
    void run(ggml_tensor* dst, int thread, int /*n_threads*/) noexcept override {
        if (thread != 0) return;
        auto* out = static_cast<float*>(dst->data);
        const auto* now = static_cast<const float*>(dst->src[0]->data);
        std::ranges::copy(before_, out);
        std::copy_n(now, kChannels * dst->src[0]->ne[1], out + std::ssize(before_));
        std::copy_n(out + kChannels * dst->src[0]->ne[1], std::ssize(before_), before_.begin());
    }

 private:
    std::span<float> before_;
};

/// A state a head, S = decay S + write k v', in f32: the least that a recurrent layer needs.
class DecayedSums final : public ContextMemory {
 public:
    explicit DecayedSums(const MemoryShape& shape)
        : n_layer_(shape.n_layer),
          states_(static_cast<size_t>(n_layer_ * kState)),
          before_(static_cast<size_t>(n_layer_ * kConvolution)) {
        for (int64_t i = 0; i < n_layer_; ++i) {
            const auto layer = std::get<RecurrentLayer>(shape.layer(i));
            require(layer.kind == kRecurrent.kind, "a recurrence '", layer.kind, "'");
        }
    }

    uint64_t plan(const Step& step) override {
        if (step.kind == StepKind::kRehearsal) {
            throw Error(ErrorCode::kUnsupported, "sums cannot be taken back");
        }
        return static_cast<uint64_t>(step.n);
    }
    Tensor attend(Graph& /*g*/, const AttentionInputs& /*in*/) override {
        throw Error(ErrorCode::kUnsupported, "sums do not attend");
    }
    Tensor recur(Graph& g, const RecurrenceInputs& in) override {
        const std::array<Tensor, 5> sources = {in.q, in.k, in.v, in.decay, in.write};
        return g.custom({kColumns * kHeads, in.q->ne[2], 1, 1}, sources,
                        std::make_unique<SumOp>(part(states_, in.layer, kState)));
    }
    Tensor with_before(Graph& g, int64_t layer, Tensor channels) override {
        const std::array<Tensor, 1> sources = {channels};
        return g.custom({kChannels, kBefore + channels->ne[1], 1, 1}, sources,
                        std::make_unique<BeforeOp>(part(before_, layer, kConvolution)));
    }
    void settle(const Step& step) override { seen_ += step.n; }
    void reset() override {
        std::ranges::fill(states_, 0.0F);
        std::ranges::fill(before_, 0.0F);
        seen_ = 0;
    }
    [[nodiscard]] MemoryUsage usage() const override {
        return {.positions_seen = seen_,
                .entries_held = 0,
                .bytes = (states_.size() + before_.size()) * sizeof(float)};
    }
    [[nodiscard]] MemoryReport report() const override {
        MemoryReport r;
        r.positions_seen = seen_;
        r.bytes.entries = usage().bytes;
        r.peak_bytes = usage().bytes;
        r.layers.resize(static_cast<size_t>(n_layer_));
        for (MemoryReport::Layer& of : r.layers) of.bytes = kState * sizeof(float);
        return r;
    }
    [[nodiscard]] int64_t room() const override { return room_; }
    void set_room(int64_t room) { room_ = room; }
    void save(std::ostream& out) const override {
        put(out, seen_);
        put_all(out, states_);
        put_all(out, before_);
    }
    void load(std::istream& in) override {
        seen_ = take<int64_t>(in);
        const auto states = take_all<float>(in, std::ssize(states_));
        const auto before = take_all<float>(in, std::ssize(before_));
        if (states.size() != states_.size() || before.size() != before_.size()) {
            throw Error(ErrorCode::kCorrupt, "states of another model");
        }
        std::ranges::copy(states, states_.begin());
        std::ranges::copy(before, before_.begin());
    }

 private:
    static constexpr int64_t kState = kHeads * kRows * kColumns;
    static constexpr int64_t kConvolution = kBefore * kChannels;

    static std::span<float> part(std::vector<float>& all, int64_t layer, int64_t size) {
        return std::span(all).subspan(static_cast<size_t>(layer * size), static_cast<size_t>(size));
    }

    int64_t n_layer_;
    std::vector<float> states_, before_;
    int64_t seen_ = 0;
    int64_t room_ = 1000;
};

/// What a hybrid model would hand to its memory, random, and what plain loops answer.
class HybridScript {
 public:
    HybridScript() : attention_(attention_part(hybrid_shape()), kLength) {
        std::mt19937 random(3);
        std::uniform_real_distribution<float> unit(-1.0F, 1.0F);
        for (Recurrent& of : recurrent_) {
            const auto fill = [&](std::vector<float>& values, int64_t width) {
                values.resize(static_cast<size_t>(width * kLength));
                for (float& x : values) x = unit(random);
            };
            fill(of.q, kHeads * kRows);
            fill(of.k, kHeads * kRows);
            fill(of.v, kHeads * kColumns);
            fill(of.decay, kHeads);
            fill(of.write, kHeads);
            fill(of.channels, kChannels);
            for (float& x : of.decay) x = (x - 1) / 4;
        }
    }

    /// Answers of positions [first, first + n): by position, then by layer; a recurrent layer's
    /// answer is followed by the sum of the channels that its convolution sees.
    std::vector<float> step(Backend& backend, ContextMemory& memory, int64_t first,
                            int64_t n) const {
        const Step step = {.n = n, .first_pos = first, .is_prefill = first + n < kLength};
        memory.plan(step);
        Graph g(1024);
        std::array<Tensor, 4> answers = {};
        std::array<Tensor, 2> preceded = {};
        for (int64_t layer = 0; layer < 4; ++layer) {
            const auto i = static_cast<size_t>(layer / 2);
            if (layer % 2 == 1) {
                answers.at(static_cast<size_t>(layer)) =
                    g.output(attend(g, memory, layer, first, n));
                continue;
            }
            const Recurrent& of = recurrent_.at(i);
            const auto part = [&](const std::vector<float>& values, const Shape& shape) {
                return input(g, values, shape, first);
            };
            preceded.at(i) =
                g.output(memory.with_before(g, layer, part(of.channels, {kChannels, n, 1, 1})));
            answers.at(static_cast<size_t>(layer)) =
                g.output(memory.recur(g, {.layer = layer,
                                          .q = part(of.q, {kRows, kHeads, n, 1}),
                                          .k = part(of.k, {kRows, kHeads, n, 1}),
                                          .v = part(of.v, {kColumns, kHeads, n, 1}),
                                          .decay = part(of.decay, {kHeads, n, 1, 1}),
                                          .write = part(of.write, {kHeads, n, 1, 1})}));
        }
        g.compute(backend);
        memory.settle(step);
        return gathered(answers, preceded, n);
    }

    std::vector<float> run(Backend& backend, ContextMemory& memory, int64_t n_chunk,
                           int64_t first = 0, int64_t end = kLength) const {
        std::vector<float> out;
        for (int64_t at = first; at < end; at += n_chunk) {
            const auto part = step(backend, memory, at, std::min(n_chunk, end - at));
            out.insert(out.end(), part.begin(), part.end());
        }
        return out;
    }

    /// The same from plain loops in double precision.
    [[nodiscard]] std::vector<float> expected() const {
        const std::vector<float> attended = attention_.expected(0, kLength);
        const int64_t width = attention_.shape().n_head * attention_.shape().d_head;
        std::array<std::vector<double>, 2> states;
        for (auto& of : states) of.resize(static_cast<size_t>(kHeads * kRows * kColumns));
        std::vector<float> out;
        for (int64_t t = 0; t < kLength; ++t) {
            for (size_t i = 0; i < 2; ++i) {
                add_recurrent(recurrent_.at(i), t, states.at(i), out);
                const auto from = attended.begin() + (t * 2 + static_cast<int64_t>(i)) * width;
                out.insert(out.end(), from, from + width);
            }
        }
        return out;
    }

    /// Values that step() answers for one position.
    [[nodiscard]] int64_t width() const {
        return 2 * (kHeads * kColumns + 1 + attention_.shape().n_head * attention_.shape().d_head);
    }

 private:
    struct Recurrent {
        std::vector<float> q, k, v, decay, write, channels;  // by position
    };

    static Tensor input(Graph& g, const std::vector<float>& values, const Shape& shape,
                        int64_t first) {
        const int64_t row = std::ssize(values) / kLength;
        const auto part = std::span(values).subspan(
            static_cast<size_t>(first * row), static_cast<size_t>(shape[0] * shape[1] * shape[2]));
        return g.input(GGML_TYPE_F32, shape, [part](std::span<std::byte> out) {
            std::memcpy(out.data(), part.data(), out.size());
        });
    }

    Tensor attend(Graph& g, ContextMemory& memory, int64_t layer, int64_t first, int64_t n) const {
        const MemoryShape& s = attention_.shape();
        std::vector<float> q;
        std::vector<float> k;
        std::vector<float> v;
        for (int64_t t = first; t < first + n; ++t) {
            for (int64_t h = 0; h < s.n_head; ++h) {
                const auto row = attention_.query(layer / 2, h, t);
                q.insert(q.end(), row.begin(), row.end());
            }
            for (int64_t h = 0; h < s.n_head_kv; ++h) {
                const auto entry = attention_.entry(layer / 2, h, t);
                k.insert(k.end(), entry.k.begin(), entry.k.end());
                v.insert(v.end(), entry.v.begin(), entry.v.end());
            }
        }
        const auto of = [&](const std::vector<float>& values, int64_t heads) {
            return g.input(GGML_TYPE_F32, {s.d_head, heads, n, 1},
                           [values](std::span<std::byte> out) {
                               std::memcpy(out.data(), values.data(), out.size());
                           });
        };
        AttentionInputs in = {.layer = layer,
                              .q = of(q, s.n_head),
                              .k = of(k, s.n_head_kv),
                              .v = of(v, s.n_head_kv),
                              .scale = 1.0F / std::sqrt(static_cast<float>(s.d_head))};
        in.q_raw = in.q;
        in.k_raw = in.k;
        return memory.attend(g, in);
    }

    static std::vector<float> gathered(const std::array<Tensor, 4>& answers,
                                       const std::array<Tensor, 2>& preceded, int64_t n) {
        std::vector<float> out;
        for (int64_t t = 0; t < n; ++t) {
            for (size_t layer = 0; layer < 4; ++layer) {
                const std::vector<float> values = Graph::read(answers.at(layer));
                const int64_t width = std::ssize(values) / n;
                out.insert(out.end(), values.begin() + t * width, values.begin() + (t + 1) * width);
                if (layer % 2 == 1) continue;
                const std::vector<float> rows = Graph::read(preceded.at(layer / 2));
                float sum = 0;
                for (int64_t c = t * kChannels; c < (t + kBefore + 1) * kChannels; ++c) {
                    sum += rows[static_cast<size_t>(c)];
                }
                out.push_back(sum);
            }
        }
        return out;
    }

    static void add_recurrent(const Recurrent& of, int64_t t, std::vector<double>& state,
                              std::vector<float>& out) {
        const auto at = [](const std::vector<float>& values, int64_t i) {
            return static_cast<double>(values[static_cast<size_t>(i)]);
        };
        for (int64_t h = 0; h < kHeads; ++h) {
            for (int64_t c = 0; c < kColumns; ++c) {
                double sum = 0;
                for (int64_t r = 0; r < kRows; ++r) {
                    double& s = state[static_cast<size_t>((h * kRows + r) * kColumns + c)];
                    s = s * std::exp(at(of.decay, t * kHeads + h)) +
                        at(of.write, t * kHeads + h) * at(of.k, (t * kHeads + h) * kRows + r) *
                            at(of.v, (t * kHeads + h) * kColumns + c);
                    sum += s * at(of.q, (t * kHeads + h) * kRows + r);
                }
                out.push_back(static_cast<float>(sum));
            }
        }
        double sum = 0;
        for (int64_t p = std::max<int64_t>(0, t - kBefore); p <= t; ++p) {
            for (int64_t c = 0; c < kChannels; ++c) sum += at(of.channels, p * kChannels + c);
        }
        out.push_back(static_cast<float>(sum));
    }

    MemoryScript attention_;
    std::array<Recurrent, 2> recurrent_;
};

class HybridMemories : public ::testing::Test {
 protected:
    [[nodiscard]] std::unique_ptr<ContextMemory> make(EvictionOptions eviction = {}) {
        const MemoryShape shape = hybrid_shape();
        auto sums = std::make_unique<DecayedSums>(recurrent_part(shape));
        sums_ = sums.get();
        return std::make_unique<HybridMemory>(shape,
                                              make_memory("kv", backend_, attention_part(shape),
                                                          {.n_ctx = 200,
                                                           .entries = GGML_TYPE_F32,
                                                           .eviction = std::move(eviction),
                                                           .supplies = {.n_chunk = 16}}),
                                              std::move(sums));
    }

    Backend backend_{2};
    HybridScript script_;
    DecayedSums* sums_ = nullptr;  // of the memory made last
};

constexpr double kOrder = 1e-5;  // f32 sums of a hundred terms

TEST_F(HybridMemories, EqualPlainLoops) {
    const auto memory = make();
    EXPECT_LE(max_difference(script_.run(backend_, *memory, 30), script_.expected()), kOrder);
}

TEST_F(HybridMemories, AnswerTheSameHoweverTheInputIsCut) {
    const std::vector<float> whole = script_.run(backend_, *make(), kLength);
    EXPECT_LE(max_difference(script_.run(backend_, *make(), 1), whole), kOrder);
    EXPECT_LE(max_difference(script_.run(backend_, *make(), 37), whole), kOrder);
}

TEST_F(HybridMemories, AreAsNewAfterReset) {
    const auto memory = make();
    const std::vector<float> first = script_.run(backend_, *memory, 30);
    memory->reset();
    EXPECT_EQ(memory->usage().positions_seen, 0);
    EXPECT_EQ(script_.run(backend_, *memory, 30), first);
}

TEST_F(HybridMemories, GoOnFromASavedState) {
    const auto memory = make();
    script_.run(backend_, *memory, 25, 0, 50);
    std::stringstream state;
    memory->save(state);
    const auto other = make();
    other->load(state);
    EXPECT_EQ(other->next_position(), 50);
    EXPECT_EQ(other->usage().positions_seen, 50);
    EXPECT_EQ(script_.run(backend_, *other, 10, 50), script_.run(backend_, *memory, 10, 50));
}

TEST_F(HybridMemories, RefuseStatesThatDoNotFitAndStayEmpty) {
    const auto memory = make();
    script_.run(backend_, *memory, 25, 0, 50);
    std::ostringstream out;
    memory->save(out);
    const std::string whole = out.str();
    std::ostringstream plain;
    make_memory("kv", backend_, attention_part(hybrid_shape()),
                {.n_ctx = 200, .entries = GGML_TYPE_F32})
        ->save(plain);
    const auto code_of = [&](const std::string& bytes) {
        std::istringstream in(bytes);
        try {
            memory->load(in);
        } catch (const Error& e) {
            EXPECT_EQ(memory->usage().positions_seen, 0);
            return e.code();
        }
        return ErrorCode::kInternal;
    };
    EXPECT_EQ(code_of(whole.substr(0, whole.size() - 4)), ErrorCode::kCorrupt);
    EXPECT_EQ(code_of(whole.substr(0, 4)), ErrorCode::kCorrupt);
    // Entries of 50 positions, sums of none: what each of them takes by itself.
    std::ostringstream none;
    DecayedSums(recurrent_part(hybrid_shape())).save(none);
    const std::string mixed = whole.substr(0, whole.size() - none.str().size()) + none.str();
    EXPECT_EQ(code_of(mixed), ErrorCode::kCorrupt);
    script_.run(backend_, *memory, 10, 0, 10);
    memory->reset();
    std::istringstream again(plain.str());
    EXPECT_THROW(memory->load(again), Error);
    EXPECT_EQ(code_of(whole), ErrorCode::kInternal);  // and the whole is taken
}

TEST_F(HybridMemories, CountBothParts) {
    const auto memory = make();
    script_.run(backend_, *memory, 30, 0, 60);
    const MemoryReport report = memory->report();
    const size_t of_sums = sums_->usage().bytes;
    EXPECT_EQ(report.bytes.total(), memory->usage().bytes);
    EXPECT_GT(memory->usage().bytes, of_sums);
    EXPECT_GE(report.peak_bytes, report.bytes.total());
    ASSERT_EQ(report.layers.size(), 4U);
    for (const size_t i : {0U, 2U}) {
        EXPECT_TRUE(report.layers[i].held.empty());
        EXPECT_EQ(report.layers[i].bytes, kHeads * kRows * kColumns * sizeof(float));
    }
    EXPECT_EQ(report.layers[1].window, kWindow);
    EXPECT_EQ(report.layers[1].held, (std::vector<int64_t>{kWindow - 1, kWindow - 1}));
    EXPECT_EQ(report.layers[3].held, (std::vector<int64_t>{60, 60}));
    EXPECT_EQ(memory->room(), 140);
    sums_->set_room(5);
    EXPECT_EQ(memory->room(), 5);
}

TEST_F(HybridMemories, ForgetWhereTheyAttendAndNotWhereTheyRecur) {
    EvictionOptions bounded = {.policy = "window"};
    bounded.budget = {.kind = Budget::Kind::kEntries, .count = 32};
    const auto memory = make(bounded);
    const std::vector<float> cut = script_.run(backend_, *memory, 16);
    const std::vector<float> all = script_.expected();
    EXPECT_LE(memory->report().layers[3].held.front(), 32);
    const auto last = static_cast<size_t>((kLength - 1) * script_.width());
    constexpr size_t kOfFirst = kHeads * kColumns + 1;
    const auto part = [&](const std::vector<float>& of, size_t from, size_t n) {
        return std::vector<float>(of.begin() + static_cast<std::ptrdiff_t>(from),
                                  of.begin() + static_cast<std::ptrdiff_t>(from + n));
    };
    EXPECT_LE(max_difference(part(cut, last, kOfFirst), part(all, last, kOfFirst)), kOrder);
    const size_t of_last_layer = cut.size() - 128;
    EXPECT_GT(max_difference(part(cut, of_last_layer, 128), part(all, of_last_layer, 128)), 1e-3);
}

TEST_F(HybridMemories, PromiseEqualGraphsOnlyWhereBothPartsDo) {
    const auto memory = make();
    const uint64_t one = memory->plan({.n = 1});
    EXPECT_EQ(memory->plan({.n = 1}), one);
    const uint64_t two = memory->plan({.n = 2});
    EXPECT_NE(two, one);
    EXPECT_EQ(memory->plan({.n = 2}), two);
}

TEST_F(HybridMemories, RefuseAStepThatOnePartCannotTake) {
    const auto memory = make();
    script_.run(backend_, *memory, 30, 0, 60);
    EXPECT_THROW(memory->plan({.n = 8, .kind = StepKind::kRehearsal, .rehearsal = {.end = 8}}),
                 Error);
    EXPECT_THROW(memory->plan({.n = 500, .first_pos = 60}), Error);
    const std::vector<float> all = script_.expected();
    const std::vector<float> rest = script_.run(backend_, *memory, 30, 60);
    EXPECT_LE(max_difference(rest, {all.end() - std::ssize(rest), all.end()}), kOrder);
}

TEST(HybridMemory, NeedsLayersOfBothKinds) {
    MemoryShape shape = hybrid_shape();
    EXPECT_EQ(attention_part(shape).n_layer, 2);
    EXPECT_EQ(recurrent_part(shape).n_layer, 2);
    EXPECT_EQ(attention_part(shape).window(0), kWindow);
    EXPECT_TRUE(attention_part(shape).slides());
    EXPECT_FALSE(recurrent_part(shape).slides());
    const MemoryShape recurrent = recurrent_part(shape);
    EXPECT_THROW(HybridMemory(recurrent, std::make_unique<DecayedSums>(recurrent),
                              std::make_unique<DecayedSums>(recurrent)),
                 Error);
}

// ---- kinds of memories
// --------------------------------------------------------------------------

TEST(MemoryKinds, SayWhomTheySuit) {
    Backend backend(1);
    const MemoryKind& kv = memory_kinds().front();
    EXPECT_TRUE(kv.suits(attention_part(hybrid_shape())));
    EXPECT_FALSE(kv.suits(hybrid_shape()));
    EXPECT_NE(kv.misfit(hybrid_shape()).find("decayed-sum"), std::string::npos);
    try {
        make_memory("kv", backend, hybrid_shape(), {.n_ctx = 64});
        FAIL() << "it took a recurrent layer";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
        EXPECT_NE(std::string(e.what()).find("layer 0 is recurrent"), std::string::npos)
            << e.what();
    }
}

/// A kind that is not of keys and values alone can stand in the table.
TEST(MemoryKinds, MayNeedMoreThanACache) {
    const MemoryKind kind = {"hybrid-sums", "sums and a cache",
                             [](const MemoryShape& shape) -> std::string {
                                 for (int64_t i = 0; i < shape.n_layer; ++i) {
                                     if (!shape.attends(i)) return {};
                                 }
                                 return "no layer recurs";
                             },
                             [](const MemoryInputs& in) -> std::unique_ptr<ContextMemory> {
                                 const MemoryShape attending = attention_part(in.shape);
                                 return std::make_unique<HybridMemory>(
                                     in.shape, make_memory("kv", {in.backend, attending, in.cache}),
                                     std::make_unique<DecayedSums>(recurrent_part(in.shape)));
                             }};
    const MemoryShape shape = hybrid_shape();
    EXPECT_TRUE(kind.suits(shape));
    EXPECT_FALSE(kind.suits(attention_part(shape)));
    Backend backend(1);
    const auto memory = kind.make(
        {.backend = backend, .shape = shape, .cache = {.n_ctx = 100, .entries = GGML_TYPE_F32}});
    const HybridScript script;
    EXPECT_LE(max_difference(script.run(backend, *memory, 30), script.expected()), kOrder);
}

TEST(ContextMemories, ThatDoNotRecurSaySo) {
    Backend backend(1);
    const auto memory = make_memory("kv", backend, attention_part(hybrid_shape()), {.n_ctx = 64});
    Graph g(16);
    EXPECT_THROW(memory->recur(g, {.layer = 0}), Error);
    EXPECT_THROW(memory->with_before(g, 0, nullptr), Error);
}

}  // namespace
}  // namespace palimpsest
