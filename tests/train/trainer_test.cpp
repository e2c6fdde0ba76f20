// The loop: it learns, it stops and goes on as if it had not stopped, and threads change nothing.

#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "memory/policy/policies.h"
#include "support/golden.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"
#include "train/checkpoint.h"
#include "train/gate/gate_network.h"
#include "train/sidecar.h"
#include "train/training_log.h"

namespace palimpsest {
namespace {

using testing::TemporaryFile;
using testing::TinyModel;

constexpr int64_t kLength = 48;

Corpus corpus() {
    std::vector<std::vector<TokenId>> windows;
    for (uint32_t i = 0; i < 7; ++i) windows.push_back(testing::tiny_tokens(kLength, i + 1));
    return make_corpus(std::move(windows), {.length = kLength, .n_held_out = 2});
}

TrainingOptions options() {
    return {.schedule = {.rate = 5e-3, .n_steps = 30, .n_warm_up = 3, .n_decay = 9},
            .n_batch = 4,
            .n_block = 16,
            .n_pool = 3,
            .read_every = 4,
            .examine_every = 10};
}

/// An indexer as it is published: logarithms, head by head.
std::unique_ptr<Objective> make_log_indexer(const ObjectiveInputs& in) {
    ObjectiveInputs with = in;
    with.options.indexer = {.is_by_head = true, .loss = IndexerLoss::kLogs};
    return make_indexer_objective(with);
}

/// Everything of one training of something for a tiny model.
struct TinyTraining {
    using Make = std::unique_ptr<Objective> (*)(const ObjectiveInputs& in);

    explicit TinyTraining(int n_threads = 1, Make make = make_gate_objective)
        : tiny({}, n_threads),
          shape(tiny.shape()),
          objective(make({.shape = shape,
                          .backend = tiny.backend(),
                          .options = {.n_mid = 12, .n_feature = 6}})),
          reader(tiny.runtime(), objective->wanted()),
          trainer(*objective, reader, texts, options()) {}

    [[nodiscard]] std::vector<std::vector<float>> values() const {
        std::vector<std::vector<float>> all;
        for (const Parameter& p : objective->parameters()) all.push_back(p.value);
        return all;
    }

    TinyModel tiny;
    MemoryShape shape;
    Corpus texts = corpus();
    std::unique_ptr<Objective> objective;
    ExampleReader reader;
    Trainer trainer;
};

TEST(ExampleReader, NotesWhatTheModelHad) {
    TinyModel tiny;
    const MemoryShape shape = tiny.shape();
    ExampleReader reader(tiny.runtime(),
                         {.hidden = true, .queries = true, .entries = true, .scores = true});
    const Example e = reader.read(testing::tiny_tokens(kLength)).value();
    ASSERT_EQ(std::ssize(e.layers), shape.n_layer);
    for (const LayerExample& of : e.layers) {
        ASSERT_EQ(std::ssize(of.hidden), kLength * shape.n_embd);
        ASSERT_EQ(std::ssize(of.q), kLength * shape.n_head * shape.d_head);
        ASSERT_EQ(std::ssize(of.v), kLength * shape.n_head_kv * shape.d_head);
        ASSERT_EQ(std::ssize(of.scores), kLength * shape.n_head_kv);
        // Normed rows are not zeros, the last no more than the first; position 0 is not turned.
        for (const int64_t t : {int64_t{0}, kLength - 1}) {
            double sum = 0;
            for (int64_t c = 0; c < shape.n_embd; ++c) {
                const float x =
                    ggml_fp16_to_fp32(of.hidden[static_cast<size_t>(t * shape.n_embd + c)]);
                sum += double{x} * double{x};
            }
            EXPECT_GT(sum, 1e-6);
        }
        const auto row = static_cast<size_t>(shape.n_head * shape.d_head);
        EXPECT_EQ(std::memcmp(of.q.data(), of.q_raw.data(), row * sizeof(ggml_fp16_t)), 0);
        EXPECT_NE(std::memcmp(of.q.data() + row, of.q_raw.data() + row, row * sizeof(ggml_fp16_t)),
                  0);
        for (const float s : of.scores) {
            EXPECT_GT(s, 0.0F);
            EXPECT_LE(s, 1.0F);
        }
    }
    EXPECT_LT(e.cuts[0], e.cuts[1]);
    EXPECT_LT(e.cuts[1], e.cuts[2]);
}

TEST(Trainer, LearnsWhatItReads) {
    TinyTraining t;
    std::vector<double> losses;
    std::vector<Measure> measures;
    t.trainer.on_step = [&](const StepReport& r) {
        losses.push_back(r.loss);
        if (!r.held_out.empty()) measures = r.held_out;
        return true;
    };
    EXPECT_TRUE(t.trainer.run());
    ASSERT_EQ(losses.size(), 30U);
    EXPECT_LT(losses.back(), 0.97 * losses.front());
    ASSERT_EQ(measures.size(), 4U);
    EXPECT_EQ(measures[0].name, "loss");
    EXPECT_EQ(measures[1].name, "recall_50");
    EXPECT_GT(measures[1].value, 0.5);  // what chance finds
}

TEST(Trainer, GoesOnAsIfItHadNotStopped) {
    for (const auto make :
         {make_gate_objective, make_indexer_objective, make_log_indexer, make_latent_objective}) {
        TinyTraining whole(1, make);
        ASSERT_TRUE(whole.trainer.run());
        const TemporaryFile checkpoint("");
        for (const int64_t stop : {1, 17}) {
            TinyTraining first(1, make);
            first.trainer.on_step = [&](const StepReport& r) { return r.step < stop; };
            ASSERT_FALSE(first.trainer.run());
            ASSERT_EQ(first.trainer.n_done(), stop);
            first.trainer.save(checkpoint.path());
            TinyTraining second(1, make);
            second.trainer.load(checkpoint.path());
            ASSERT_TRUE(second.trainer.run());
            EXPECT_EQ(second.values(), whole.values()) << "stopped after " << stop;
        }
    }
}

TEST(Trainer, ThreadsChangeNothing) {
    for (const auto make :
         {make_gate_objective, make_indexer_objective, make_log_indexer, make_latent_objective}) {
        TinyTraining one(1, make);
        TinyTraining three(3, make);
        ASSERT_TRUE(one.trainer.run());
        ASSERT_TRUE(three.trainer.run());
        EXPECT_EQ(one.values(), three.values());
    }
}

TEST(Trainer, StopsWhileItReads) {
    TinyTraining t;
    t.trainer.on_reading = [](int64_t done, int64_t /*total*/) { return done < 2; };
    EXPECT_FALSE(t.trainer.run());
    EXPECT_EQ(t.trainer.n_done(), 0);
}

/// Within a document too, of which one takes as long as many steps; what was done counts.
TEST(Trainer, StopsInsideADocument) {
    for (const int64_t asked : {0, 3, 20}) {
        TinyTraining t;
        int64_t n = 0;
        t.trainer.goes_on = [&] { return n++ < asked; };
        EXPECT_FALSE(t.trainer.run());
        EXPECT_LE(n, asked + 2) << "what is read to its end counts";
        EXPECT_LT(t.trainer.n_done(), 30);
        if (asked < 20) continue;
        ASSERT_GT(t.trainer.n_done(), 0);
        const TemporaryFile checkpoint("");
        t.trainer.save(checkpoint.path());
        TinyTraining rest;
        rest.trainer.load(checkpoint.path());
        ASSERT_TRUE(rest.trainer.run());
        TinyTraining whole;
        ASSERT_TRUE(whole.trainer.run());
        EXPECT_EQ(rest.values(), whole.values());
    }
}

TEST(Checkpoint, OfAnotherTrainingIsRefused) {
    const TemporaryFile checkpoint("");
    TinyTraining t;
    t.trainer.save(checkpoint.path());
    TrainingOptions other = options();
    other.seed = 2;
    Trainer changed(*t.objective, t.reader, t.texts, other);
    EXPECT_THROW(changed.load(checkpoint.path()), Error);
}

TEST(Checkpoint, DamagedOnesChangeNothing) {
    const TemporaryFile good("");
    TinyTraining t;
    t.trainer.save(good.path());
    const std::string bytes = testing::read_text(good.path());
    const auto before = t.values();
    for (const size_t n :
         {size_t{0}, size_t{3}, size_t{100}, bytes.size() / 2, bytes.size() - 64}) {
        const TemporaryFile cut(bytes.substr(0, n));
        EXPECT_THROW(t.trainer.load(cut.path()), Error) << n;
    }
    const TemporaryFile other(testing::small_sidecar(t.shape).bytes());
    EXPECT_THROW(t.trainer.load(other.path()), Error);
    EXPECT_THROW(t.trainer.load("no/such.checkpoint"), Error);
    EXPECT_EQ(t.values(), before);
    t.trainer.load(good.path());
}

TEST(Schedule, RisesStaysAndFalls) {
    const Schedule s = {
        .rate = 1, .last_share = 0.1, .n_steps = 100, .n_warm_up = 10, .n_decay = 20};
    EXPECT_DOUBLE_EQ(s.at(0), 0.1);
    EXPECT_DOUBLE_EQ(s.at(9), 1);
    EXPECT_DOUBLE_EQ(s.at(79), 1);
    EXPECT_DOUBLE_EQ(s.at(89), 0.1 + 0.9 * 0.5);
    EXPECT_DOUBLE_EQ(s.at(99), 0.1);
}

TEST(Optimizer, FirstStepGoesAgainstTheSign) {
    Parameters p;
    add_parameter(p, "x", {2, 1, 1, 1}, GGML_TYPE_F32);
    p[0].gradient = {3, -4};
    Optimizer o(p);
    EXPECT_DOUBLE_EQ(o.step(p, 0.5), 5);
    EXPECT_NEAR(p[0].value[0], -0.5, 1e-5);
    EXPECT_NEAR(p[0].value[1], 0.5, 1e-5);
}

TEST(Corpus, WithoutEnoughToLearnFromIsRefused) {
    EXPECT_THROW(make_corpus({}, {}), Error);
    EXPECT_THROW(make_corpus({{1, 2}, {3, 4}}, {.length = 2, .n_held_out = 2}), Error);
}

/// What is written loads as the policy's weights, and its scores are the network's.
TEST(Sidecar, KeepsOtherPartsAndLoads) {
    TinyTraining t;
    const BaseModel base = {.architecture = "llama", .fingerprint = "0123456789abcdef"};
    const TemporaryFile old(testing::small_sidecar(t.shape).bytes());
    const TemporaryFile made("");
    write_sidecar(made.path(), old.path(), "gate", *t.objective, t.shape, base);
    const EvictionWeights w(made.path(), t.tiny.backend(), t.shape, base);
    ASSERT_NE(w.gate(), nullptr);
    EXPECT_EQ(w.gate()->n_mid, 12);
    EXPECT_TRUE(w.gate()->layers[0].retention.weight.empty());
    ASSERT_NE(w.indexer(), nullptr);
    EXPECT_EQ(w.indexer()->d_head, 8);
    ASSERT_NE(w.latent(), nullptr);
    EXPECT_TRUE(w.latent()->clips);
    EXPECT_EQ(w.warning(), "");
    EXPECT_THROW(EvictionWeights(made.path(), t.tiny.backend(), t.shape,
                                 {.architecture = "llama", .fingerprint = "another"}),
                 Error);
    write_sidecar(made.path(), "", "gate", *t.objective, t.shape, base);
    const EvictionWeights alone(made.path(), t.tiny.backend(), t.shape, base);
    EXPECT_EQ(alone.indexer(), nullptr);
}

TEST(Sidecar, KeepsNoPartsInAnotherChannelOrder) {
    TinyTraining t;
    MemoryShape other = t.shape;
    other.rotation.adjacent = !other.rotation.adjacent;
    const TemporaryFile old(testing::small_sidecar(other).bytes());
    const TemporaryFile made("untouched");
    EXPECT_THROW(write_sidecar(made.path(), old.path(), "gate", *t.objective, t.shape, {}), Error);
    std::ifstream in(made.path());
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "untouched");
}

/// What was trained scores as it does in use.
TEST(Sidecar, PolicyScoresAsTheNetworkDoes) {
    TinyTraining t;
    constexpr size_t kTensors = 7;  // a layer's
    Parameters& p = t.objective->parameters();
    for (size_t i = 5; i < p.size(); i += kTensors) {
        for (float& x : p[i].value) x *= 50;  // scores that differ
    }
    const BaseModel base = {.architecture = "llama", .fingerprint = "0123456789abcdef"};
    const TemporaryFile made("");
    write_sidecar(made.path(), "", "gate", *t.objective, t.shape, base);
    std::vector<Scores> scores;
    KvCacheOptions cache = {.n_ctx = kLength};
    cache.eviction.policy = "gate";
    cache.eviction.one_shot = true;
    cache.eviction.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.5};
    cache.supplies.learned =
        std::make_shared<const EvictionWeights>(made.path(), t.tiny.backend(), t.shape, base);
    cache.on_cut = [&](const Cut& cut) { scores = cut.scores; };
    Session session = t.tiny.session(std::make_unique<KvCache>(t.tiny.backend(), t.shape, cache));
    session.feed(t.texts.learnt[0]);
    ASSERT_EQ(std::ssize(scores), t.shape.n_layer);

    const Example e = t.reader.read(t.texts.learnt[0]).value();
    GateNetwork network({.n_embd = t.shape.n_embd, .n_mid = 12, .n_head_kv = t.shape.n_head_kv});
    const auto heads = static_cast<size_t>(t.shape.n_head_kv);
    for (size_t layer = 0; layer < scores.size(); ++layer) {
        const auto of = [&](size_t i) { return std::span(p[layer * kTensors + i].value); };
        const auto& half = e.layers[layer].hidden;
        std::vector<float> hidden(half.size());
        ggml_fp16_to_fp32_row(half.data(), hidden.data(), std::ssize(half));
        const auto rated =
            network.forward({of(0), of(1), of(2), of(3), of(4), of(5), of(6)}, hidden);
        const auto [least, most] = std::ranges::minmax(rated);
        EXPECT_GT(most - least, 0.5F);
        for (size_t i = 0; i < rated.size(); ++i) {
            EXPECT_NEAR(scores[layer][i % heads][i / heads], rated[i], 0.02) << layer << ' ' << i;
        }
    }
}

TEST(TrainingLog, ForgetsStepsThatWereLost) {
    const TemporaryFile file("");
    {
        TrainingLog log(file.path(), 0);
        for (int64_t i = 1; i <= 5; ++i) {
            StepReport r;
            r.step = i;
            r.loss = 1.0 / static_cast<double>(i);
            if (i == 4) r.held_out = {{"loss", 0.5}};
            log.add(to_json(r));
        }
        EXPECT_NE(log.svg().find("polyline"), std::string::npos);
    }
    std::ofstream(file.path(), std::ios::app) << "{\"step\": 6, \"lo";
    {
        TrainingLog again(file.path(), 3);
        EXPECT_NE(testing::read_text(file.path()).find("\"step\":5"), std::string::npos)
            << "nothing goes before something new is learnt";
        StepReport r;
        r.step = 4;
        again.add(to_json(r));
    }
    const std::string text = testing::read_text(file.path());
    EXPECT_EQ(std::ranges::count(text, '\n'), 4);
    {
        // A curve for each kind of text.
        TrainingLog kinds(file.path(), 4);
        for (int64_t i = 5; i <= 6; ++i) {
            kinds.add({{"step", i},
                       {"loss", 1.0},
                       {"held_out", {{"a<b", {{"loss", 0.5}}}, {"c", {{"loss", 0.25}}}}}});
        }
        const std::string svg = kinds.svg();
        EXPECT_NE(svg.find("held out: a&lt;b"), svg.npos);
        size_t n = 0;
        for (size_t at = svg.find("<polyline"); at != svg.npos;
             at = svg.find("<polyline", at + 1)) {
            ++n;
        }
        EXPECT_EQ(n, 3U);  // what is learnt from; "a<b" and "c" held out
    }
    const TemporaryFile other("not a log\nat all\n");
    EXPECT_THROW(TrainingLog(other.path(), 1), Error);
}

}  // namespace
}  // namespace palimpsest
