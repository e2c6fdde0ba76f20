// Log-linear attention's states (arXiv:2506.04761, section 3): level l > 0 holds 2^(l-1) tokens or
// none, the newest in the finest, as the bits of the position say.

#include <algorithm>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {

namespace {

class LogLinearBank final : public HeadBank {
 public:
    LogLinearBank(const BankShape& shape, int64_t n_levels)
        : shape_(shape),
          counts_(static_cast<size_t>(n_levels)),
          states_(static_cast<size_t>(n_levels) * shape.values()),
          scratch_(2 * static_cast<size_t>(shape.n_columns)) {}

    void take_in(const BankToken& token) override {
        cascade();
        ++counts_[0];
        std::fill_n(token.out, shape_.n_columns, 0.0F);
        for (size_t l = 0; l < counts_.size(); ++l) {
            if (counts_[l] == 0) continue;
            pass_token(shape_, state(l), token,
                       {.writes = l == 0,
                        .weight = token.weights == nullptr ? 1.0F : token.weights[l],
                        .scratch = scratch_});
        }
    }

    void reset() override {
        std::ranges::fill(counts_, 0);
        std::ranges::fill(states_, 0.0F);
    }

    [[nodiscard]] std::vector<BankState> states() const override {
        std::vector<BankState> all;
        for (size_t l = 0; l < counts_.size(); ++l) {
            all.push_back(
                {.values = std::span(states_).subspan(l * shape_.values(), shape_.values()),
                 .n = counts_[l]});
        }
        return all;
    }
    [[nodiscard]] const BankDecision& decision() const override { return decision_; }
    [[nodiscard]] size_t bytes() const override { return states_.size() * sizeof(float); }

    void save(std::ostream& out) const override {
        put_all(out, counts_);
        put_all(out, states_);
    }
    void load(std::istream& in) override {
        reset();
        auto counts = take_all<int64_t>(in, std::ssize(counts_));
        auto states = take_states(in, states_.size());
        if (counts.size() != counts_.size()) refuse_states("other levels");
        // Of all but the last, a level is full or empty.
        for (size_t l = 0; l < counts.size(); ++l) {
            const bool is_last = l + 1 == counts.size();
            const int64_t full = l == 0 ? 1 : int64_t{1} << (l - 1);
            const bool fits = counts[l] >= 0 && (is_last || counts[l] == 0 || counts[l] == full);
            if (!fits) refuse_states(cat(counts[l], " tokens at level ", l));
        }
        counts_ = std::move(counts);
        states_ = std::move(states);
    }

 private:
    [[nodiscard]] float* state(size_t level) { return states_.data() + level * shape_.values(); }

    /// Level l holds as many tokens as it may: they go to the next one. The last takes all.
    void cascade() {
        int64_t full = 1;
        for (size_t l = 0; l + 1 < counts_.size() && counts_[l] == full; ++l) {
            float* from = state(l);
            float* to = state(l + 1);
            for (size_t i = 0; i < shape_.values(); ++i) to[i] += from[i];
            std::fill_n(from, shape_.values(), 0.0F);
            counts_[l + 1] += counts_[l];
            counts_[l] = 0;
            full *= 2;
        }
    }

    BankShape shape_;
    std::vector<int64_t> counts_;
    std::vector<float> states_, scratch_;
    BankDecision decision_;
};

}  // namespace

std::unique_ptr<HeadBank> make_log_linear_bank(const BankShape& shape, const BankOptions& o) {
    require(o.n_states >= 1 && o.n_states <= 64, o.n_states, " levels; there can be 1 to 64");
    return std::make_unique<LogLinearBank>(shape, o.n_states);
}

}  // namespace palimpsest
