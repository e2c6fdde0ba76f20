// Recalling pairs (MQAR: "Zoology", arXiv:2312.04927, section 3): a sequence begins with pairs of a
// key and its value; later each key comes once more, and its value is to be told. How far from the
// pairs follows a power law. Ours: what stands between is one and the same token.

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "train/linear/linear_task.h"

namespace palimpsest {

namespace {

constexpr double kPower = 0.01;
constexpr uint64_t kExaminedSeed = 7919;
constexpr int64_t kFiller = 0;

class Recall final : public LinearTask {
 public:
    explicit Recall(const LinearTaskOptions& o) : o_(o) {
        if (o_.pairs.empty()) {
            for (int64_t n = 4; 4 * n <= o_.length && 2 * n + 2 <= o_.n_vocab; n *= 2) {
                o_.pairs.push_back(n);
            }
        }
        require(!o_.pairs.empty() && std::ssize(o_.pairs) <= 32, "sequences of ", o_.length,
                " tokens are too short for pairs to recall");
        for (const int64_t n : o_.pairs) {
            require(n >= 1 && 4 * n <= o_.length, n, " pairs do not fit in ", o_.length,
                    " tokens: four for each are needed");
            require(2 * n + 2 <= o_.n_vocab, n, " pairs of a vocabulary of ", o_.n_vocab);
            names_.push_back(cat(n, " pairs"));
        }
    }

    [[nodiscard]] int64_t n_vocab() const override { return o_.n_vocab; }
    [[nodiscard]] const std::vector<std::string>& sets() const override { return names_; }

    [[nodiscard]] uint64_t fingerprint() const override { return palimpsest::fingerprint(o_); }

    [[nodiscard]] LinearBatch learnt(int64_t n_sequences, Random& random) const override {
        LinearBatch batch(n_sequences, o_.length);
        for (int64_t i = 0; i < n_sequences; ++i) {
            make(batch, i, static_cast<size_t>(random.below(std::ssize(o_.pairs))), random);
        }
        return batch;
    }

    [[nodiscard]] std::vector<LinearBatch> examined(int64_t n_sequences) const override {
        std::vector<LinearBatch> all;
        Random random(kExaminedSeed);
        for (size_t set = 0; set < o_.pairs.size(); ++set) {
            for (int64_t done = 0; done < o_.n_examined; done += n_sequences) {
                LinearBatch batch(std::min(n_sequences, o_.n_examined - done), o_.length);
                for (int64_t i = 0; i < batch.n_sequences; ++i) make(batch, i, set, random);
                all.push_back(std::move(batch));
            }
        }
        return all;
    }

 private:
    void make(LinearBatch& batch, int64_t sequence, size_t set, Random& random) const {
        const int64_t n = o_.pairs[set];
        const int64_t half = o_.n_vocab / 2;
        const std::vector<int64_t> keys = random.sample(half - 1, n);
        const std::vector<int64_t> values = random.sample(half, n);
        const std::vector<int64_t> gaps = some_gaps((o_.length - 2 * n) / 2, n, random);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t key = 1 + keys[static_cast<size_t>(i)];
            const int64_t value = half + values[static_cast<size_t>(i)];
            const size_t pair = batch.at(sequence, 2 * i);
            batch.tokens[pair] = key;
            batch.tokens[pair + 1] = value;
            batch.opens[pair] = 1;
            const size_t asked = batch.at(sequence, 2 * n + 2 * gaps[static_cast<size_t>(i)]);
            batch.tokens[asked] = key;
            batch.set_target(asked, value, uint64_t{1} << set);
        }
        const size_t after = batch.at(sequence, 2 * n);
        if (2 * n < o_.length) batch.opens[after] = 1;
        static_assert(kFiller == 0, "a batch begins as filler");
    }

    /// n different ones of `space`, near ones more likely.
    static std::vector<int64_t> some_gaps(int64_t space, int64_t n, Random& random) {
        std::vector<double> weights;
        double sum = 0;
        for (int64_t i = 1; i <= space; ++i) {
            weights.push_back(std::pow(static_cast<double>(i), kPower - 1));
            sum += weights.back();
        }
        std::vector<int64_t> gaps;
        while (std::ssize(gaps) < n) {
            double at = random.unit() * sum;
            size_t i = 0;
            while (i + 1 < weights.size() && (weights[i] == 0 || at >= weights[i])) {
                at -= weights[i++];
            }
            if (weights[i] == 0) continue;  // the last one was taken, and rounding led to it
            sum -= weights[i];
            weights[i] = 0;
            gaps.push_back(static_cast<int64_t>(i));
        }
        return gaps;
    }

    LinearTaskOptions o_;
    std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<LinearTask> make_recall_task(const LinearTaskOptions& options,
                                             const Tokenizer* /*tokenizer*/) {
    require(options.n_vocab >= 8, "a vocabulary of ", options.n_vocab, " tokens is too small");
    return std::make_unique<Recall>(options);
}

}  // namespace palimpsest
