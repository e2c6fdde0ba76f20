#include "engine/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>

#include "core/error.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr size_t kSpansShown = 5;
constexpr size_t kMostLayersShown = 64;

Retention retention_of(float share, bool is_readable) {
    if (static_cast<double>(share) >= kKeptFrom) return Retention::kKept;
    if (static_cast<double>(share) >= kDroppedBelow) return Retention::kPartly;
    return is_readable ? Retention::kLatent : Retention::kDropped;
}

std::string text_of(const RetentionSpan& span, const ReportText& text) {
    if (text.tokenizer == nullptr || text.tokens == nullptr) return "";
    return replace_invalid_utf8(text.tokenizer->decode(text.tokens->of(span.begin, span.end)));
}

/// At most `width` characters in one line: the beginning and the end of a longer text.
std::string shortened(const std::string& text, size_t width) {
    std::vector<std::string> characters;
    for (size_t i = 0; i < text.size();) {
        size_t n = 1;
        while (i + n < text.size() && (static_cast<unsigned char>(text[i + n]) & 0xC0U) == 0x80)
            ++n;
        const bool is_control = n == 1 && static_cast<unsigned char>(text[i]) < 0x20;
        const std::string c = is_control ? " " : printable(text.substr(i, n));
        if (c != " " || (!characters.empty() && characters.back() != " ")) characters.push_back(c);
        i += n;
    }
    std::string out;
    if (characters.size() <= width) {
        for (const auto& c : characters) out += c;
        return out;
    }
    const size_t half = (width - 3) / 2;
    for (size_t i = 0; i < half; ++i) out += characters[i];
    out += " … ";
    for (size_t i = characters.size() - half; i < characters.size(); ++i) out += characters[i];
    return out;
}

std::string percent(double share) {
    std::array<char, 32> text{};
    const double p = share * 100;
    std::snprintf(text.data(), text.size(), p > 0 && p < 9.95 ? "%.1f %%" : "%.0f %%", p);
    return text.data();
}

std::string count(int64_t n) {
    std::string digits = std::to_string(n);
    for (int64_t i = std::ssize(digits) - 3; i > 0; i -= 3) {
        digits.insert(static_cast<size_t>(i), ",");
    }
    return digits;
}

std::string bytes(size_t n) {
    std::array<char, 32> text{};
    if (n < 1000000) {
        std::snprintf(text.data(), text.size(), "%.1f kB", static_cast<double>(n) / 1e3);
    } else {
        std::snprintf(text.data(), text.size(), "%.1f MB", static_cast<double>(n) / 1e6);
    }
    return text.data();
}

/// The input as a row of cells, the darker the more of the memory still holds it.
std::string bar(const MemoryReport& r, int width) {
    constexpr std::array<const char*, 5> kCells = {"·", "░", "▒", "▓", "█"};
    const auto n = static_cast<double>(r.held_share.size());
    std::string out;
    for (int cell = 0; cell < width && n > 0; ++cell) {
        const auto begin = static_cast<size_t>(n * cell / width);
        const size_t end = std::max(begin + 1, static_cast<size_t>(n * (cell + 1) / width));
        double sum = 0;
        for (size_t i = begin; i < std::min(end, r.held_share.size()); ++i) {
            sum += static_cast<double>(r.held_share[i]);
        }
        const double share = sum / static_cast<double>(end - begin);
        const size_t shade =
            share < kDroppedBelow ? 0 : std::min<size_t>(4, 1 + static_cast<size_t>(share * 4));
        out += kCells.at(shade);
    }
    return out;
}

struct Totals {
    std::array<int64_t, 4> positions{};  // of each Retention
    int64_t nowhere = 0;                 // held by no head at all

    Totals(const MemoryReport& r, const std::vector<RetentionSpan>& spans) {
        for (const RetentionSpan& s : spans) {
            positions.at(static_cast<size_t>(s.retention)) += s.end - s.begin;
        }
        for (const float share : r.held_share) nowhere += share > 0 ? 0 : 1;
    }
    [[nodiscard]] int64_t of(Retention retention) const {
        return positions.at(static_cast<size_t>(retention));
    }
};

bool is_lost(const RetentionSpan& s) {
    return s.retention == Retention::kDropped || s.retention == Retention::kLatent;
}

std::vector<RetentionSpan> largest_lost(std::vector<RetentionSpan> spans) {
    std::erase_if(spans, [](const RetentionSpan& s) { return !is_lost(s); });
    std::ranges::stable_sort(spans, std::greater{},
                             [](const RetentionSpan& s) { return s.end - s.begin; });
    spans.resize(std::min(spans.size(), kSpansShown));
    return spans;
}

double held_share_of(const MemoryReport& r, const MemoryReport::Layer& layer) {
    int64_t held = 0;
    for (const int64_t n : layer.held) held += n;
    const auto all = static_cast<double>(r.positions_seen * std::ssize(layer.held));
    return all > 0 ? static_cast<double>(held) / all : 0;
}

std::string layer_lines(const MemoryReport& r) {
    int64_t least = INT64_MAX;
    int64_t most = 0;
    size_t sliding = 0;
    size_t recurrent = 0;
    int64_t window = 0;
    std::string shares;
    size_t shown = 0;
    for (const MemoryReport::Layer& layer : r.layers) {
        if (layer.window > 0) {
            ++sliding;
            window = layer.window;
            continue;
        }
        if (layer.held.empty()) {
            ++recurrent;
            continue;
        }
        for (const int64_t n : layer.held) {
            least = std::min(least, n);
            most = std::max(most, n);
        }
        if (shown++ >= kMostLayersShown) continue;
        std::array<char, 16> text{};
        std::snprintf(text.data(), text.size(), " %.1f", held_share_of(r, layer) * 100);
        shares += text.data();
    }
    std::string out;
    if (least == most) {
        out = cat("  heads    each holds ", count(most), " entries\n");
    } else if (most > 0) {
        out = cat("  heads    ", count(least), " to ", count(most), " entries a head, ",
                  count(std::llround(mean_held(r))), " on average\n",
                  "  layers   hold of the input, in %:", shares, "\n");
    }
    if (sliding > 0) {
        out += cat("           ", sliding, " layers slide over their last ", count(window),
                   " positions by themselves\n");
    }
    if (recurrent > 0) {
        out += cat("  states   ", recurrent, " recurrent layers, ", bytes(r.bytes.states),
                   " however much is read\n");
    }
    return out;
}

bool has_entries(const MemoryReport& r) {
    return std::ranges::any_of(r.layers, [](const auto& layer) { return !layer.held.empty(); });
}

std::string heading(const MemoryReport& r) {
    if (!has_entries(r)) return "memory   states of fixed size; no layer attends\n";
    if (r.budget_entries == 0) {
        return cat("memory   full: everything is kept, ", r.entries, " entries\n");
    }
    return cat("memory   policy ", r.policy, ", allocator ", r.allocator,
               r.residue == "none" ? "" : cat(", residue ", r.residue), ", ", r.entries,
               " entries\n", "  budget   ", count(r.budget_entries),
               " entries a head, averaged over all heads",
               r.budget.ends_with("a head") ? "" : cat(" (", r.budget, ")"), "; ",
               r.one_shot ? "cut once, after the prompt" : cat("cut ", r.n_cuts, " times"), "\n");
}

std::string positions_line(const MemoryReport& r) {
    if (r.n_renumbered == 0) return "  positions as they were read\n";
    return cat("  positions made contiguous ", r.n_renumbered, " times, first after ",
               count(r.first_renumbered_at), " tokens\n");
}

/// What heads, of which each forgets by itself, still hold of the input.
std::string held_lines(const MemoryReport& r, const Totals& totals) {
    const auto n = static_cast<double>(std::max<int64_t>(1, r.positions_seen));
    const auto share = [&](Retention of) {
        return percent(static_cast<double>(totals.of(of)) / n);
    };
    if (r.budget_entries == 0) return "";
    const Retention lost = r.is_residue_readable ? Retention::kLatent : Retention::kDropped;
    std::string out =
        cat("           ", share(Retention::kKept), " held by at least half of the heads, ",
            share(Retention::kPartly), " by fewer, ", share(lost), " by next to none\n");
    if (r.is_residue_readable) {
        out += cat("           what a head let go is still read, in brief, from its ", r.residue,
                   " memory\n");
    } else {
        out += totals.nowhere == 0
                   ? "           every token is still held by some head\n"
                   : cat("           ", count(totals.nowhere), " tokens held by no head at all\n");
    }
    return out;
}

/// Counts as columns, the highest of full height; those that are not zero can be seen.
std::string columns(std::span<const int64_t> counts) {
    constexpr std::array<const char*, 9> kHeights = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    const double highest = static_cast<double>(std::max<int64_t>(1, std::ranges::max(counts)));
    std::string out;
    for (const int64_t n : counts) {
        out += kHeights.at(static_cast<size_t>(std::ceil(8 * static_cast<double>(n) / highest)));
    }
    return out;
}

/// What lookups in prefixes found; empty if there are none.
std::string prefix_lines(const MemoryReport::Prefix& p) {
    if (p.names.empty()) return "";
    std::string names;
    for (const std::string& name : p.names) names += cat(names.empty() ? "" : ", ", name);
    const auto n = static_cast<double>(std::max<int64_t>(1, p.lookups));
    std::string out =
        cat("  prefix   ", names, ": ", count(p.n_positions), " tokens looked up, ",
            count(p.lookups), " lookups; ", percent(p.mean_weight), " of the weight given to it\n");
    std::array<char, 96> text{};
    std::snprintf(text.data(), text.size(), "           mean similarity %.3f, ", p.mean_similarity);
    out += cat(text.data(), percent(static_cast<double>(p.below_floor) / n), " below the floor, ",
               count(p.exact), " read from the exact prefix\n");
    out += cat("           similarity 0 │", columns(p.similarity), "│ 1\n");
    out += cat("           holds ", bytes(p.held_bytes), ", a token reads ", bytes(p.moved_bytes));
    if (p.exact_bytes > 0) out += cat("; exact prefix on disk: ", bytes(p.exact_bytes));
    return out + "\n";
}

/// Tokens whose text says where a head opened a state.
constexpr int64_t kChangeTokens = 16;

std::string text_of(const MemoryReport::States::Change& change, const MemoryReport& r,
                    const ReportText& text) {
    const int64_t end = std::min(r.positions_seen, change.position + kChangeTokens);
    return text_of({.begin = change.position, .end = end}, text);
}

double boundary_rate(const MemoryReport& r) {
    const auto n = static_cast<double>(std::max<int64_t>(1, r.states.n_heads * r.positions_seen));
    return static_cast<double>(r.states.n_opened) / n;
}

/// The strongest, in order of position, without the first token, which opens a state everywhere.
std::vector<MemoryReport::States::Change> strongest(const MemoryReport::States& s) {
    auto all = s.changes;
    std::erase_if(all, [](const auto& c) { return c.position == 0; });
    std::ranges::stable_sort(all, std::greater{}, &MemoryReport::States::Change::share);
    all.resize(std::min(all.size(), kSpansShown));
    std::ranges::sort(all, {}, &MemoryReport::States::Change::position);
    return all;
}

/// What banks of states did; empty if there are none.
std::string bank_lines(const MemoryReport& r, const ReportText& texts, int width) {
    const MemoryReport::States& s = r.states;
    if (s.bank.empty()) return "";
    std::array<char, 32> held{};
    std::snprintf(held.data(), held.size(), "%.1f", s.mean_held);
    std::string out =
        cat("  bank     ", s.bank, ", at most ", s.n_most, " states a head: ", held.data(),
            " held on average, ", percent(boundary_rate(r)), " of tokens opened one, ",
            count(s.n_merged), " merged\n");
    size_t longest = s.lengths.size();
    while (longest > 1 && s.lengths.at(longest - 1) == 0) --longest;
    out += cat("           tokens a state: 1 │", columns(std::span(s.lengths).first(longest)), "│ ",
               count((int64_t{1} << longest) - 1), ", doubling\n");
    const auto changes = strongest(s);
    if (!changes.empty()) out += "  where most heads opened a state:\n";
    for (const auto& c : changes) {
        const std::string text = text_of(c, r, texts);
        out += cat("    ", count(c.position), " (", percent(c.share), " of heads)");
        if (!text.empty()) {
            out += cat("  ", shortened(text, static_cast<size_t>(std::clamp(width - 32, 20, 100))));
        }
        out += "\n";
    }
    return out;
}

nlohmann::json to_json(const MemoryReport& r, const MemoryReport::States& s,
                       const ReportText& texts) {
    nlohmann::json changes = nlohmann::json::array();
    for (const auto& c : s.changes) {
        changes.push_back({{"position", c.position}, {"share", c.share}});
        if (texts.tokenizer != nullptr && texts.tokens != nullptr) {
            changes.back()["text"] = text_of(c, r, texts);
        }
    }
    return {{"bank", s.bank},
            {"states_a_head", s.n_most},
            {"heads", s.n_heads},
            {"held", s.mean_held},
            {"opened", s.n_opened},
            {"merged", s.n_merged},
            {"lengths", s.lengths},
            {"boundary_rate", boundary_rate(r)},
            {"changes", std::move(changes)}};
}

nlohmann::json to_json(const MemoryReport::Prefix& p) {
    return {{"names", p.names},
            {"tokens", p.n_positions},
            {"lookups", p.lookups},
            {"similarity_histogram", p.similarity},
            {"mean_similarity", p.mean_similarity},
            {"below_floor", p.below_floor},
            {"read_exactly", p.exact},
            {"mean_weight", p.mean_weight},
            {"held_bytes", p.held_bytes},
            {"moved_bytes_per_token", p.moved_bytes},
            {"exact_bytes_on_disk", p.exact_bytes}};
}

nlohmann::json to_json(const RetentionSpan& s, const ReportText& text) {
    nlohmann::json j = {{"begin", s.begin},
                        {"end", s.end},
                        {"state", to_string(s.retention)},
                        {"held_share", s.held_share}};
    if (text.tokenizer != nullptr && text.tokens != nullptr) j["text"] = text_of(s, text);
    return j;
}

}  // namespace

std::string_view to_string(Retention retention) {
    switch (retention) {
        case Retention::kKept:
            return "kept";
        case Retention::kPartly:
            return "partly";
        case Retention::kLatent:
            return "latent";
        case Retention::kDropped:
            break;
    }
    return "dropped";
}

std::vector<RetentionSpan> retention_spans(const MemoryReport& report) {
    std::vector<RetentionSpan> spans;
    double sum = 0;
    for (size_t i = 0; i < report.held_share.size(); ++i) {
        const float share = report.held_share[i];
        const Retention r = retention_of(share, report.is_residue_readable);
        if (spans.empty() || spans.back().retention != r) {
            spans.push_back({.begin = static_cast<int64_t>(i), .retention = r});
            sum = 0;
        }
        RetentionSpan& span = spans.back();
        span.end = static_cast<int64_t>(i) + 1;
        sum += static_cast<double>(share);
        span.held_share = sum / static_cast<double>(span.end - span.begin);
    }
    return spans;
}

double mean_held(const MemoryReport& r) {
    int64_t held = 0;
    int64_t n = 0;
    for (const MemoryReport::Layer& layer : r.layers) {
        if (layer.window > 0) continue;
        for (const int64_t entries : layer.held) held += entries;
        n += std::ssize(layer.held);
    }
    return n > 0 ? static_cast<double>(held) / static_cast<double>(n) : 0;
}

std::string report_for_people(const MemoryReport& r, const ReportText& texts, int width) {
    const std::vector<RetentionSpan> spans = retention_spans(r);
    const Totals totals(r, spans);
    std::string out = heading(r);
    const std::string read = cat(count(r.positions_seen), " tokens read\n");
    if (r.held_share.empty()) {
        out += cat("  input    ", read);
    } else {
        out += cat("  input    ", bar(r, std::clamp(width - 12, 20, 100)), "\n           ", read);
    }
    out += held_lines(r, totals);
    const std::vector<RetentionSpan> lost = largest_lost(spans);
    if (!lost.empty()) out += "  largest spans that next to no head holds:\n";
    for (const RetentionSpan& s : lost) {
        const std::string text = text_of(s, texts);
        out +=
            cat("    ", count(s.begin), "–", count(s.end - 1), " (", count(s.end - s.begin), ")");
        if (!text.empty()) {
            out += cat("  ", shortened(text, static_cast<size_t>(std::clamp(width - 28, 20, 100))));
        }
        out += "\n";
    }
    if (r.budget_entries > 0) {
        out += cat("  protected  first ", r.n_sink, ", last ", r.n_recent, ", marked ",
                   count(r.n_pinned), "\n");
    }
    out += layer_lines(r);
    out += bank_lines(r, texts, width);
    if (r.budget_entries > 0) out += positions_line(r);
    out += prefix_lines(r.prefix);
    out += cat("  bytes    ", bytes(r.bytes.total()), " now, ", bytes(r.peak_bytes),
               " at most: entries ", bytes(r.bytes.entries), ", positions ",
               bytes(r.bytes.bookkeeping), ", policy ", bytes(r.bytes.policy),
               r.bytes.residue > 0 ? cat(", residue ", bytes(r.bytes.residue)) : "",
               r.bytes.states > 0 ? cat(", states ", bytes(r.bytes.states)) : "",
               ", working memory ", bytes(r.bytes.scratch), "\n");
    if (r.n_cuts > 0) {
        std::array<char, 96> text{};
        std::snprintf(text.data(), text.size(), "  time     scoring %.2f s, evicting %.2f s\n",
                      r.scoring_s, r.cutting_s);
        out += text.data();
    }
    return out;
}

std::string report_json(const MemoryReport& r, const ReportText& text) {
    const std::vector<RetentionSpan> spans = retention_spans(r);
    const Totals totals(r, spans);
    nlohmann::json j;
    j["policy"] = r.policy;
    j["allocator"] = r.allocator;
    j["residue"] = r.residue;
    j["entry_type"] = r.entries;
    j["budget"] = {{"text", r.budget}, {"entries_per_head", r.budget_entries}};
    j["protocol"] = r.budget_entries == 0 ? "full" : (r.one_shot ? "one-shot" : "streaming");
    j["tokens_in"] = text.tokens == nullptr ? r.positions_seen : text.tokens->n_input();
    j["protected"] = {{"sinks", r.n_sink}, {"recent", r.n_recent}, {"marked", r.n_pinned}};
    j["thresholds"] = {{"kept_from", kKeptFrom}, {"dropped_below", kDroppedBelow}};
    j["positions"] = {{"kept", totals.of(Retention::kKept)},
                      {"partly", totals.of(Retention::kPartly)},
                      {"latent", totals.of(Retention::kLatent)},
                      {"dropped", totals.of(Retention::kDropped)},
                      {"held_by_no_head", totals.nowhere}};
    for (const RetentionSpan& s : spans) j["spans"].push_back(to_json(s, text));
    for (const MemoryReport::Layer& layer : r.layers) {
        j["layers"].push_back({{"window", layer.window},
                               {"held", layer.held},
                               {"held_share", held_share_of(r, layer)},
                               {"bytes", layer.bytes}});
        if (!r.states.bank.empty()) j["layers"].back()["boundary_rate"] = layer.boundary_rate;
    }
    j["bytes"] = {{"total", r.bytes.total()},   {"peak", r.peak_bytes},
                  {"entries", r.bytes.entries}, {"bookkeeping", r.bytes.bookkeeping},
                  {"policy", r.bytes.policy},   {"residue", r.bytes.residue},
                  {"states", r.bytes.states},   {"working", r.bytes.scratch}};
    if (!r.prefix.names.empty()) j["prefix"] = to_json(r.prefix);
    if (!r.states.bank.empty()) j["states"] = to_json(r, r.states, text);
    j["cuts"] = r.n_cuts;
    j["seconds"] = {{"scoring", r.scoring_s}, {"evicting", r.cutting_s}};
    j["renumbered"] = {{"times", r.n_renumbered}, {"first_after", r.first_renumbered_at}};
    return json_text(j, 2) + "\n";
}

}  // namespace palimpsest
