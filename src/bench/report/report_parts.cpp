#include "bench/report/report_parts.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

constexpr int kWindowColour = 8;

}  // namespace

std::string percent(double value) { return fixed(value, 1); }

std::string rate(double per_s) {
    if (per_s <= 0) return "-";
    return per_s < 99.95 ? fixed(per_s, 1) : human_count(std::llround(per_s));
}

std::string range(const Interval& interval, int64_t n, int digits) {
    if (n < 2) return "";
    return cat(fixed(interval.low, digits), " to ", fixed(interval.high, digits));
}

std::string joined(std::span<const std::string> texts, std::string_view between) {
    std::string out;
    for (const std::string& text : texts) out += cat(out.empty() ? "" : between, text);
    return out;
}

std::string group_title(std::string_view group) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kTitles = {
        {{"ruler", "RULER-style tasks"},
         {"needle", "Needle grid"},
         {"many-shot", "Many-shot classification"},
         {"many-icl", "ManyICLBench"},
         {"longbench", "LongBench"},
         {"longbench-e", "LongBench-E"},
         {"text", "Text"}}};
    for (const auto& [name, title] : kTitles) {
        if (name == group) return std::string(title);
    }
    return std::string(group);
}

std::string protocol_title(std::string_view protocol, std::string_view question) {
    if (protocol == "full") return "Full cache";
    std::string title(protocol == "one-shot" ? "One-shot" : protocol);
    if (protocol == "streaming") title = "Streaming";
    return question.empty() ? title : cat(title, ", question-", question);
}

bool is_complete(const Section& section, const MethodMean& m) {
    return m.mean && m.n_task == section.n_counting();
}

std::vector<const SummaryRow*> rows_at(const Section& section, const std::string& budget) {
    std::vector<const SummaryRow*> rows;
    std::ranges::copy_if(section.rows, std::back_inserter(rows),
                         [](const SummaryRow* r) { return r->protocol == "full"; });
    std::map<MemoryMethod, std::vector<const SummaryRow*>> by_method;
    for (const SummaryRow* r : section.rows) {
        if (r->protocol != "full" && r->budget == budget) by_method[r->method].push_back(r);
    }
    for (const bool wants_window : {true, false}) {
        for (const MethodMean& m : section.means) {
            if (m.budget != budget || is_window(m.method) != wants_window) continue;
            const auto& own = by_method[m.method];
            rows.insert(rows.end(), own.begin(), own.end());
        }
    }
    return rows;
}

SeriesColours::SeriesColours(const QualitySummary& summary) {
    struct Sum {
        double of_means = 0, n = 0;
    };
    std::map<std::string, Sum> sums;
    for (const Section& section : summary.sections) {
        for (const MethodMean& m : section.means) {
            if (!is_complete(section, m) || is_window(m.method)) continue;
            sums[m.label].of_means += m.mean->mean;
            sums[m.label].n += 1;
        }
    }
    for (const SummaryRow& row : summary.rows) {
        if (is_window(row.method)) colours_[row.label] = kWindowColour;
    }
    std::vector<std::pair<double, std::string>> order;
    order.reserve(sums.size());
    for (const auto& [label, sum] : sums) order.emplace_back(-sum.of_means / sum.n, label);
    std::ranges::sort(order);
    for (size_t i = 0; i < order.size() && i + 1 < kWindowColour; ++i) {
        colours_[order[i].second] = static_cast<int>(i) + 1;
    }
}

void SeriesColours::paint(std::vector<ChartSeries>& series) const {
    std::vector<bool> is_taken(kWindowColour + 1, false);
    for (ChartSeries& s : series) {
        const auto own = colours_.find(s.label);
        s.colour = own == colours_.end() ? 0 : own->second;
        is_taken[static_cast<size_t>(s.colour)] = true;
    }
    for (ChartSeries& s : series) {
        if (s.colour > 0) continue;
        const auto free = std::find(is_taken.begin() + 1, is_taken.end() - 1, false);
        if (free == is_taken.end() - 1) return;
        *free = true;
        s.colour = static_cast<int>(free - is_taken.begin());
    }
}

}  // namespace palimpsest
