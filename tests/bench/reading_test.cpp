// How far from exact the products of many rows are: against weights and activations in f32, beside
// libllama's, which rounds activations to 8 bits.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "bench/peer.h"
#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/dense_product.h"
#include "model/int8_kernel.h"
#include "model/load.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

constexpr int64_t kContext = 2304;
constexpr size_t kStep = 100;  // rows of logits held at once

/// Log-softmax of a row, in double precision.
std::vector<double> log_shares(std::span<const float> logits) {
    const float most = *std::ranges::max_element(logits);
    double sum = 0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l - most));
    std::vector<double> out;
    out.reserve(logits.size());
    for (const float l : logits) out.push_back(static_cast<double>(l - most) - std::log(sum));
    return out;
}

/// Distances of rows of logits from exact ones.
struct Distance {
    double divergence = 0, squares = 0;
    double n_rows = 0, n_values = 0;

    void add(std::span<const float> exact, std::span<const float> got) {
        const std::vector<double> p = log_shares(exact);
        const std::vector<double> q = log_shares(got);
        for (size_t i = 0; i < p.size(); ++i) {
            divergence += std::exp(p[i]) * (p[i] - q[i]);
            const double d = static_cast<double>(exact[i]) - static_cast<double>(got[i]);
            squares += d * d;
        }
        n_rows += 1;
        n_values += static_cast<double>(p.size());
    }
    [[nodiscard]] double mean_divergence() const { return divergence / n_rows; }
    [[nodiscard]] double rms() const { return std::sqrt(squares / n_values); }
};

/// A model that reads in one way.
class Reader {
 public:
    Reader(const std::string& path, Reading reading, ggml_type entries)
        : backend_(Backend::available_threads()),
          loaded_(path, backend_, reading),
          session_(loaded_.model(), backend_,
                   make_memory("kv", backend_, loaded_.config().memory_shape(),
                               {.n_ctx = kContext, .entries = entries}),
                   SessionOptions{}) {}

    [[nodiscard]] const LoadedModel& loaded() const { return loaded_; }
    void reset() { session_.reset(); }

    /// Rows of logits of every token.
    std::vector<float> read(std::span<const TokenId> tokens) {
        std::vector<float> rows;
        session_.feed(
            std::vector(tokens.begin(), tokens.end()),
            {.on_progress = {}, .on_logits = [&](int64_t /*position*/, std::span<const float> row) {
                 rows.insert(rows.end(), row.begin(), row.end());
             }});
        return rows;
    }

    /// Negative log-likelihood of a text's tokens, but the first.
    double surprise(const std::vector<TokenId>& text) {
        double sum = 0;
        size_t at = 0;
        session_.reset();
        session_.feed(text, {.on_progress = {},
                             .on_logits = [&](int64_t /*position*/, std::span<const float> row) {
                                 if (++at < text.size()) {
                                     sum -= log_shares(row)[static_cast<size_t>(text[at])];
                                 }
                             }});
        return sum;
    }

 private:
    Backend backend_;
    LoadedModel loaded_;
    Session session_;
};

class RealReading : public ::testing::Test {
 protected:
    void SetUp() override {
        REQUIRE_MODEL();
        path = *model_path;
        begin();
    }
    void begin() {
        REQUIRE_DOCUMENT();
        // Elsewhere the products are libllama's own.
        if (!int8_obstacle().empty() && !DenseProduct::obstacle(Numbers::kBf16).empty()) {
            GTEST_SKIP() << int8_obstacle();
        }
        text = testing::read_text(*document_path) + testing::read_text(PALIMPSEST_PEER_HEADER);
    }

    [[nodiscard]] std::vector<TokenId> tokens_of(const LoadedModel& loaded, size_t n) const {
        std::vector<TokenId> tokens = loaded.require_tokenizer().encode(text);
        EXPECT_GE(tokens.size(), n);
        tokens.resize(n);
        return tokens;
    }

    /// Logits of 2,000 tokens lie no further from exact than libllama's.
    void expect_no_further() const {
        Reader exact(path, Reading::kF32, GGML_TYPE_F32);
        Reader ours(path, Reading::kAuto, GGML_TYPE_F16);
        Peer peer(path, {.n_ctx = kContext,
                         .n_threads = Backend::available_threads(),
                         .flash_attention = true});
        const std::vector<TokenId> tokens = tokens_of(exact.loaded(), 2000);
        const auto n_vocab = static_cast<size_t>(exact.loaded().config().n_vocab);
        Distance of_ours;
        Distance of_peer;
        for (size_t at = 0; at < tokens.size(); at += kStep) {
            const auto part = std::span(tokens).subspan(at, kStep);
            const std::vector<float> wanted = exact.read(part);
            const std::vector<float> own = ours.read(part);
            const std::vector<float> theirs = peer.feed_for_all_logits(part);
            for (size_t row = 0; row < wanted.size(); row += n_vocab) {
                const auto of = [&](const std::vector<float>& rows) {
                    return std::span(rows).subspan(row, n_vocab);
                };
                of_ours.add(of(wanted), of(own));
                of_peer.add(of(wanted), of(theirs));
            }
        }
        std::cout << "from f32: ours diverges by " << of_ours.mean_divergence() << ", logits by "
                  << of_ours.rms() << "; libllama's by " << of_peer.mean_divergence() << " and "
                  << of_peer.rms() << "\n";
        EXPECT_LE(of_ours.mean_divergence(), of_peer.mean_divergence());
        EXPECT_LE(of_ours.rms(), of_peer.rms());
    }

    /// Perplexity in windows of 2,000 tokens is that of f32 within `bound`, a share.
    void expect_same_perplexity(size_t n_tokens, Reading reading, double bound) const {
        constexpr size_t kWindow = 2000;
        Reader exact(path, Reading::kF32, GGML_TYPE_F16);
        Reader ours(path, reading, GGML_TYPE_F16);
        const std::vector<TokenId> tokens = tokens_of(exact.loaded(), n_tokens);
        double difference = 0;
        double wanted = 0;
        for (size_t at = 0; at < n_tokens; at += kWindow) {
            std::vector<TokenId> window = exact.loaded().require_tokenizer().beginning();
            window.insert(window.end(), tokens.begin() + static_cast<int64_t>(at),
                          tokens.begin() + static_cast<int64_t>(at + kWindow));
            const double of_exact = exact.surprise(window);
            wanted += of_exact;
            difference += ours.surprise(window) - of_exact;
        }
        const auto n = static_cast<double>(n_tokens);
        std::cout << "perplexity: in f32 " << std::exp(wanted / n) << ", ours "
                  << std::exp((wanted + difference) / n) << "\n";
        EXPECT_NEAR(std::exp(difference / n), 1.0, bound);
    }

    std::string path, text;
};

TEST_F(RealReading, LogitsOf2000TokensAreNoFurtherFromF32ThanLibllamas) { expect_no_further(); }

// Wanted is 0.1 %: measured 0.064 % (Gemma: 0.070 %). Without bf16 for the logits, on other
// processors, the divergence foretells 0.09 %, give or take 0.03.
constexpr double kIntegers = 0.0015;
constexpr double kWanted = 0.001;

TEST_F(RealReading, PerplexityOf20000TokensIsNearThatOfF32) {
    expect_same_perplexity(20000, Reading::kAuto, kIntegers);
}

TEST_F(RealReading, PerplexityInBf16IsThatOfF32) {
    const std::string obstacle = DenseProduct::obstacle(Numbers::kBf16);
    if (!obstacle.empty()) GTEST_SKIP() << obstacle;
    expect_same_perplexity(10000, Reading::kBf16, kWanted);
}

class RealGemmaReading : public RealReading {
 protected:
    void SetUp() override {
        REQUIRE_GEMMA();
        path = *gemma_path;
        begin();
    }
};

TEST_F(RealGemmaReading, LogitsOf2000TokensAreNoFurtherFromF32ThanLibllamas) {
    expect_no_further();
}

TEST_F(RealGemmaReading, PerplexityOf20000TokensIsNearThatOfF32) {
    expect_same_perplexity(20000, Reading::kAuto, kIntegers);
}

}  // namespace
}  // namespace palimpsest
