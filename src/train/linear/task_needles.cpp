// Codes hidden in documentation, asked for at its end. Most sequences are plain documentation, of
// which every token is to be told; of the others only the codes are.

#include <algorithm>
#include <array>

#include "core/error.h"
#include "train/linear/linear_task.h"

namespace palimpsest {

namespace {

constexpr uint64_t kExaminedSeed = 15485863;
constexpr auto kNames = std::to_array<std::string_view>(
    {"ada", "bo",  "cleo", "dan", "eva", "finn", "gus", "hal",  "ida",
     "jo",  "kim", "leo",  "mia", "ned", "ole",  "pam", "quin", "ray",
     "sue", "tom", "una",  "vic", "wes", "xena", "yan", "zoe"});
constexpr std::array<int64_t, 2> kCounts = {1, 4};    // needles in a sequence
constexpr std::array<int64_t, 3> kTimes = {1, 2, 4};  // lengths, of what is learnt
constexpr int64_t kDigits = 4;
constexpr int64_t kDepths = 5;

class Needles final : public LinearTask {
 public:
    Needles(const LinearTaskOptions& o, const Tokenizer* tokenizer)
        : o_(o), texts_(o, tokenizer, 4 * o.length + 1) {
        require(o.length >= 192, "sequences of ", o.length, " tokens are too short for needles; ",
                "192 are needed");
        for (const int64_t times : kTimes) {
            for (const int64_t n : kCounts) {
                names_.push_back(
                    cat(times * o.length, " tokens, ", n, n == 1 ? " needle" : " needles"));
            }
        }
        for (int64_t d = 0; d < kDepths; ++d) {
            names_.push_back(cat("depth ", 100 * d / kDepths, "-", 100 * (d + 1) / kDepths, " %"));
        }
        names_.push_back("text");
    }

    [[nodiscard]] int64_t n_vocab() const override { return texts_.n_vocab(); }
    [[nodiscard]] const std::vector<std::string>& sets() const override { return names_; }

    [[nodiscard]] int64_t bytes_of(int64_t token) const override { return texts_.bytes_of(token); }
    [[nodiscard]] uint64_t fingerprint() const override {
        return palimpsest::fingerprint(o_) ^ texts_.fingerprint();
    }

    [[nodiscard]] LinearBatch learnt(int64_t n_sequences, Random& random) const override {
        LinearBatch batch(n_sequences, o_.length);
        for (int64_t i = 0; i < n_sequences; ++i) {
            texts_.cut(batch, i, false, random);
            if (random.unit() < o_.needle_share) {
                const int64_t n = kCounts.at(static_cast<size_t>(random.below(2)));
                hide(batch, i, n, random.unit(), 0, random);
            } else {
                tell_all(batch, i, 0);
            }
        }
        return batch;
    }

    [[nodiscard]] std::vector<LinearBatch> examined(int64_t n_sequences) const override {
        std::vector<LinearBatch> all;
        Random random(kExaminedSeed);
        const auto add = [&](int64_t times, const auto& make) {
            const int64_t most = std::max<int64_t>(1, n_sequences / times);
            for (int64_t done = 0; done < o_.n_examined; done += most) {
                LinearBatch batch(std::min(most, o_.n_examined - done), times * o_.length);
                for (int64_t i = 0; i < batch.n_sequences; ++i) {
                    texts_.cut(batch, i, true, random);
                    make(batch, i, done + i);
                }
                all.push_back(std::move(batch));
            }
        };
        for (size_t t = 0; t < kTimes.size(); ++t) {
            for (size_t c = 0; c < kCounts.size(); ++c) {
                add(kTimes.at(t), [&](LinearBatch& batch, int64_t i, int64_t which) {
                    const int64_t depth = which % kDepths;
                    const double at = (static_cast<double>(depth) + random.unit()) / kDepths;
                    uint64_t sets = uint64_t{1} << (t * kCounts.size() + c);
                    if (kCounts.at(c) == 1) sets |= uint64_t{64} << depth;
                    hide(batch, i, kCounts.at(c), at, sets, random);
                });
            }
        }
        add(1, [&](LinearBatch& batch, int64_t i, int64_t /*which*/) {
            tell_all(batch, i, uint64_t{64} << kDepths);
        });
        return all;
    }

 private:
    static void tell_all(LinearBatch& batch, int64_t sequence, uint64_t sets) {
        for (int64_t t = 0; t + 1 < batch.length; ++t) {
            const size_t place = batch.at(sequence, t);
            batch.set_target(place, batch.tokens[place + 1], sets);
        }
    }

    /// Puts n needles into a sequence, the one that is asked for at `depth`, and the question.
    void hide(LinearBatch& batch, int64_t sequence, int64_t n, double depth, uint64_t sets,
              Random& random) const {
        const std::vector<int64_t> who = random.sample(std::ssize(kNames), n);
        std::vector<int64_t> end;
        std::vector<int64_t> code;
        std::vector<std::vector<int64_t>> needles;
        for (int64_t i = 0; i < n; ++i) {
            std::string digits;
            for (int64_t d = 0; d < kDigits; ++d) {
                digits += static_cast<char>('0' + random.below(10));
            }
            const auto name = kNames.at(static_cast<size_t>(who[static_cast<size_t>(i)]));
            const std::string says = cat("\nThe code of ", name, " is ");
            needles.push_back(texts_.tokens_of(cat(says, digits, ".\n")));
            if (i > 0) continue;
            end = texts_.tokens_of(says);
            code = texts_.tokens_of(digits);
        }
        const int64_t room = batch.length - std::ssize(end) - std::ssize(code);
        const auto put = [&](const std::vector<int64_t>& what, int64_t at) {
            std::ranges::copy(
                what, batch.tokens.begin() + static_cast<std::ptrdiff_t>(batch.at(sequence, at)));
        };
        // Each in a stretch of its own, so that none is written over.
        const int64_t each = room / n;
        const auto asked = std::min(n - 1, static_cast<int64_t>(depth * static_cast<double>(n)));
        for (int64_t i = 0; i < n; ++i) {
            const auto& needle = needles[static_cast<size_t>(i == asked ? 0 : i == 0 ? asked : i)];
            const double in = i == asked ? depth * static_cast<double>(n) - static_cast<double>(i)
                                         : random.unit();
            const auto at =
                static_cast<int64_t>(in * static_cast<double>(each - std::ssize(needle)));
            const int64_t first = i * each + std::clamp<int64_t>(at, 0, each - std::ssize(needle));
            put(needle, first);
            batch.opens[batch.at(sequence, first)] = 1;
            batch.opens[batch.at(sequence, first + std::ssize(needle))] = 1;
        }
        put(end, room);
        put(code, room + std::ssize(end));
        batch.opens[batch.at(sequence, room)] = 1;
        // A code is as much as a text's tokens, of which there are many more.
        const float weight =
            static_cast<float>(batch.length) / (4 * static_cast<float>(code.size()));
        for (size_t i = 0; i < code.size(); ++i) {
            const int64_t from = room + std::ssize(end) - 1 + static_cast<int64_t>(i);
            batch.set_target(batch.at(sequence, from), code[i], sets, weight);
        }
    }

    LinearTaskOptions o_;
    LinearTexts texts_;
    std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<LinearTask> make_needle_task(const LinearTaskOptions& options,
                                             const Tokenizer* tokenizer) {
    return std::make_unique<Needles>(options, tokenizer);
}

}  // namespace palimpsest
