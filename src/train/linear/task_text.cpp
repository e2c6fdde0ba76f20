// Telling the next token of documentation. What was said long ago shows in two ways: by position,
// and where the last eight tokens have stood in the same sequence before, far away.

#include <algorithm>
#include <array>
#include <map>

#include "core/error.h"
#include "train/linear/linear_task.h"

namespace palimpsest {

namespace {

constexpr uint64_t kExaminedSeed = 104729;
constexpr int64_t kContext = 8;    // tokens that stood there before
constexpr int64_t kFarAway = 256;  // and so many ago at least
// Ends of stretches of positions that are counted apart.
constexpr std::array<int64_t, 7> kEnds = {64, 128, 256, 512, 1024, 4096, 65536};

class Text final : public LinearTask {
 public:
    Text(const LinearTaskOptions& o, const Tokenizer* tokenizer)
        : o_(o), texts_(o, tokenizer, 4 * o.length + 1) {
        names_ = {"all", cat("beyond ", o.length), "seen before"};
        int64_t first = 0;
        for (const int64_t end : kEnds) {
            names_.push_back(cat("positions ", first, "-", end - 1));
            first = end;
        }
    }

    [[nodiscard]] int64_t n_vocab() const override { return texts_.n_vocab(); }
    [[nodiscard]] const std::vector<std::string>& sets() const override { return names_; }
    [[nodiscard]] int64_t bytes_of(int64_t token) const override { return texts_.bytes_of(token); }
    [[nodiscard]] uint64_t fingerprint() const override {
        return palimpsest::fingerprint(o_) ^ texts_.fingerprint();
    }

    [[nodiscard]] LinearBatch learnt(int64_t n_sequences, Random& random) const override {
        LinearBatch batch(n_sequences, o_.length);
        for (int64_t i = 0; i < n_sequences; ++i) cut(batch, i, false, random);
        return batch;
    }

    /// Windows as long as learnt ones, and a quarter as many that are four times as long.
    [[nodiscard]] std::vector<LinearBatch> examined(int64_t n_sequences) const override {
        std::vector<LinearBatch> all;
        Random random(kExaminedSeed);
        for (const int64_t times : {1, 4}) {
            const int64_t n = std::max<int64_t>(1, o_.n_examined / times);
            const int64_t most = std::max<int64_t>(1, n_sequences / times);
            for (int64_t done = 0; done < n; done += most) {
                LinearBatch batch(std::min(most, n - done), times * o_.length);
                for (int64_t i = 0; i < batch.n_sequences; ++i) {
                    cut(batch, i, true, random);
                    count(batch, i, times > 1);
                }
                all.push_back(std::move(batch));
            }
        }
        return all;
    }

 private:
    /// Every token tells the next one.
    void cut(LinearBatch& batch, int64_t sequence, bool held_out, Random& random) const {
        const int64_t after = texts_.cut(batch, sequence, held_out, random);
        for (int64_t t = 0; t < batch.length; ++t) {
            const size_t place = batch.at(sequence, t);
            batch.set_target(place, t + 1 < batch.length ? batch.tokens[place + 1] : after, 0);
        }
    }

    /// Says in which sets a sequence's targets are: of long ones, those that are beyond.
    void count(LinearBatch& batch, int64_t sequence, bool is_long) const {
        std::map<std::vector<int64_t>, int64_t> before;  // contexts, where they first stood
        for (int64_t t = 0; t < batch.length; ++t) {
            const size_t place = batch.at(sequence, t);
            bool is_repeated = false;
            if (t + 1 >= kContext) {
                const auto end = batch.tokens.begin() + static_cast<std::ptrdiff_t>(place) + 1;
                const auto [at, is_new] = before.emplace(std::vector(end - kContext, end), t);
                is_repeated = !is_new && t - at->second > kFarAway;
            }
            if (is_long && t < o_.length) continue;
            uint64_t sets = is_long ? 2 : 1;
            if (is_repeated) sets |= 4;
            const auto stretch = std::ranges::upper_bound(kEnds, t) - kEnds.begin();
            if (stretch < std::ssize(kEnds)) sets |= uint64_t{8} << stretch;
            batch.sets[place] = sets;
        }
    }

    LinearTaskOptions o_;
    LinearTexts texts_;
    std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<LinearTask> make_text_task(const LinearTaskOptions& options,
                                           const Tokenizer* tokenizer) {
    return std::make_unique<Text>(options, tokenizer);
}

}  // namespace palimpsest
