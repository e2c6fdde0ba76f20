#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/prefix/prefix_result.h"
#include "bench/quality/quality_summary.h"
#include "bench/speed_line.h"

namespace palimpsest {

// A report as titles, sentences, tables and charts, before it is a page or Markdown.

struct ReportCell {
    std::string text;
    std::string detail = {};  // smaller, after it: an interval
    bool is_best = false;
    bool is_muted = false;
    int tint = -1;  // 0 to 10: how good, as a shade behind it; -1: none
};

struct ReportRow {
    std::vector<ReportCell> cells;
    bool is_reference = false;  // the full cache or the window: what others are seen against
};

struct ReportTable {
    std::vector<ReportCell> columns;
    std::vector<ReportRow> rows;
    size_t n_text = 1;  // leading columns that hold words; the others hold numbers
};

struct ReportFigure {
    std::string caption;
    std::string svg;
};

/// A sentence, or a table, or charts, or a table with charts beside it.
struct ReportBlock {
    std::string text = {};
    ReportTable table = {};
    std::vector<ReportFigure> figures = {};
    bool is_small = false;  // many small figures beside each other
};

struct ReportPart {
    int level = 2;  // 2 or 3; 4: folded away until asked for; 5: folded away inside the last of 4
    std::string title;
    std::vector<ReportBlock> blocks = {};
    bool is_open = false;  // folded, but not at first
};

struct ReportDocument {
    std::string title;
    std::string lead;
    std::vector<ReportPart> parts;
};

/// What is reported beside quality.
struct OtherResults {
    std::span<const SpeedLine> speed = {};
    std::span<const PrefixResult> prefixes = {};
};

/// The whole report. Any of it may be absent.
ReportDocument make_report(const QualitySummary& summary, const OtherResults& others,
                           std::string title);

}  // namespace palimpsest
