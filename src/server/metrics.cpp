#include "server/metrics.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

void Metrics::observe_first_token(double seconds) {
    const auto at = std::ranges::lower_bound(kBounds, seconds) - kBounds.begin();
    ++first_token_[static_cast<size_t>(at)];
    first_token_us_ += static_cast<int64_t>(seconds * 1e6);
}

std::string Metrics::text(int64_t n_connections) const {
    std::string out;
    const auto add = [&out](std::string_view name, std::string_view type, std::string_view help,
                            int64_t value) {
        out += cat("# HELP palimpsest_", name, " ", help, "\n# TYPE palimpsest_", name, " ", type,
                   "\npalimpsest_", name, " ", value, "\n");
    };
    add("requests_total", "counter", "Requests for answers.", requests);
    add("requests_refused_total", "counter", "Requests that were wrong, or one too many.", refused);
    add("requests_failed_total", "counter", "Requests that failed for a fault of the server.",
        failed);
    add("requests_cancelled_total", "counter", "Requests whose client went.", cancelled);
    add("requests_running", "gauge", "Requests that are read or answered now.", running);
    add("requests_waiting", "gauge", "Requests in the queue.", waiting);
    add("connections", "gauge", "Open connections.", n_connections);
    add("tokens_read_total", "counter", "Tokens of prompts that the model read.", tokens_read);
    add("tokens_cached_total", "counter", "Tokens of prompts that a memory already held.",
        tokens_cached);
    add("tokens_written_total", "counter", "Tokens of answers.", tokens_written);
    add("steps_total", "counter", "Steps of the model.", steps);
    add("step_rows_total", "counter", "Tokens in all steps.", step_rows);
    out += cat("# HELP palimpsest_memory_bytes Bytes that memories of conversations take.\n",
               "# TYPE palimpsest_memory_bytes gauge\npalimpsest_memory_bytes{kind=\"running\"} ",
               bytes_running, "\npalimpsest_memory_bytes{kind=\"idle\"} ", bytes_idle,
               "\npalimpsest_memory_bytes{kind=\"checkpoints\"} ", bytes_checkpoints, "\n");
    add("memory_limit_bytes", "gauge", "Bytes that they may take together; 0: no limit.",
        bytes_limit);
    out += cat("# HELP palimpsest_positions_total What became of positions, when answers ended.\n",
               "# TYPE palimpsest_positions_total counter\n",
               "palimpsest_positions_total{state=\"kept\"} ", tokens_kept,
               "\npalimpsest_positions_total{state=\"partly\"} ", tokens_partly,
               "\npalimpsest_positions_total{state=\"latent\"} ", tokens_latent,
               "\npalimpsest_positions_total{state=\"dropped\"} ", tokens_dropped, "\n");
    add("sessions", "gauge", "Conversations that are remembered.", sessions);
    add("sessions_saved_total", "counter", "Conversations written to the store.", sessions_saved);
    add("sessions_restored_total", "counter", "Conversations read back from the store.",
        sessions_restored);
    add("sessions_refused_total", "counter", "Saved conversations that were damaged or another's.",
        sessions_refused);
    add("session_save_failures_total", "counter",
        "Conversations that could not be written, each time.", save_failures);
    add("sessions_unwritten", "gauge", "Conversations whose last turn is not in the store yet.",
        sessions_unwritten);
    add("session_store_up", "gauge", "0: the store failed twice in a row, and is tried again.",
        is_store_down ? 0 : 1);
    add("session_conflicts_total", "counter",
        "Conversations that another server had written meanwhile.", save_conflicts);
    add("session_store_bytes", "gauge", "Bytes in the store.", bytes_on_disk);
    out += cat("# HELP palimpsest_first_token_seconds Time from a request to its first token.\n",
               "# TYPE palimpsest_first_token_seconds histogram\n");
    int64_t n = 0;
    for (size_t i = 0; i < kBounds.size(); ++i) {
        n += first_token_[i];
        out += cat("palimpsest_first_token_seconds_bucket{le=\"", kBounds[i], "\"} ", n, "\n");
    }
    n += first_token_.back();
    out += cat("palimpsest_first_token_seconds_bucket{le=\"+Inf\"} ", n,
               "\npalimpsest_first_token_seconds_sum ", static_cast<double>(first_token_us_) * 1e-6,
               "\npalimpsest_first_token_seconds_count ", n, "\n");
    return out;
}

}  // namespace palimpsest
