#include "bench/report/report_html.h"

#include "bench/report/svg_chart.h"
#include "core/error.h"

namespace palimpsest {

namespace {

/// One element around what is already markup.
std::string element(std::string_view name, std::string_view classes, std::string_view inner) {
    const std::string attribute = classes.empty() ? "" : cat(" class=\"", classes, "\"");
    return cat("<", name, attribute, ">", inner, "</", name, ">");
}

std::string cell_classes(const ReportCell& cell, bool is_text) {
    std::string classes = is_text ? "t" : "";
    const auto add = [&](std::string_view name) {
        classes += cat(classes.empty() ? "" : " ", name);
    };
    if (cell.is_best) add("best");
    if (cell.is_muted) add("muted");
    if (cell.tint >= 0) add(cat("v", cell.tint));
    return classes;
}

std::string cell_html(const ReportCell& cell, std::string_view name, bool is_text) {
    std::string inner = escape_markup(cell.text);
    if (!cell.detail.empty()) {
        inner += cat(inner.empty() ? "" : " ", element("small", "", escape_markup(cell.detail)));
    }
    return element(name, cell_classes(cell, is_text), inner);
}

std::string row_html(const std::vector<ReportCell>& cells, size_t n_text, bool is_head,
                     bool is_reference) {
    std::string inner;
    for (size_t i = 0; i < cells.size(); ++i) {
        inner += cell_html(cells[i], is_head || i == 0 ? "th" : "td", i < n_text);
    }
    return element("tr", is_reference ? "ref" : "", inner);
}

std::string table_html(const ReportTable& table) {
    std::string rows;
    for (const ReportRow& row : table.rows) {
        rows += row_html(row.cells, table.n_text, false, row.is_reference) + "\n";
    }
    const std::string head = row_html(table.columns, table.n_text, true, false);
    const bool is_wordy = table.n_text >= table.columns.size();
    return cat("<div class=\"scroll\" tabindex=\"0\">",
               element("table", is_wordy ? "words" : "",
                       cat(element("thead", "", head), "\n", element("tbody", "", rows))),
               "</div>\n");
}

std::string figures_html(const ReportBlock& block) {
    std::string inner;
    for (const ReportFigure& figure : block.figures) {
        inner += element("figure", "",
                         element("figcaption", "", escape_markup(figure.caption)) + figure.svg) +
                 "\n";
    }
    return element("div", block.is_small ? "maps" : "charts", inner) + "\n";
}

/// The colours of heat maps, named once before them.
std::string heat_legend() {
    std::string cells;
    for (int i = 0; i <= 10; ++i) {
        cells +=
            cat("<rect x=\"", 20 * i, "\" y=\"0\" width=\"19\" height=\"10\" class=\"h", i, "\"/>");
    }
    return cat(
        "<p class=\"legend\">0 % <svg viewBox=\"0 0 220 10\" role=\"img\"><title>colours from "
        "0 to 100 percent</title>",
        cells, "</svg> 100 %</p>\n");
}

std::string block_html(const ReportBlock& block) {
    std::string out;
    if (!block.text.empty()) out += element("p", "", escape_markup(block.text)) + "\n";
    const bool has_table = !block.table.rows.empty();
    const bool has_figures = !block.figures.empty();
    std::string shown = has_table ? table_html(block.table) : "";
    if (has_figures) shown += (block.is_small ? heat_legend() : "") + figures_html(block);
    return out + (has_table && has_figures ? element("div", "pair", shown) + "\n" : shown);
}

std::string part_id(size_t index) { return cat("p", index); }

std::string folded(const ReportPart& part, const std::string& inner) {
    return cat(part.is_open ? "<details open=\"open\">" : "<details>",
               element("summary", "", escape_markup(part.title)), "\n", inner, "</details>\n");
}

std::string blocks_html(const ReportPart& part) {
    std::string out;
    for (const ReportBlock& block : part.blocks) out += block_html(block);
    return out;
}

/// The part at `index` and those folded away inside it; moves `index` behind them.
std::string part_html(const std::vector<ReportPart>& parts, size_t& index) {
    const ReportPart& part = parts[index];
    const std::string id = part_id(index++);
    std::string inner = blocks_html(part);
    if (part.level < 4) {
        return cat("<h", part.level, " id=\"", id, "\">", escape_markup(part.title), "</h",
                   part.level, ">\n", inner);
    }
    for (; index < parts.size() && parts[index].level > part.level; ++index) {
        inner += folded(parts[index], blocks_html(parts[index]));
    }
    return folded(part, inner);
}

std::string contents(const ReportDocument& document) {
    std::string items;
    for (size_t i = 0; i < document.parts.size(); ++i) {
        const ReportPart& part = document.parts[i];
        if (part.level > 3) continue;
        items += cat("<a class=\"n", part.level, "\" href=\"#", part_id(i), "\">",
                     escape_markup(part.title), "</a>\n");
    }
    return cat("<nav aria-label=\"contents\">\n", items, "</nav>\n");
}

}  // namespace

std::string report_html(const ReportDocument& document) {
    const std::string title = escape_markup(document.title);
    std::string out = cat(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<meta name=\"color-scheme\" content=\"light dark\"/>\n"
        "<meta http-equiv=\"Content-Security-Policy\" "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n<title>",
        title, "</title>\n<style>\n", report_style(), "</style>\n</head>\n<body>\n<header>\n<h1>",
        title, "</h1>\n", element("p", "lead", escape_markup(document.lead)), "\n</header>\n");
    out += contents(document) + "<main>\n";
    for (size_t i = 0; i < document.parts.size();) out += part_html(document.parts, i);
    return out + "</main>\n</body>\n</html>\n";
}

}  // namespace palimpsest
