#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace palimpsest {

/// What is counted, from any thread.
class Metrics {
 public:
    std::atomic<int64_t> requests = 0, refused = 0, failed = 0, cancelled = 0;
    std::atomic<int64_t> tokens_read = 0, tokens_cached = 0, tokens_written = 0;
    std::atomic<int64_t> steps = 0, step_rows = 0;
    std::atomic<int64_t> running = 0, waiting = 0;
    std::atomic<int64_t> bytes_running = 0, bytes_idle = 0, bytes_checkpoints = 0, bytes_limit = 0;
    std::atomic<int64_t> tokens_kept = 0, tokens_partly = 0, tokens_latent = 0, tokens_dropped = 0;
    std::atomic<int64_t> sessions = 0, sessions_saved = 0, sessions_restored = 0,
                         sessions_refused = 0, save_failures = 0, save_conflicts = 0,
                         bytes_on_disk = 0, sessions_unwritten = 0;
    std::atomic<bool> is_store_down = false;

    /// Of one answer.
    void observe_first_token(double seconds);

    /// In Prometheus' text format.
    [[nodiscard]] std::string text(int64_t n_connections) const;

    static constexpr std::array<double, 12> kBounds = {0.05, 0.1, 0.25, 0.5, 1,   2,
                                                       5,    10,  30,   60,  120, 600};

 private:
    std::array<std::atomic<int64_t>, kBounds.size() + 1> first_token_ = {};
    std::atomic<int64_t> first_token_us_ = 0;
};

}  // namespace palimpsest
