// Dynamic linear attention (arXiv:2606.10650, sections 3.1 and 3.2): a token further from the open
// state than a threshold closes it and opens another; of too many, two neighbours merge. The same
// machinery with other boundaries, or another choice of what merges, is what it is compared with.
//
// Ours, where the paper's text does not say: every head decides by itself; states that are closed
// go through the layer's whole rule, so that all of them add up to the single state; a token's
// score is scale-free, sqrt(2 - 2 cosine) of its own k v^T and the open state before it decays.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/random.h"
#include "memory/binary_stream.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {

namespace {

enum class Boundaries { kByScore, kEqual, kRandom };
enum class Merging { kByInformation, kWard };

constexpr int64_t kRecompute = 64;  // tokens after which the norm is taken from the state itself

struct Slot {
    size_t place = 0;  // of its state
    int64_t n = 0;
    float information = 0;
};

class SlotBank final : public HeadBank {
 public:
    SlotBank(const BankShape& shape, const BankOptions& options, Boundaries boundaries,
             Merging merging)
        : shape_(shape),
          o_(options),
          boundaries_(boundaries),
          merging_(merging),
          is_summed_(!shape.are_weighed && merging == Merging::kByInformation),
          states_(n_places() * shape.values()),
          scratch_(2 * static_cast<size_t>(shape.n_columns)),
          read_(static_cast<size_t>(shape.n_columns)),
          next_read_(static_cast<size_t>(shape.n_columns)),
          closed_read_(static_cast<size_t>(shape.n_columns)) {
        SlotBank::reset();
    }

    void take_in(const BankToken& token) override {
        decision_ = decide(token);
        // With one state there is nothing to close: the layer is as without a bank.
        const bool opens = slots_.empty() || (decision_.opens && o_.n_states > 1);
        const bool is_full = opens && std::ssize(slots_) == o_.n_states;
        // Means are compared of states as the token leaves them. What merges by scores is known
        // before, and that states pass one by one or added up is the same.
        const bool pass_first = is_full && merging_ == Merging::kWard;
        if (pass_first) move_closed(token);
        if (is_full) merge();
        if (opens) open();
        if (is_summed_) {
            pass_summed(token, opens);
        } else {
            pass(token, pass_first);
        }
        Slot& last = slots_.back();
        last.n += 1;
        last.information += decision_.score;
        note_norm(token, opens);
        ++n_seen_;
    }

    void reset() override {
        slots_.clear();
        free_.clear();
        for (size_t i = n_places(); i-- > 0;) free_.push_back(i);
        knows_read_ = knows_closed_ = false;
        std::ranges::fill(states_, 0.0F);
        n_seen_ = 0;
        norm_ = 0;
        decision_ = {};
    }

    [[nodiscard]] std::vector<BankState> states() const override {
        std::vector<BankState> all;
        for (size_t i = 0; i < slots_.size(); ++i) {
            const Slot& s = slots_[i];
            std::span<const float> values;
            if (has_values(i)) {
                values = std::span(states_).subspan(s.place * shape_.values(), shape_.values());
            }
            all.push_back({.values = values, .n = s.n, .information = s.information});
        }
        return all;
    }
    [[nodiscard]] const BankDecision& decision() const override { return decision_; }
    [[nodiscard]] size_t bytes() const override { return states_.size() * sizeof(float); }

    void save(std::ostream& out) const override {
        put(out, n_seen_);
        put(out, norm_);
        put(out, std::ssize(slots_));
        const std::vector<BankState> all = states();
        for (const BankState& s : all) {
            put(out, s.n);
            put(out, s.information);
            if (!s.values.empty()) {
                put_all(out, std::vector<float>(s.values.begin(), s.values.end()));
            }
        }
    }

    void load(std::istream& in) override {
        reset();
        try {
            load_slots(in);
        } catch (...) {
            reset();
            throw;
        }
    }

 private:
    void load_slots(std::istream& in) {
        const auto n_seen = take<int64_t>(in);
        const auto norm = take<double>(in);
        const auto n_slots = take<int64_t>(in);
        const bool fits = n_seen >= 0 && std::isfinite(norm) && norm >= 0 && n_slots >= 0 &&
                          n_slots <= o_.n_states && (n_slots > 0) == (n_seen > 0);
        if (!fits) refuse_states(cat(n_slots, " states of ", n_seen, " tokens"));
        int64_t n_left = n_seen;
        for (int64_t i = 0; i < n_slots; ++i) {
            const bool is_last = i + 1 == n_slots;
            if (!is_summed_) {
                open();
            } else {
                slots_.push_back({.place = is_last ? kOpen : kClosed});
            }
            Slot& s = slots_.back();
            s.n = take<int64_t>(in);
            s.information = take<float>(in);
            if (s.n < 1 || s.n > n_left || !std::isfinite(s.information)) {
                refuse_states(cat("a state of ", s.n, " tokens among ", n_seen));
            }
            n_left -= s.n;
            if (i == 0 || is_last || !is_summed_) {
                std::ranges::copy(take_states(in, shape_.values()), state(s));
            }
        }
        if (n_left != 0) refuse_states(cat("no state for ", n_left, " of ", n_seen, " tokens"));
        n_seen_ = n_seen;
        norm_ = norm;
    }

    static constexpr size_t kClosed = 0, kOpen = 1;  // places, where closed states are one sum

    [[nodiscard]] size_t n_places() const {
        return is_summed_ ? 2 : static_cast<size_t>(o_.n_states);
    }
    /// Is a slot's state, or the sum of all that are closed, at its place?
    [[nodiscard]] bool has_values(size_t slot) const {
        return !is_summed_ || slot == 0 || slot + 1 == slots_.size();
    }
    [[nodiscard]] float* state(const Slot& s) { return at(s.place); }
    [[nodiscard]] float* at(size_t place) { return states_.data() + place * shape_.values(); }

    /// Leaves in read_ what the open state gives for the token's key, before it decays.
    BankDecision decide(const BankToken& token) {
        if (slots_.empty()) return {.score = o_.first_score, .opens = true};
        if (knows_read_) {
            std::swap(read_, next_read_);
        } else {
            read_state(state(slots_.back()), shape_.n_rows, shape_.n_columns, token.k,
                       read_.data());
        }
        sizes_ = sizes_of(token);
        const std::optional<float> far = score();
        return {.score = far.value_or(0.0F),
                .opens = token.opens == nullptr ? opens_at(far) : *token.opens};
    }

    [[nodiscard]] bool opens_at(std::optional<float> score) const {
        switch (boundaries_) {
            case Boundaries::kByScore:
                return score && *score >= o_.threshold;
            case Boundaries::kEqual:
                return n_seen_ % o_.block == 0;
            case Boundaries::kRandom:
                return lot() < o_.rate;
        }
        return false;
    }

    /// Inner products of a token's key and value, and of what its key reads.
    struct Sizes {
        double keys = 0, values = 0, along = 0, read = 0;
    };
    [[nodiscard]] Sizes sizes_of(const BankToken& token) const {
        const int64_t n = shape_.n_columns;
        return {.keys = static_cast<double>(dot(token.k, token.k, shape_.n_rows)),
                .values = static_cast<double>(dot(token.v, token.v, n)),
                .along = static_cast<double>(dot(read_.data(), token.v, n)),
                .read = static_cast<double>(dot(read_.data(), read_.data(), n))};
    }

    /// Paper, equation 13, as inner products; nullopt for what has no direction.
    [[nodiscard]] std::optional<float> score() const {
        const double size = std::sqrt(sizes_.keys * sizes_.values * norm_);
        if (!std::isfinite(size) || size <= 0) return std::nullopt;
        return static_cast<float>(std::sqrt(std::max(0.0, 2 - 2 * sizes_.along / size)));
    }

    /// 0 to 1, of the seed and the token's place alone.
    [[nodiscard]] double lot() const {
        return Random(o_.seed * 1000003 + static_cast<uint64_t>(n_seen_)).unit();
    }

    /// The token through all states, which are closed by it.
    void move_closed(const BankToken& token) {
        for (const Slot& s : slots_) {
            pass_token(shape_, state(s), token,
                       {.moves = o_.closed, .weight = 0, .scratch = scratch_});
        }
    }

    /// The token through all states, but closed ones that have `moved`, and what they give for its
    /// query.
    void pass(const BankToken& token, bool moved) {
        std::fill_n(token.out, shape_.n_columns, 0.0F);
        for (size_t i = 0; i < slots_.size(); ++i) {
            const size_t age = slots_.size() - 1 - i;
            pass_token(shape_, state(slots_[i]), token,
                       {.moves = age == 0 ? ClosedStates::kTransition
                                 : moved  ? ClosedStates::kNothing
                                          : o_.closed,
                        .writes = age == 0,
                        .weight = token.weights == nullptr ? 1.0F : token.weights[age],
                        .scratch = scratch_});
        }
    }

    /// The same where closed states are one sum, and what the next token reads in the same pass.
    void pass_summed(const BankToken& token, bool is_new) {
        std::fill_n(token.out, shape_.n_columns, 0.0F);
        StateStep step = {.q = token.q,
                          .k = token.k,
                          .stays = token.stays,
                          .write = token.write,
                          .out = token.out,
                          .next_k = token.next_k};
        if (slots_.size() > 1) pass_closed(token, step, is_new);
        if (is_new) step.stays = 0;
        step.v = token.v;
        step.read = read_.data();
        step.next_read = next_read_.data();
        step_state(shape_.rule, at(kOpen), shape_.n_rows, shape_.n_columns, step);
        knows_read_ = token.next_k != nullptr;
    }

    /// `more`: the state that was open is closed now, and not yet among them.
    void pass_closed(const BankToken& token, StateStep step, bool more) {
        if (o_.closed == ClosedStates::kNothing) step.stays = 1;
        const bool erases =
            o_.closed == ClosedStates::kTransition && shape_.rule == StateRule::kGatedDelta;
        if (erases && !knows_closed_) {
            read_state(at(kClosed), shape_.n_rows, shape_.n_columns, token.k, closed_read_.data());
        }
        if (more) {
            step.more = at(kOpen);
            for (size_t c = 0; erases && c < read_.size(); ++c) closed_read_[c] += read_[c];
        }
        if (!erases) step.next_k = nullptr;
        // Vectors are read before they are written: the next token's may take this one's place.
        step.read = closed_read_.data();
        step.next_read = closed_read_.data();
        step_state(erases ? StateRule::kGatedDelta : StateRule::kScalarDecay, at(kClosed),
                   shape_.n_rows, shape_.n_columns, step);
        knows_closed_ = step.next_k != nullptr;
    }

    /// What it costs to merge slots i and i + 1.
    [[nodiscard]] double cost(size_t i) {
        const Slot& a = slots_[i];
        const Slot& b = slots_[i + 1];
        const auto n_a = static_cast<double>(a.n);
        const auto n_b = static_cast<double>(b.n);
        if (merging_ == Merging::kByInformation) {
            return static_cast<double>(a.information + b.information) / (n_a + n_b);
        }
        double apart = 0;
        for (size_t j = 0; j < shape_.values(); ++j) {
            const double d =
                static_cast<double>(state(a)[j]) / n_a - static_cast<double>(state(b)[j]) / n_b;
            apart += d * d;
        }
        return n_a * n_b / (n_a + n_b) * apart;
    }

    void merge() {
        size_t best = 0;
        double least = std::numeric_limits<double>::infinity();
        for (size_t i = 0; i + 1 < slots_.size(); ++i) {
            const double c = cost(i);
            if (!(c < least)) continue;
            least = c;
            best = i;
        }
        Slot& to = slots_[best];
        const Slot from = slots_[best + 1];
        to.n += from.n;
        to.information += from.information;
        if (!is_summed_) {
            const float* gone = at(from.place);
            float* into = at(to.place);
            for (size_t j = 0; j < shape_.values(); ++j) into[j] += gone[j];
            free_.push_back(from.place);
        }
        slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(best) + 1);
        decision_.merged = static_cast<int64_t>(best);
    }

    void open() {
        if (is_summed_) {
            if (!slots_.empty()) slots_.back().place = kClosed;
            slots_.push_back({.place = kOpen});
            return;
        }
        slots_.push_back({.place = free_.back()});
        free_.pop_back();
        std::fill_n(state(slots_.back()), shape_.values(), 0.0F);
    }

    /// The open state's squared norm, by recursion: S <- a S + w k e^T, e being what is really
    /// written, v - a S^T k with the delta rule. From the state itself now and then.
    void note_norm(const BankToken& token, bool is_new) {
        if (n_seen_ % kRecompute == 0) {
            const float* s = state(slots_.back());
            norm_ = static_cast<double>(dot(s, s, static_cast<int64_t>(shape_.values())));
            return;
        }
        const auto w = static_cast<double>(token.write);
        const double a = is_new ? 0 : static_cast<double>(token.stays);
        const double erased = shape_.rule == StateRule::kGatedDelta ? a : 0;
        const Sizes& s = sizes_;
        const double written = s.values - 2 * erased * s.along + erased * erased * s.read;
        const double along = s.along - erased * s.read;  // (S^T k) . e
        norm_ = a * a * norm_ + 2 * a * w * along + w * w * s.keys * std::max(0.0, written);
        norm_ = std::max(norm_, 0.0);
    }

    BankShape shape_;
    BankOptions o_;
    Boundaries boundaries_;
    Merging merging_;
    bool is_summed_;
    std::vector<float> states_, scratch_;
    std::vector<float> read_, next_read_;  // S^T k of the open state, of a token and the next
    std::vector<float> closed_read_;       // the same of closed ones, where they are a sum
    bool knows_read_ = false, knows_closed_ = false;  // of the token that comes
    Sizes sizes_;
    std::vector<Slot> slots_;   // oldest first
    std::vector<size_t> free_;  // places of no slot
    int64_t n_seen_ = 0;
    double norm_ = 0;
    BankDecision decision_;
};

std::unique_ptr<HeadBank> make(const BankShape& shape, const BankOptions& o, Boundaries boundaries,
                               Merging merging) {
    require(o.n_states >= 1 && o.n_states <= 4096, o.n_states, " states; there can be 1 to 4096");
    require(!std::isnan(o.threshold), "a threshold that is not a number");
    require(o.block >= 1, "blocks of ", o.block, " tokens");
    require(o.rate >= 0 && o.rate <= 1, "boundaries at a rate of ", o.rate);
    return std::make_unique<SlotBank>(shape, o, boundaries, merging);
}

}  // namespace

std::unique_ptr<HeadBank> make_single_bank(const BankShape& shape, const BankOptions& options) {
    BankOptions one = options;
    one.n_states = 1;
    return make(shape, one, Boundaries::kByScore, Merging::kByInformation);
}
std::unique_ptr<HeadBank> make_dynamic_bank(const BankShape& shape, const BankOptions& options) {
    return make(shape, options, Boundaries::kByScore, Merging::kByInformation);
}
std::unique_ptr<HeadBank> make_ward_bank(const BankShape& shape, const BankOptions& options) {
    return make(shape, options, Boundaries::kByScore, Merging::kWard);
}
std::unique_ptr<HeadBank> make_equal_bank(const BankShape& shape, const BankOptions& options) {
    return make(shape, options, Boundaries::kEqual, Merging::kByInformation);
}
std::unique_ptr<HeadBank> make_random_bank(const BankShape& shape, const BankOptions& options) {
    return make(shape, options, Boundaries::kRandom, Merging::kByInformation);
}

}  // namespace palimpsest
