#include "bench/report/report_document.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

template <class Set>
std::string listed(const Set& values, size_t most = 12) {
    std::string out;
    size_t n = 0;
    for (const auto& value : values) {
        if (n == most) return cat(out, " and ", values.size() - most, " more");
        out += cat(n == 0 ? "" : ", ", value);
        ++n;
    }
    return out;
}

struct Counts {
    std::set<std::string> tasks, methods, budgets, ways;
    int64_t fewest = INT64_MAX, most = 0;
};

Counts count(const QualitySummary& summary) {
    Counts c;
    for (const SummaryRow& row : summary.rows) {
        c.tasks.insert(row.asked.task);
        c.methods.insert(row.label);
        c.fewest = std::min(c.fewest, row.n);
        c.most = std::max(c.most, row.n);
        if (row.protocol == "full") continue;
        c.budgets.insert(row.budget);
        c.ways.insert(protocol_title(row.protocol, row.question));
    }
    return c;
}

void add_facts(ReportDocument& document, const QualitySummary& summary) {
    const RunFacts& facts = summary.facts;
    const Counts c = count(summary);
    ReportTable table = {.columns = {{.text = "what"}, {.text = "which"}}, .rows = {}, .n_text = 2};
    const auto add = [&](std::string_view what, std::string which) {
        if (which.empty()) return;
        table.rows.push_back({.cells = {{.text = std::string(what)}, {.text = std::move(which)}}});
    };
    add("models", listed(facts.models));
    add("tasks", listed(c.tasks, 60));
    add("lengths", listed(facts.lengths, 60));
    add("samples", c.fewest == c.most ? cat(c.most, " a task and method")
                                      : cat(c.fewest, " to ", c.most, " a task and method"));
    add("seeds", listed(facts.seeds));
    add("methods", listed(c.methods, 60));
    add("budgets", listed(c.budgets, 60));
    add("protocols", listed(c.ways));
    add("texts from", listed(facts.sources));
    add("processors", listed(facts.processors));
    add("threads", listed(facts.threads));
    add("commits", listed(facts.commits));
    std::string results = human_count(static_cast<int64_t>(facts.n_result));
    if (facts.n_repeated > 0) {
        results += cat("; ", facts.n_repeated, " came again later and were replaced");
    }
    add("results", std::move(results));
    document.parts.push_back({.title = "What was run", .blocks = {{.table = std::move(table)}}});
}

/// The best of one budget in one section; what it says of the window beside it.
ReportCell best_cell(const Section& section, const std::string& budget) {
    const MethodMean* best = nullptr;
    const MethodMean* window = nullptr;
    for (const MethodMean& m : section.means) {
        if (m.budget != budget || !is_complete(section, m)) continue;
        if (is_window(m.method)) window = &m;
        if (best == nullptr || m.mean->mean > best->mean->mean) best = &m;
    }
    if (best == nullptr) {
        // Where the full cache itself is too weak there is nothing to retain.
        return {.text = "-", .detail = section.n_counting() == 0 ? "no task counts" : ""};
    }
    const auto n_best = std::ranges::count_if(section.means, [&](const MethodMean& m) {
        return m.budget == budget && is_complete(section, m) && m.mean->mean >= best->mean->mean;
    });
    ReportCell cell = {.text = cat(percent(best->mean->mean), " ", best->label)};
    if (n_best > 1) cell.text += cat(" and ", n_best - 1, " more");
    if (window != nullptr && window != best) cell.detail = "window " + percent(window->mean->mean);
    return cell;
}

/// What sets a section apart from the others in its table.
std::string section_name(const Section& section) {
    std::string name = section.length > 0 ? cat(section.length, " tokens, ") : "";
    name += "question-" + section.question;
    return name;
}

bool are_of_one_kind(const Section& a, const Section& b) {
    return std::tie(a.model, a.group, a.protocol) == std::tie(b.model, b.group, b.protocol);
}

/// One table a protocol and group: settings down, budgets across.
ReportTable best_table(const QualitySummary& summary, const Section& kind) {
    std::vector<std::pair<double, std::string>> budgets;
    for (const Section& section : summary.sections) {
        if (!are_of_one_kind(section, kind)) continue;
        for (const MethodMean& m : section.means) {
            const bool is_known = std::ranges::any_of(
                budgets, [&](const auto& budget) { return budget.second == m.budget; });
            if (!is_known) budgets.emplace_back(-m.kept, m.budget);
        }
    }
    std::ranges::sort(budgets);
    std::string title = cat(group_title(kind.group), ", ", kind.protocol);
    if (summary.facts.models.size() > 1) title += ", " + kind.model;
    ReportTable table = {
        .columns = {{.text = std::move(title)}, {.text = "full cache", .detail = "mean score"}},
        .rows = {}};
    for (const auto& [kept, budget] : budgets) table.columns.push_back({.text = budget});
    for (const Section& section : summary.sections) {
        if (!are_of_one_kind(section, kind)) continue;
        ReportRow row = {.cells = {{.text = section_name(section)}}};
        ReportCell full = {.text = section.full_mean ? percent(*section.full_mean) : "-"};
        full.detail = cat(section.n_counting(), section.n_counting() == 1 ? " task" : " tasks");
        row.cells.push_back(std::move(full));
        for (const auto& [kept, budget] : budgets) row.cells.push_back(best_cell(section, budget));
        table.rows.push_back(std::move(row));
    }
    return table;
}

void add_glance(ReportDocument& document, const QualitySummary& summary) {
    std::vector<const Section*> kinds;
    for (const Section& section : summary.sections) {
        const bool is_known = std::ranges::any_of(
            kinds, [&](const Section* kind) { return are_of_one_kind(*kind, section); });
        if (section.protocol != "full" && !is_known) kinds.push_back(&section);
    }
    if (kinds.empty()) return;
    ReportPart part = {.title = "At a glance"};
    part.blocks.push_back(
        {.text =
             "The best method at every budget, by the mean over tasks of what it retains of the "
             "full cache's score, in percent; the window of latest entries beside it. Methods "
             "that were not asked all tasks that count are left out here. Differences within "
             "the intervals given below decide nothing."});
    for (const Section* kind : kinds) {
        part.blocks.push_back({.table = best_table(summary, *kind)});
    }
    document.parts.push_back(std::move(part));
}

void add_reading(ReportDocument& document) {
    constexpr std::array<std::string_view, 8> kNotes = {
        "Score: the task's own measure, in percent, mean over samples; with it the range in which "
        "95 of 100 bootstrap resamples of these samples put the mean (2,000 resamples, fixed "
        "seed). "
        "Few samples make it wide. If all samples score alike it has no width, which does not make "
        "the score certain.",
        "Full: the cache that forgets nothing, on the same samples. It is recorded once and stands "
        "beside both ways of asking.",
        "Retention: score divided by the full cache's on the same samples. Means of retention are "
        "over tasks on which the full cache scores at least 30: below that, a ratio says more "
        "about "
        "chance than about the memory. The other tasks are shown, and not averaged.",
        "Question-agnostic: the context was compressed before the question was known. "
        "Question-aware: the question was part of what was compressed, which is easier.",
        "One-shot: everything was read first, then cut once. Streaming: the budget held while "
        "reading, chunk after chunk, which is harder and what bounds the memory.",
        "Bytes: what the memory holds when the answer begins, bookkeeping included; peak: the most "
        "it held before.",
        "Rates: tokens read and written per second, all samples pooled. 'x4' behind a rate of "
        "writing: four answers were written at once, and the rate is that of one.",
        "Divergence: mean Kullback-Leibler divergence of the memory's predictions from the full "
        "cache's, in nats. Lower is better; it is never mixed with scores."};
    ReportPart part = {.title = "How to read this"};
    for (const std::string_view note : kNotes) part.blocks.push_back({.text = std::string(note)});
    document.parts.push_back(std::move(part));
}

std::string lead_of(const QualitySummary& summary, const OtherResults& others) {
    std::string lead;
    const RunFacts& facts = summary.facts;
    if (facts.n_result > 0) {
        lead = cat(human_count(static_cast<int64_t>(facts.n_result)), " results of ",
                   listed(facts.models, 3),
                   ": quality, bytes and speed of memories that forget, "
                   "beside the full cache and the window of latest entries.");
    }
    const auto add = [&](size_t n, std::string_view what) {
        if (n > 0) lead += cat(lead.empty() ? "" : " ", n, " ", what);
    };
    add(others.prefixes.size(), "results of what stands for a long prefix.");
    add(others.speed.size(), "measurements of speed.");
    return lead;
}

void add_sections(ReportDocument& document, const QualitySummary& summary,
                  const SeriesColours& colours) {
    const Section* last = nullptr;
    for (const Section& section : summary.sections) {
        if (last == nullptr || last->model != section.model || last->group != section.group) {
            std::string title = group_title(section.group);
            if (summary.facts.models.size() > 1) title += ": " + section.model;
            document.parts.push_back({.title = std::move(title)});
        }
        last = &section;
        add_section(document, section, summary.depths, colours);
    }
}

}  // namespace

ReportDocument make_report(const QualitySummary& summary, const OtherResults& others,
                           std::string title) {
    ReportDocument document = {
        .title = std::move(title), .lead = lead_of(summary, others), .parts = {}};
    const SeriesColours colours(summary);
    if (!summary.rows.empty()) {
        add_glance(document, summary);
        add_facts(document, summary);
        add_sections(document, summary, colours);
        add_divergence(document, summary, colours);
    }
    add_prefixes(document, others.prefixes);
    add_speed(document, others.speed);
    if (!summary.rows.empty()) add_reading(document);
    return document;
}

}  // namespace palimpsest
