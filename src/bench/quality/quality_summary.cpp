#include "bench/quality/quality_summary.h"

#include <algorithm>
#include <tuple>

#include "bench/tasks/metrics.h"
#include "core/error.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

using SampleKey = std::tuple<uint64_t, std::string, std::string>;  // seed, id, hash of the prompt
using Samples = std::map<SampleKey, const QualityResult*>;

struct RowKey {
    AskedTask asked;
    std::string protocol, question, budget;
    MemoryMethod method;

    auto operator<=>(const RowKey&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// Rows in the order in which they first came.
struct Groups {
    std::map<RowKey, size_t> index;
    std::vector<std::pair<RowKey, Samples>> rows;
};

/// What some results differ in, and which need not be said where they do not.
struct Differences {
    bool weights = false;  // of sidecars; older results do not say of which they are
    bool readings = false;

    explicit Differences(std::span<const QualityResult> results) {
        const std::string* first = nullptr;
        for (const QualityResult& r : results) {
            readings = readings || r.reading != results[0].reading;
            if (r.weights.empty()) continue;
            if (first == nullptr) first = &r.weights;
            weights = weights || r.weights != *first;
        }
    }
};

/// What reads the samples.
std::string model_of(const QualityResult& r, const Differences& differences) {
    std::string name = r.prefix.empty() ? r.model : cat(r.model, " behind ", r.prefix);
    if (differences.readings && !r.reading.empty()) name += cat(", products in ", r.reading);
    return name;
}

RowKey row_key(const QualityResult& r, const Differences& differences) {
    RowKey key = {.asked = {.model = model_of(r, differences),
                            .group = r.group,
                            .task = r.task,
                            .metric = r.metric,
                            .length = r.length,
                            .has_template = r.has_template},
                  .protocol = r.protocol,
                  .question = r.question,
                  .budget = r.budget,
                  .method = {.memory = r.memory,
                             .policy = r.policy,
                             .allocator = r.allocator,
                             .residue = r.residue,
                             .options = r.options,
                             .entries = r.entries,
                             .chunk = r.chunk,
                             .weights = differences.weights ? r.weights : std::string()}};
    if (r.protocol == "full") {
        key.question.clear();
        key.method.chunk = 0;
    }
    return key;
}

Groups group(std::span<const QualityResult> results) {
    Groups groups;
    const Differences differences(results);
    for (const QualityResult& r : results) {
        RowKey key = row_key(r, differences);
        const auto [at, is_new] = groups.index.try_emplace(key, groups.rows.size());
        if (is_new) groups.rows.emplace_back(std::move(key), Samples{});
        groups.rows[at->second].second[{r.seed, r.sample, r.prompt}] = &r;
    }
    return groups;
}

/// Full caches by what they were asked, then by their entries' type.
using FullCaches = std::map<AskedTask, std::map<std::string, const Samples*>>;

FullCaches full_caches(const Groups& groups) {
    FullCaches full;
    for (const auto& [key, samples] : groups.rows) {
        if (key.protocol == "full" && is_full(key.method)) {
            full[key.asked][key.method.entries] = &samples;
        }
    }
    return full;
}

/// What a method is compared with: the full cache with the same entries, else with f16 ones, else
/// any; nullptr if there is none.
const Samples* full_cache_for(const FullCaches& full, const RowKey& key) {
    const auto found = full.find(key.asked);
    if (found == full.end()) return nullptr;
    for (const std::string& entries : {key.method.entries, std::string("f16")}) {
        const auto same = found->second.find(entries);
        if (same != found->second.end()) return same->second;
    }
    return found->second.begin()->second;
}

double percent_of(const SummaryRow& row) { return row.asked.metric == "kl" ? 1 : 100; }

Interval scaled(Interval i, double factor) {
    return {.mean = i.mean * factor, .low = i.low * factor, .high = i.high * factor};
}

double mean_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum / static_cast<double>(values.size());
}

std::optional<double> macro_f1_of(const std::vector<const QualityResult*>& results) {
    std::vector<std::string> labels;
    std::vector<std::string> predictions;
    for (const QualityResult* r : results) {
        if (r->label.empty()) return std::nullopt;
        labels.push_back(r->label);
        predictions.push_back(r->predicted);
    }
    return 100 * macro_f1(labels, predictions);
}

void set_scores(SummaryRow& row, const Samples& samples, const Samples* full) {
    const double factor = percent_of(row);
    row.n = std::ssize(samples);
    std::vector<const QualityResult*> own;
    std::vector<const QualityResult*> paired;
    for (const auto& [key, result] : samples) {
        own.push_back(result);
        row.scores.push_back(factor * result->score);
        const auto same = full == nullptr ? Samples::const_iterator{} : full->find(key);
        if (full == nullptr || same == full->end()) continue;
        paired.push_back(same->second);
        row.paired_scores.push_back(factor * result->score);
        row.paired_full_scores.push_back(factor * same->second->score);
    }
    row.score = bootstrap_mean(row.scores);
    row.macro_f1 = macro_f1_of(own);
    row.n_paired = std::ssize(paired);
    if (paired.empty() || row.asked.metric == "kl") return;
    row.full_score = mean_of(row.paired_full_scores);
    row.full_macro_f1 = macro_f1_of(paired);
    if (const auto ratio = bootstrap_ratio(row.paired_scores, row.paired_full_scores)) {
        row.retention = scaled(*ratio, 100);
    }
}

void set_costs(SummaryRow& row, const Samples& samples) {
    double read = 0;
    double reading_s = 0;
    double written = 0;
    double writing_s = 0;
    for (const auto& [key, r] : samples) {
        row.kept += r->kept;
        row.bytes += static_cast<double>(r->bytes);
        row.full_bytes += static_cast<double>(r->full_bytes);
        row.peak_bytes = std::max(row.peak_bytes, r->peak_bytes);
        row.cut_s += r->cut_s;
        row.lanes = std::max(row.lanes, r->lanes);
        read += static_cast<double>(r->n_context);
        reading_s += r->prefill_s;
        written += static_cast<double>(r->n_written);
        writing_s += r->decode_s;
    }
    const auto n = static_cast<double>(samples.size());
    for (double* const sum : {&row.kept, &row.bytes, &row.full_bytes, &row.cut_s}) *sum /= n;
    if (reading_s > 0) row.prefill_per_s = read / reading_s;
    if (writing_s > 0) row.decode_per_s = written / writing_s;
}

void set_divergence(SummaryRow& row, const Samples& samples) {
    std::vector<double> differences;
    std::map<std::pair<int64_t, int64_t>, std::vector<double>> bins;
    const auto n = static_cast<double>(samples.size());
    for (const auto& [key, r] : samples) {
        row.nll += r->nll / n;
        row.nll_full += r->nll_full / n;
        differences.push_back(r->nll - r->nll_full);
        for (const DivergenceBin& bin : r->kl_by_position) {
            bins[{bin.begin, bin.end}].push_back(bin.kl);
        }
    }
    row.nll_difference = bootstrap_mean(differences);
    for (const auto& [range, values] : bins) {
        row.kl_by_position.push_back(
            {.begin = range.first, .end = range.second, .kl = mean_of(values)});
    }
}

/// Depths nearer than this are one: they are shares of a text, computed.
constexpr double kSameDepth = 1e-6;

std::vector<double> needle_depths(std::span<const QualityResult> results) {
    std::vector<double> depths;
    for (const QualityResult& r : results) {
        if (r.group == "needle" && r.depth >= 0) depths.push_back(r.depth);
    }
    std::ranges::sort(depths);
    const auto end = std::unique(depths.begin(), depths.end(),
                                 [](double a, double b) { return b - a < kSameDepth; });
    depths.erase(end, depths.end());
    return depths;
}

/// -1 where a depth was not asked.
void set_depths(SummaryRow& row, const Samples& samples, const std::vector<double>& depths) {
    std::vector<double> sums(depths.size(), 0);
    std::vector<double> counts(depths.size(), 0);
    for (const auto& [key, r] : samples) {
        if (r->depth < 0) continue;
        const auto at = std::ranges::lower_bound(depths, r->depth - kSameDepth);
        if (at == depths.end()) continue;
        sums[static_cast<size_t>(at - depths.begin())] += 100 * r->score;
        counts[static_cast<size_t>(at - depths.begin())] += 1;
    }
    for (size_t i = 0; i < depths.size(); ++i) {
        row.score_by_depth.push_back(counts[i] > 0 ? sums[i] / counts[i] : -1);
    }
}

RunFacts facts_of(std::span<const QualityResult> results) {
    RunFacts facts;
    facts.n_result = results.size();
    const Differences differences(results);
    for (const QualityResult& r : results) {
        facts.models.insert(model_of(r, differences));
        facts.sources.insert(r.source);
        facts.commits.insert(r.commit);
        facts.processors.insert(r.processor);
        facts.lengths.insert(r.length);
        facts.threads.insert(r.threads);
        facts.seeds.insert(r.seed);
    }
    return facts;
}

bool is_usual_allocator(const MemoryMethod& method) {
    if (method.allocator.empty() || method.allocator == "none") return true;
    const auto kinds = policy_kinds();
    const auto kind = std::ranges::find(kinds, method.policy, &PolicyKind::name);
    return method.allocator == (kind != kinds.end() ? kind->allocator : "uniform");
}

/// Do results differ in the chunk they were read by?
bool have_chunks(const Groups& groups) {
    std::set<int64_t> chunks;
    for (const auto& [key, samples] : groups.rows) {
        if (key.method.chunk > 0) chunks.insert(key.method.chunk);
    }
    return chunks.size() > 1;
}

}  // namespace

std::string to_string(const MemoryMethod& m, bool with_chunk) {
    std::string text = m.memory == kTextMemory ? m.policy : cat(m.memory, ":", m.policy);
    if (!is_usual_allocator(m)) text += "/" + m.allocator;
    if (!m.residue.empty() && m.residue != "none") text += "+" + m.residue;
    if (!m.options.empty()) text += " (" + m.options + ")";
    if (m.entries != "f16") text += ", " + m.entries;
    if (with_chunk && m.chunk > 0) text += cat(", chunk ", m.chunk);
    if (!m.weights.empty()) text += cat(", weights ", m.weights.substr(0, 8));
    return text;
}

bool is_full(const MemoryMethod& method) {
    return method.memory == kTextMemory && method.policy == "full";
}

bool is_window(const MemoryMethod& m) {
    return m.memory == kTextMemory && m.policy == "window" && is_usual_allocator(m) &&
           (m.residue.empty() || m.residue == "none");
}

QualitySummary summarize(std::span<const QualityResult> results) {
    const Groups groups = group(results);
    const FullCaches full = full_caches(groups);
    const bool with_chunk = have_chunks(groups);
    QualitySummary summary;
    summary.facts = facts_of(results);
    summary.depths = needle_depths(results);
    size_t n_counted = 0;
    for (const auto& [key, samples] : groups.rows) {
        n_counted += samples.size();
        SummaryRow& row = summary.rows.emplace_back();
        row.asked = key.asked;
        row.protocol = key.protocol;
        row.question = key.question;
        row.budget = key.budget;
        row.method = key.method;
        row.label = to_string(key.method, with_chunk);
        set_scores(row, samples, full_cache_for(full, key));
        set_costs(row, samples);
        if (key.asked.metric == "kl") set_divergence(row, samples);
        if (key.asked.group == "needle") set_depths(row, samples, summary.depths);
    }
    summary.facts.n_repeated = results.size() - n_counted;
    summary.sections = make_sections(summary.rows);
    return summary;
}

}  // namespace palimpsest
