// Keeps the entries whose keys, before rotation, are hardest to make from the others.
//
// Statistical leverage scores of sketched keys: the first half of Compactor (Chari and Van Durme,
// 2025, arXiv:2507.08143), as in kvpress. The sketch is a Gaussian matrix; `sketch` names a file
// of raw f32, [layer][KV head][d_head in half-split order][columns], to use instead.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>

#include "core/error.h"
#include "memory/attention/row_tiles.h"
#include "memory/policy/policies.h"
#include "memory/rotation.h"

namespace palimpsest {

namespace {

constexpr int64_t kColumns = 48;
constexpr double kJitter = 1e-2;

/// In place: the lower triangle becomes L with L L' = A. False if A is not positive definite.
bool factorise(std::vector<double>& a, int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = j; i < n; ++i) {
            double sum = a[static_cast<size_t>(i * n + j)];
            for (int64_t k = 0; k < j; ++k) {
                sum -= a[static_cast<size_t>(i * n + k)] * a[static_cast<size_t>(j * n + k)];
            }
            if (i > j) {
                a[static_cast<size_t>(i * n + j)] = sum / a[static_cast<size_t>(j * n + j)];
                continue;
            }
            if (!(sum > 0)) return false;
            a[static_cast<size_t>(j * n + j)] = std::sqrt(sum);
        }
    }
    return true;
}

class Leverage final : public EvictionPolicy {
 public:
    Leverage(const MemoryShape& shape, OptionReader& options) : shape_(shape) {
        const auto seed = static_cast<uint64_t>(options.integer("seed", 0, 0, INT64_MAX));
        const std::string file = options.text("sketch", "");
        sketch_.resize(
            static_cast<size_t>(shape.n_layer * shape.n_head_kv * shape.d_head * kColumns));
        if (file.empty()) {
            draw(seed);
        } else {
            read(file);
        }
    }

    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        double sum = 0;
        double count = 0;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            scores.push_back(score_head(held, h));
            for (const float x : scores.back()) sum += static_cast<double>(x);
            count += static_cast<double>(scores.back().size());
        }
        double squares = 0;
        for (const auto& of : scores) {
            for (const float x : of) squares += std::pow(static_cast<double>(x) - sum / count, 2);
        }
        const double deviation = std::sqrt(squares / std::max(1.0, count - 1));
        for (auto& of : scores) {
            for (float& x : of) {
                x = static_cast<float>((static_cast<double>(x) - sum / count) /
                                       std::max(deviation, 1e-12));
            }
        }
        return scores;
    }
    [[nodiscard]] size_t bytes() const override { return sketch_.size() * sizeof(float); }

 private:
    /// Normal numbers by Box and Muller (1958) from a plain generator, the same on every machine.
    void draw(uint64_t seed) {
        uint64_t state = seed * 2 + 1;
        const auto uniform = [&state] {
            state = state * 6364136223846793005U + 1442695040888963407U;
            return (static_cast<double>(state >> 11U) + 0.5) * 0x1p-53;
        };
        for (float& x : sketch_) {
            const double radius = std::sqrt(-2.0 * std::log(uniform()));
            x = static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * uniform()) /
                                   std::sqrt(static_cast<double>(kColumns)));
        }
    }

    void read(const std::string& file) {
        std::ifstream in(file, std::ios::binary);
        if (!in) throw Error(ErrorCode::kNotFound, cat("cannot read the sketch '", file, "'"));
        in.read(reinterpret_cast<char*>(sketch_.data()),
                static_cast<std::streamsize>(sketch_.size() * sizeof(float)));
        if (!in || in.peek() != std::ifstream::traits_type::eof()) {
            throw Error(ErrorCode::kCorrupt,
                        cat("the sketch '", file, "' must hold ", sketch_.size(), " f32 values"));
        }
    }

    /// Channel c of a stored key in half-split order.
    [[nodiscard]] int64_t half_split(int64_t c) const {
        const Rotation& r = shape_.rotation;
        const auto half = static_cast<int64_t>(r.frequency.size());
        if (!r.adjacent || c >= 2 * half) return c;
        return c % 2 * half + c / 2;
    }

    [[nodiscard]] std::vector<float> score_head(const LayerView& held, size_t h) const {
        const HeadView& head = held.heads[h];
        const int64_t d = shape_.d_head;
        const auto n = static_cast<double>(head.positions.size());
        // Keys before rotation, centred.
        std::vector<float> keys;
        keys.reserve(head.positions.size() * static_cast<size_t>(d));
        Turner turner(shape_.rotation);
        std::vector<double> mean(static_cast<size_t>(d));
        size_t entry = 0;
        for_keys(head, [&](std::span<const float> key) {
            const size_t at = keys.size();
            keys.insert(keys.end(), key.begin(), key.end());
            turner.turn(keys.data() + at, -int64_t{head.rotary[entry++]});
            for (size_t c = 0; c < key.size(); ++c) mean[c] += static_cast<double>(keys[at + c]);
        });
        for (size_t i = 0; i < keys.size(); ++i) {
            keys[i] -= static_cast<float>(mean[i % static_cast<size_t>(d)] / n);
        }
        return leverage_of(sketched(held, h, keys), held.scratch);
    }

    /// [entries][kColumns]
    [[nodiscard]] std::vector<float> sketched(const LayerView& held, size_t h,
                                              const std::vector<float>& keys) const {
        const int64_t d = shape_.d_head;
        const float* sketch =
            sketch_.data() +
            (held.layer * shape_.n_head_kv + static_cast<int64_t>(h)) * d * kColumns;
        std::vector<float> columns(static_cast<size_t>(kColumns * d));
        for (int64_t c = 0; c < d; ++c) {
            for (int64_t j = 0; j < kColumns; ++j) {
                columns[static_cast<size_t>(j * d + c)] = sketch[half_split(c) * kColumns + j];
            }
        }
        const int64_t n = std::ssize(keys) / d;
        std::vector<float> out(static_cast<size_t>(n * kColumns));
        multiply_keys(f32_rows(keys.data(), d), {0, n}, columns, out.data(), held.scratch);
        return out;
    }

    static EntryRows f32_rows(const float* rows, int64_t d) {
        const auto* bytes = reinterpret_cast<const std::byte*>(rows);
        return {.type = GGML_TYPE_F32,
                .k = bytes,
                .v = bytes,
                .row_bytes = static_cast<size_t>(d) * sizeof(float),
                .d = d};
    }

    /// x' (X'X + jitter)^-1 x of every row x, at least 0.
    static std::vector<float> leverage_of(const std::vector<float>& x, float* scratch) {
        const int64_t m = kColumns;
        const int64_t n = std::ssize(x) / m;
        std::vector<double> gram(static_cast<size_t>(m * m));
        for (int64_t t = 0; t < n; ++t) {
            const float* row = x.data() + t * m;
            for (int64_t i = 0; i < m; ++i) {
                for (int64_t j = 0; j <= i; ++j) {
                    gram[static_cast<size_t>(i * m + j)] +=
                        static_cast<double>(row[i]) * static_cast<double>(row[j]);
                }
            }
        }
        std::vector<double> factor;
        double jitter = kJitter;
        do {  // more until the sum is positive definite
            factor = gram;
            for (int64_t i = 0; i < m; ++i) factor[static_cast<size_t>(i * m + i)] += jitter;
            jitter *= 10;
        } while (!factorise(factor, m) && jitter < 1e6);
        // Rows of L^-1: the score is |L^-1 x|^2.
        std::vector<float> inverse(static_cast<size_t>(m * m));
        for (int64_t c = 0; c < m; ++c) {
            std::vector<double> column(static_cast<size_t>(m));
            for (int64_t i = c; i < m; ++i) {
                double sum = i == c ? 1.0 : 0.0;
                for (int64_t k = c; k < i; ++k) {
                    sum -= factor[static_cast<size_t>(i * m + k)] * column[static_cast<size_t>(k)];
                }
                column[static_cast<size_t>(i)] = sum / factor[static_cast<size_t>(i * m + i)];
                inverse[static_cast<size_t>(i * m + c)] =
                    static_cast<float>(column[static_cast<size_t>(i)]);
            }
        }
        std::vector<float> products(x.size());
        multiply_keys(f32_rows(x.data(), m), {0, n}, inverse, products.data(), scratch);
        std::vector<float> scores;
        for (int64_t t = 0; t < n; ++t) {
            scores.push_back(squared_norm(std::span<const float>(products).subspan(
                static_cast<size_t>(t * m), static_cast<size_t>(m))));
        }
        return scores;
    }

    MemoryShape shape_;
    std::vector<float> sketch_;
};

}  // namespace

MadePolicy make_leverage(const PartInputs& in) {
    return std::make_unique<Leverage>(in.shape, in.options);
}

}  // namespace palimpsest
