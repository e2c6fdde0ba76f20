// From rows to what may be compared: sections, and each method's mean in them.

#include <algorithm>
#include <array>
#include <functional>
#include <tuple>

#include "bench/quality/quality_summary.h"
#include "bench/tasks/task.h"
#include "core/error.h"

namespace palimpsest {

namespace {

/// Sorts sections into reading order.
struct SectionKey {
    std::string model;
    size_t group_rank = 0;
    std::string group;
    int64_t length = 0;
    size_t protocol_rank = 0;
    std::string protocol, question;

    auto operator<=>(const SectionKey&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// Groups in the order of the table of tasks; others after them.
size_t group_rank(std::string_view group) {
    const auto kinds = task_kinds();
    return static_cast<size_t>(std::ranges::find(kinds, group, &TaskKind::group) - kinds.begin());
}

size_t rank_in(std::span<const std::string_view> order, std::string_view name) {
    return static_cast<size_t>(std::ranges::find(order, name) - order.begin());
}

SectionKey section_key(const SummaryRow& row) {
    constexpr std::array<std::string_view, 3> kProtocols = {"one-shot", "streaming", "full"};
    return {.model = row.asked.model,
            .group_rank = group_rank(row.asked.group),
            .group = row.asked.group,
            .length = row.asked.group == "needle" ? 0 : row.asked.length,
            .protocol_rank = rank_in(kProtocols, row.protocol),
            .protocol = row.protocol,
            .question = row.question};
}

using Rows = std::vector<const SummaryRow*>;

bool is_scored(const SummaryRow& row) { return row.asked.metric != "kl"; }

bool has_asked(const Rows& rows, const AskedTask& asked) {
    return std::ranges::any_of(rows, [&](const SummaryRow* r) { return r->asked == asked; });
}

/// Rows of the methods, section by section; full caches join every section that asks the same, or
/// make one of their own if nothing else was run.
std::map<SectionKey, Rows> rows_by_section(std::span<const SummaryRow> rows) {
    std::map<SectionKey, Rows> sections;
    for (const SummaryRow& row : rows) {
        if (is_scored(row) && row.protocol != "full") sections[section_key(row)].push_back(&row);
    }
    std::map<SectionKey, Rows> full_alone;
    for (const SummaryRow& row : rows) {
        if (!is_scored(row) || row.protocol != "full") continue;
        const SectionKey key = section_key(row);
        bool has_section = false;
        for (auto& [other, members] : sections) {
            if (std::tie(other.model, other.group, other.length) !=
                std::tie(key.model, key.group, key.length)) {
                continue;
            }
            has_section = true;
            if (has_asked(members, row.asked)) members.push_back(&row);
        }
        if (!has_section) full_alone[key].push_back(&row);
    }
    sections.merge(full_alone);
    return sections;
}

/// What the full cache scored on what the section's methods were asked, which may be less than it
/// was asked itself: of the method that was asked most. Without methods, all of it.
void set_full_score(SectionTask& task, const Rows& rows) {
    int64_t most = 0;
    for (const SummaryRow* row : rows) {
        if (row->asked != task.asked) continue;
        if (row->n_paired > most && row->protocol != "full") {
            most = row->n_paired;
            task.full_score = row->full_score;
        }
        // Several full caches differ in the type of their entries: f16 is the usual one.
        const bool is_better = !task.full_score || row->method.entries == "f16";
        if (most == 0 && row->protocol == "full" && is_full(row->method) && is_better) {
            task.full_score = row->score.mean;
        }
    }
}

/// In the order in which they first came.
std::vector<SectionTask> tasks_of(const Rows& rows) {
    std::vector<SectionTask> tasks;
    for (const SummaryRow* row : rows) {
        if (std::ranges::find(tasks, row->asked, &SectionTask::asked) != tasks.end()) continue;
        tasks.push_back({.asked = row->asked, .label = row->asked.task, .full_score = {}});
        set_full_score(tasks.back(), rows);
    }
    return tasks;
}

/// Makes labels unique: by length, then by the template.
void tell_apart(std::vector<SectionTask>& tasks) {
    const bool with_length = std::ranges::any_of(tasks, [&](const SectionTask& task) {
        return task.asked.length != tasks.front().asked.length;
    });
    for (SectionTask& task : tasks) {
        if (with_length) task.label += cat(" ", task.asked.length);
    }
    for (SectionTask& task : tasks) {
        const bool has_twin = std::ranges::any_of(tasks, [&](const SectionTask& other) {
            return &other != &task && other.asked.task == task.asked.task &&
                   other.asked.length == task.asked.length &&
                   other.asked.has_template != task.asked.has_template;
        });
        if (has_twin && !task.asked.has_template) task.label += ", no template";
    }
}

void choose_counting(Section& section) {
    const auto reaches = [](const SectionTask& task) {
        return task.full_score.value_or(0) >= kFullScoreThatCounts;
    };
    section.has_retention = std::ranges::any_of(section.tasks, reaches);
    double sum = 0;
    for (SectionTask& task : section.tasks) {
        task.counts = !section.has_retention || reaches(task);
        if (section.has_retention && task.counts) sum += *task.full_score;
    }
    if (section.has_retention) {
        section.full_mean = sum / static_cast<double>(section.n_counting());
    }
}

using BudgetKey = std::pair<MemoryMethod, std::string>;

/// Of ratios to the full cache, or of scores, which are ratios to 1.
std::optional<Interval> mean_over(const Rows& rows, bool has_retention) {
    std::vector<std::vector<double>> ones;  // not moved once they are looked at
    ones.reserve(rows.size());
    std::vector<PairedScores> tasks;
    for (const SummaryRow* row : rows) {
        if (has_retention) {
            tasks.push_back({.method = row->paired_scores, .full = row->paired_full_scores});
        } else {
            ones.emplace_back(row->scores.size(), 1.0);
            tasks.push_back({.method = row->scores, .full = ones.back()});
        }
    }
    auto mean = bootstrap_mean_ratio(tasks);
    const double percent = has_retention ? 100 : 1;  // scores are percent already
    if (mean) mean = Interval{percent * mean->mean, percent * mean->low, percent * mean->high};
    return mean;
}

bool counts_in(const Section& section, const SummaryRow& row) {
    const auto task = std::ranges::find(section.tasks, row.asked, &SectionTask::asked);
    return task->counts && (!section.has_retention || row.retention);
}

MethodMean mean_of_method(const Section& section, const BudgetKey& key, const Rows& rows) {
    MethodMean m = {
        .method = key.first, .label = rows.front()->label, .budget = key.second, .mean = {}};
    Rows counting;
    const auto n = static_cast<double>(rows.size());
    for (const SummaryRow* row : rows) {
        m.bytes += row->bytes / n;
        m.bytes_share += row->bytes_share() / n;
        m.kept += row->kept / n;
        if (!counts_in(section, *row)) continue;
        counting.push_back(row);
        m.n += section.has_retention ? row->n_paired : row->n;
    }
    m.n_task = counting.size();
    if (!counting.empty()) m.mean = mean_over(counting, section.has_retention);
    return m;
}

/// Methods in the order of their mean over budgets, best first; each with its budgets together.
void sort_best_first(std::vector<MethodMean>& means) {
    std::map<MemoryMethod, std::pair<double, double>> sums;  // of means, and how many
    for (const MethodMean& m : means) {
        if (!m.mean) continue;
        sums[m.method].first += m.mean->mean;
        sums[m.method].second += 1;
    }
    const auto worth = [&](const MethodMean& m) {
        const auto sum = sums.find(m.method);
        return sum == sums.end() ? -1 : sum->second.first / sum->second.second;
    };
    std::ranges::stable_sort(means, [&](const MethodMean& a, const MethodMean& b) {
        const double of_a = worth(a);
        const double of_b = worth(b);
        return of_a != of_b ? of_a > of_b : a.method < b.method;
    });
}

std::vector<std::string> budgets_of(const std::vector<MethodMean>& means) {
    std::vector<std::pair<std::string, double>> kept;
    kept.reserve(means.size());
    for (const MethodMean& m : means) kept.emplace_back(m.budget, m.kept);
    return most_kept_first(kept);
}

void set_means(Section& section) {
    std::map<BudgetKey, Rows> methods;
    double n_full = 0;
    for (const SummaryRow* row : section.rows) {
        if (row->protocol != "full") {
            methods[{row->method, row->budget}].push_back(row);
        } else if (is_full(row->method)) {
            section.full_bytes += row->bytes;
            n_full += 1;
        }
    }
    if (n_full > 0) section.full_bytes /= n_full;
    for (const auto& [key, rows] : methods) {
        section.means.push_back(mean_of_method(section, key, rows));
    }
    sort_best_first(section.means);
    section.budgets = budgets_of(section.means);
}

/// The full cache, then every budget's rows with the window first and then by score.
void sort_rows(Section& section) {
    const auto place = [&](const SummaryRow* row) {
        const auto budget = std::ranges::find(section.budgets, row->budget);
        return std::tuple(row->protocol != "full", budget - section.budgets.begin(),
                          !is_window(row->method), -row->score.mean, row->label);
    };
    std::ranges::stable_sort(section.rows, {}, place);
}

}  // namespace

std::vector<std::string> most_kept_first(
    std::span<const std::pair<std::string, double>> kept_by_budget) {
    std::map<std::string, std::pair<double, double>> sums;  // of shares, and how many
    for (const auto& [budget, kept] : kept_by_budget) {
        sums[budget].first += kept;
        sums[budget].second += 1;
    }
    std::vector<std::string> budgets;
    budgets.reserve(sums.size());
    for (const auto& [budget, sum] : sums) budgets.push_back(budget);
    std::ranges::stable_sort(budgets, std::greater{}, [&](const std::string& budget) {
        return sums[budget].first / sums[budget].second;
    });
    return budgets;
}

size_t Section::n_counting() const {
    return static_cast<size_t>(std::ranges::count(tasks, true, &SectionTask::counts));
}

std::vector<Section> make_sections(std::span<const SummaryRow> rows) {
    std::vector<Section> sections;
    for (const auto& [key, members] : rows_by_section(rows)) {
        Section& section = sections.emplace_back();
        section.model = key.model;
        section.group = key.group;
        section.protocol = key.protocol;
        section.question = key.question;
        section.length = key.length;
        section.rows = members;
        section.tasks = tasks_of(members);
        tell_apart(section.tasks);
        choose_counting(section);
        set_means(section);
        sort_rows(section);
    }
    return sections;
}

}  // namespace palimpsest
