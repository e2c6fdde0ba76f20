#include "bench/report/report_csv.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "core/error.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr std::string_view kHeader =
    "model,group,task,metric,length,has_template,protocol,question,budget,memory,policy,allocator,"
    "residue,options,entries,chunk,n,score,score_low,score_high,n_paired,full_score,retention,"
    "retention_low,retention_high,in_mean,kept,bytes,full_bytes,peak_bytes,prefill_per_s,"
    "decode_per_s,lanes,cut_s,macro_f1,full_macro_f1,nll,nll_full\r\n";

/// Fields with commas between them.
class CsvLine {
 public:
    void add(std::string_view text) {
        if (!is_first_) line_ += ',';
        is_first_ = false;
        const std::string valid = replace_invalid_utf8(text);
        if (valid.find_first_of(",\"\r\n") == std::string::npos) {
            line_ += valid;
            return;
        }
        line_ += '"';
        for (const char c : valid) line_ += c == '"' ? std::string("\"\"") : std::string(1, c);
        line_ += '"';
    }
    void add(int64_t value) { add(std::string_view(std::to_string(value))); }
    /// The shortest text that reads back as the same number.
    void add(double value) {
        std::array<char, 32> digits = {};
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
        add(std::string_view(digits.data(), end));
    }
    void add(const std::optional<double>& value) { value ? add(*value) : add(""); }
    void add(const std::optional<Interval>& i) { i ? add(*i) : (add(""), add(""), add("")); }
    void add(const Interval& i) {
        add(i.mean);
        add(i.low);
        add(i.high);
    }

    [[nodiscard]] std::string ended() const { return line_ + "\r\n"; }

 private:
    std::string line_;
    bool is_first_ = true;
};

/// Does the row's retention count in any mean?
bool is_in_mean(const QualitySummary& summary, const SummaryRow& row) {
    return std::ranges::any_of(summary.sections, [&](const Section& s) {
        if (!s.has_retention || std::ranges::find(s.rows, &row) == s.rows.end()) return false;
        const auto task = std::ranges::find(s.tasks, row.asked, &SectionTask::asked);
        return task != s.tasks.end() && task->counts && row.retention.has_value();
    });
}

std::string line_of(const QualitySummary& summary, const SummaryRow& r) {
    CsvLine line;
    for (const std::string& text : {r.asked.model, r.asked.group, r.asked.task, r.asked.metric}) {
        line.add(text);
    }
    line.add(r.asked.length);
    line.add(int64_t{r.asked.has_template});
    for (const std::string& text :
         {r.protocol, r.question, r.budget, r.method.memory, r.method.policy, r.method.allocator,
          r.method.residue, r.method.options, r.method.entries}) {
        line.add(text);
    }
    line.add(r.method.chunk);
    line.add(r.n);
    line.add(r.score);
    line.add(r.n_paired);
    line.add(r.full_score);
    line.add(r.retention);
    line.add(int64_t{is_in_mean(summary, r)});
    for (const double value : {r.kept, r.bytes, r.full_bytes}) line.add(value);
    line.add(static_cast<int64_t>(r.peak_bytes));
    line.add(r.prefill_per_s);
    line.add(r.decode_per_s);
    line.add(r.lanes);
    line.add(r.cut_s);
    line.add(r.macro_f1);
    line.add(r.full_macro_f1);
    const bool is_divergence = r.asked.metric == "kl";
    line.add(is_divergence ? std::optional(r.nll) : std::nullopt);
    line.add(is_divergence ? std::optional(r.nll_full) : std::nullopt);
    return line.ended();
}

}  // namespace

std::string report_csv(const QualitySummary& summary) {
    std::string out(kHeader);
    for (const SummaryRow& row : summary.rows) out += line_of(summary, row);
    return out;
}

}  // namespace palimpsest
