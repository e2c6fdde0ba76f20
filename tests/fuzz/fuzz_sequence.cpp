// Saved conversations: they load, or Error says what is wrong and the sequence is as new. What
// loaded is reported, saved and loaded again, and read on from, past the next cut.
//
// The first byte says what kind of memory the rest is loaded into.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/sequence.h"
#include "expect.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using fuzzing::expect;
using fuzzing::is_refused;

struct Kind {
    const char* policy;
    const char* residue = "none";
    bool one_shot = false;
    OptionMap settings = {};
    bool is_softmax = false;  // the latent memory's form
};

/// Seeds name their kind by its place: new ones go to the end.
const std::vector<Kind>& kinds() {
    static const std::vector<Kind> kKinds = {
        {"full"},
        {"window"},
        {"window", "merge"},
        {"window", "centroids"},
        {"snap-kv", "none", false, {{"window", "8"}}},
        {"snap-kv", "merge", true, {{"window", "8"}}},
        {"h2o"},
        {"h2o", "centroids", true},
        {"tova"},
        {"expected-attention"},
        {"chunk-kv", "none", false, {{"window", "8"}}},
        {"lag-kv"},
        {"cur"},
        {"leverage", "merge"},
        {"kvzip"},
        {"random"},
        {"gate", "latent"},
        {"indexer", "latent"},
        {"window", "latent", false, {}, true},
    };
    return kKinds;
}

constexpr int64_t kChunk = 48;

/// One model, and a sequence of every kind that was asked for.
class Sequences {
 public:
    Sequence& of(size_t kind) {
        std::unique_ptr<Sequence>& at = made_[kind];
        if (at == nullptr) at = make(kinds().at(kind));
        return *at;
    }

    void read(Sequence& sequence, int64_t n) {
        sequence.feed({{.tokens = testing::tiny_tokens(n)}});
        run(sequence);
    }
    void write(Sequence& sequence, TokenId token) {
        sequence.accept(token);
        run(sequence);
    }

 private:
    void run(Sequence& sequence) {
        Sequence* const one = &sequence;
        batch_.run(std::span(&one, 1));
    }
    std::unique_ptr<Sequence> make(const Kind& kind) {
        EvictionOptions e = {.policy = kind.policy, .residue = kind.residue};
        e.settings = kind.settings;
        e.one_shot = kind.one_shot;
        if (e.policy != "full") e.budget = {.kind = Budget::Kind::kEntries, .count = 24};
        if (e.policy != "full" && !e.one_shot) e.n_recent = 4;
        e.interval = 8;
        const auto learned = kind.is_softmax ? testing::small_softmax_memory(tiny_.shape())
                                             : testing::small_weights(tiny_.shape());
        auto memory = make_memory(
            "kv", tiny_.backend(), tiny_.shape(),
            {.n_ctx = 128, .eviction = e, .supplies = {.n_chunk = kChunk, .learned = learned}});
        const RehearsalTexts asking = {.first = {1, 2}, .later = {3, 4}, .answer = {5}};
        return std::make_unique<Sequence>(
            tiny_.model().config(), std::move(memory),
            SequenceOptions{.n_chunk = kChunk, .rehearsal = asking, .model = "tiny"});
    }

    // One layer that sees all, one with a window.
    testing::TinyModel tiny_{
        {.architecture = "gemma3", .n_head = 2, .n_head_kv = 1, .d_head = 8, .n_ctx = 128}};
    Batch batch_{tiny_.model(), tiny_.backend()};
    std::map<size_t, std::unique_ptr<Sequence>> made_;
};

std::string saved(const Sequence& sequence) {
    std::ostringstream out;
    sequence.save(out);
    return out.str();
}

void use(Sequences& all, Sequence& sequence) {
    const auto check_report = [&] {
        const MemoryReport report = sequence.memory().report();
        expect(report.positions_seen == sequence.position(), "another number of positions");
        expect(std::ssize(report.held_share) == report.positions_seen, "positions are missing");
    };
    check_report();
    const std::string once = saved(sequence);
    std::istringstream in(once);
    sequence.load(in);  // what it wrote itself it must take
    expect(saved(sequence) == once, "saved twice it is another");
    if (sequence.room() < 2) return;
    // It may protect more than fits beside what comes next.
    is_refused([&] {
        all.read(sequence, std::min<int64_t>(sequence.room() - 1, 60));
        all.write(sequence, 1);
        check_report();
    });
}

}  // namespace
}  // namespace palimpsest

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace palimpsest;
    static Sequences all;
    if (size == 0) return 0;
    Sequence& sequence = all.of(data[0] % kinds().size());
    sequence.reset();
    std::istringstream in(std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
    if (fuzzing::is_refused([&] { sequence.load(in); })) {
        fuzzing::expect(sequence.position() == 0 && !sequence.wants(), "it is not as new");
        return 0;
    }
    use(all, sequence);
    return 0;
}
