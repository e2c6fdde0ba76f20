// Real models against libllama's own pass, on the same file.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "bench/peer.h"
#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/load.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

// A choice between logits closer than this is nobody's.
constexpr float kUndecided = 0.05F;
constexpr int64_t kGenerated = 200;
constexpr int64_t kContext = 8192;

/// Negative log-likelihood of `token`, in natural units.
double surprise(std::span<const float> logits, TokenId token) {
    const float most = *std::ranges::max_element(logits);
    double sum = 0;
    for (const float l : logits) sum += static_cast<double>(std::exp(l - most));
    return std::log(sum) - static_cast<double>(logits[static_cast<size_t>(token)] - most);
}

class RealParity : public ::testing::Test {
 protected:
    void SetUp() override {
        REQUIRE_MODEL();
        load(*model_path);
    }

    void load(const std::string& path) {
        REQUIRE_DOCUMENT();
        read_path = path;
        // The document has 4,000 tokens; what follows it is about code.
        long_text = testing::read_text(*document_path) + testing::read_text(PALIMPSEST_PEER_HEADER);
        own_backend = std::make_unique<Backend>(Backend::available_threads());
        // libllama's own products: what is compared is everything else. How far other products are
        // from exact is asked in reading_test.cpp.
        own_model = std::make_unique<LoadedModel>(read_path, *own_backend, Reading::kQuantised);
        own_session = std::make_unique<Session>(
            own_model->model(), *own_backend,
            make_memory("kv", *own_backend, own_model->config().memory_shape(),
                        {.n_ctx = kContext}),
            SessionOptions{});
        flash_peer = peer(true);
    }

    [[nodiscard]] std::unique_ptr<Peer> peer(bool flash_attention) const {
        return std::make_unique<Peer>(read_path, PeerOptions{.n_ctx = kContext,
                                                             .n_threads = own_backend->n_threads(),
                                                             .flash_attention = flash_attention});
    }

    [[nodiscard]] const Tokenizer& tokenizer() const { return own_model->require_tokenizer(); }

    /// Tokens of `text` as the model wants them: after its own beginning, if it has one.
    [[nodiscard]] std::vector<TokenId> begun(std::span<const TokenId> text) const {
        std::vector<TokenId> tokens = tokenizer().beginning();
        tokens.insert(tokens.end(), text.begin(), text.end());
        return tokens;
    }

    [[nodiscard]] std::vector<TokenId> text_tokens(size_t n) const {
        std::vector<TokenId> tokens = tokenizer().encode(long_text);
        EXPECT_GE(tokens.size(), n);
        tokens.resize(n);
        return tokens;
    }

    [[nodiscard]] std::vector<TokenId> chat_tokens(const std::string& question) const {
        const std::vector<ChatMessage> messages = {{"user", {{question, false}}}};
        std::vector<TokenId> tokens;
        for (const Segment& s : tokenizer().encode_chat(messages)) {
            tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
        }
        return tokens;
    }

    /// The peer writes greedily and we read what it writes. Up to the first other choice both texts
    /// are the same; there, the peer itself must have been undecided. After it the texts would
    /// differ, so from then on only the share of equal choices is asked for.
    void expect_same_text(const std::string& what, const std::vector<TokenId>& prompt) {
        own_session->reset();
        flash_peer->reset();
        own_session->feed(prompt);
        flash_peer->feed(prompt);
        std::vector<TokenId> written;
        int64_t same = 0;
        float most = 0;
        for (int64_t i = 0; i < kGenerated; ++i) {
            const TokenId ours = best(own_session->logits());
            const TokenId theirs = best(flash_peer->logits());
            if (ours != theirs && same == i) expect_undecided(what, prompt, written, ours, theirs);
            same += ours == theirs ? 1 : 0;
            most = std::max(most, preference(flash_peer->logits(), theirs, ours));
            written.push_back(theirs);
            own_session->accept(theirs);
            flash_peer->feed(std::span(&theirs, 1));
        }
        std::cout << what << ": " << same << " of " << kGenerated
                  << " choices the same; libllama prefers its own by at most " << most << "\n";
        EXPECT_GE(same, kGenerated * 9 / 10);
    }

    /// The peer prefers its choice to ours by no more than kUndecided, or by no more than its own
    /// two kinds of attention differ about that. They compute the same, but activations are rounded
    /// to 8 bits before every product, and a rounding that falls the other way moves logits.
    void expect_undecided(const std::string& what, const std::vector<TokenId>& prompt,
                          const std::vector<TokenId>& written, TokenId ours, TokenId theirs) {
        const float flash = preference(flash_peer->logits(), theirs, ours);
        const std::unique_ptr<Peer> other = peer(false);
        other->feed(prompt);
        for (const TokenId& t : written) other->feed(std::span(&t, 1));
        const float plain = preference(other->logits(), theirs, ours);
        std::cout << what << ": parts at token " << written.size()
                  << ", where libllama prefers its choice by " << flash << ", with plain attention "
                  << plain << "\n";
        EXPECT_LE(flash, std::max(kUndecided, std::abs(flash - plain)))
            << what << " at token " << written.size();
    }

    /// While the peer writes, ours lies no further from it than it does from itself: its flash and
    /// plain attention round differently, too. Compared are all logits, by root mean square.
    void expect_no_further(const std::string& what, const std::vector<TokenId>& prompt) {
        const std::unique_ptr<Peer> plain = peer(false);
        own_session->reset();
        flash_peer->reset();
        own_session->feed(prompt);
        flash_peer->feed(prompt);
        plain->feed(prompt);
        double ours = 0;
        double theirs = 0;
        for (int64_t i = 0; i < kGenerated; ++i) {
            ours += squared_distance(own_session->logits(), flash_peer->logits());
            theirs += squared_distance(plain->logits(), flash_peer->logits());
            const TokenId next = best(flash_peer->logits());
            own_session->accept(next);
            flash_peer->feed(std::span(&next, 1));
            plain->feed(std::span(&next, 1));
        }
        const auto n = static_cast<double>(kGenerated * tokenizer().n_vocab());
        std::cout << what << ": logits differ from libllama's by " << std::sqrt(ours / n)
                  << ", those of its plain attention by " << std::sqrt(theirs / n) << "\n";
        EXPECT_LE(std::sqrt(ours), 1.25 * std::sqrt(theirs)) << what;
    }

    static double squared_distance(std::span<const float> a, std::span<const float> b) {
        double sum = 0;
        for (size_t i = 0; i < b.size(); ++i) {
            const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
            sum += d * d;
        }
        return sum;
    }

    /// Perplexity of so many tokens of text, in windows, is that of the peer within 0.2 %.
    void expect_same_perplexity(size_t n_tokens) {
        constexpr size_t kWindow = 2000;
        const std::vector<TokenId> tokens = text_tokens(n_tokens);
        double ours = 0;
        double theirs = 0;
        double n = 0;
        for (size_t at = 0; at < n_tokens; at += kWindow) {
            const std::vector<TokenId> window = begun(std::span(tokens).subspan(at, kWindow));
            ours += our_surprise(window);
            theirs += peer_surprise(window);
            n += static_cast<double>(window.size() - 1);
        }
        std::cout << "perplexity: ours " << std::exp(ours / n) << ", libllama "
                  << std::exp(theirs / n) << "\n";
        EXPECT_NEAR(std::exp((ours - theirs) / n), 1.0, 0.002);
    }

    double our_surprise(const std::vector<TokenId>& text) {
        double sum = 0;
        own_session->reset();
        own_session->feed(text, {.on_progress = {},
                                 .on_logits = [&](int64_t position, std::span<const float> logits) {
                                     const auto next = static_cast<size_t>(position) + 1;
                                     if (next < text.size()) sum += surprise(logits, text[next]);
                                 }});
        return sum;
    }

    double peer_surprise(std::span<const TokenId> text) {
        constexpr size_t kChunk = 100;
        const auto n_vocab = static_cast<size_t>(tokenizer().n_vocab());
        double sum = 0;
        flash_peer->reset();
        for (size_t at = 0; at < text.size(); at += kChunk) {
            const auto chunk = text.subspan(at, std::min(kChunk, text.size() - at));
            const std::vector<float> rows = flash_peer->feed_for_all_logits(chunk);
            for (size_t i = 0; i < chunk.size() && at + i + 1 < text.size(); ++i) {
                sum += surprise(std::span(rows).subspan(i * n_vocab, n_vocab), text[at + i + 1]);
            }
        }
        return sum;
    }

    static float preference(std::span<const float> logits, TokenId to, TokenId over) {
        return logits[static_cast<size_t>(to)] - logits[static_cast<size_t>(over)];
    }

    static TokenId best(std::span<const float> logits) {
        return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
    }

    std::string read_path, long_text;
    std::unique_ptr<Backend> own_backend;
    std::unique_ptr<LoadedModel> own_model;
    std::unique_ptr<Session> own_session;
    std::unique_ptr<Peer> flash_peer;
};

TEST_F(RealParity, WritesTheSameTextAfterAShortPrompt) {
    expect_same_text("short", tokenizer().encode("The capital of France is"));
}

TEST_F(RealParity, WritesTheSameTextInAChat) {
    expect_same_text("chat", chat_tokens("Explain in a few sentences why the sky is blue."));
}

TEST_F(RealParity, WritesTheSameCode) {
    expect_same_text("code", tokenizer().encode("#include <vector>\n\n// Returns the sum of all "
                                                "values.\nint sum(const std::vector<int>& v) {\n"));
}

TEST_F(RealParity, WritesTheSameTextAfter2000Tokens) { expect_same_text("2K", text_tokens(2000)); }

TEST_F(RealParity, WritesTheSameTextAfter6000Tokens) { expect_same_text("6K", text_tokens(6000)); }

TEST_F(RealParity, LogitsAfter2000TokensAreAsCloseAsLibllamasOwn) {
    expect_no_further("2K", text_tokens(2000));
}

TEST_F(RealParity, PerplexityOf20000TokensIsTheSame) { expect_same_perplexity(20000); }

/// A vocabulary of another kind, windows, other quantization; a base model, so no chat.
class RealGemmaParity : public RealParity {
 protected:
    void SetUp() override {
        REQUIRE_GEMMA();
        load(*gemma_path);
    }
};

TEST_F(RealGemmaParity, WritesTheSameTextAfterAShortPrompt) {
    expect_same_text("short", begun(tokenizer().encode("The capital of France is")));
}

TEST_F(RealGemmaParity, LogitsAfter2000TokensAreAsCloseAsLibllamasOwn) {
    expect_no_further("2K", begun(text_tokens(2000)));
}

TEST_F(RealGemmaParity, PerplexityOf4000TokensIsTheSame) { expect_same_perplexity(4000); }

}  // namespace
}  // namespace palimpsest
