#include "bench/report/report_markdown.h"

#include <algorithm>

#include "core/error.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

/// In one line, with nothing in it that Markdown would read as markup.
std::string plain(std::string_view text) {
    std::string out;
    for (const char c : replace_invalid_utf8(text)) {
        const std::string_view marks = "\\|*`[]";
        if (marks.find(c) != std::string_view::npos) out += '\\';
        if (c == '<') {
            out += "&lt;";
        } else if (c == '&') {
            out += "&amp;";
        } else {
            out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
        }
    }
    return out;
}

std::string cell_text(const ReportCell& cell) {
    std::string text = plain(cell.text);
    if (cell.is_best && !text.empty()) text = "**" + text + "**";
    if (cell.detail.empty()) return text;
    return cat(text, text.empty() ? "" : " ", "(", plain(cell.detail), ")");
}

std::string line_of(const std::vector<ReportCell>& cells) {
    std::string line = "|";
    for (const ReportCell& cell : cells) line += cat(" ", cell_text(cell), " |");
    return line + "\n";
}

std::string table_text(const ReportTable& table) {
    std::string out = line_of(table.columns) + "|";
    for (size_t i = 0; i < table.columns.size(); ++i) out += i < table.n_text ? "---|" : "--:|";
    out += "\n";
    for (const ReportRow& row : table.rows) out += line_of(row.cells);
    return out + "\n";
}

/// Pictures alone: nothing of it can be text.
bool is_only_figures(const ReportPart& part) {
    const bool has_table = std::ranges::any_of(
        part.blocks, [](const ReportBlock& block) { return !block.table.rows.empty(); });
    return part.level >= 4 && !part.blocks.empty() && !has_table;
}

std::string blocks_text(const ReportPart& part) {
    std::string out;
    for (const ReportBlock& block : part.blocks) {
        if (!block.text.empty()) out += plain(block.text) + "\n\n";
        if (!block.table.rows.empty()) out += table_text(block.table);
    }
    return out;
}

std::string folded(const ReportPart& part, const std::string& inner) {
    return cat("<details><summary>", plain(part.title), "</summary>\n\n", inner, "</details>\n\n");
}

/// The part at `index` and those folded away inside it; moves `index` behind them.
std::string part_text(const std::vector<ReportPart>& parts, size_t& index) {
    const ReportPart& part = parts[index++];
    if (is_only_figures(part)) return "";
    std::string inner = blocks_text(part);
    if (part.level < 4) {
        const std::string marks(static_cast<size_t>(part.level), '#');
        return cat(marks, " ", plain(part.title), "\n\n", inner);
    }
    for (; index < parts.size() && parts[index].level > part.level; ++index) {
        inner += folded(parts[index], blocks_text(parts[index]));
    }
    return folded(part, inner);
}

}  // namespace

std::string report_markdown(const ReportDocument& document) {
    std::string out = cat("# ", plain(document.title), "\n\n");
    if (!document.lead.empty()) out += plain(document.lead) + "\n\n";
    for (size_t i = 0; i < document.parts.size();) out += part_text(document.parts, i);
    while (out.ends_with("\n\n")) out.pop_back();
    return out;
}

}  // namespace palimpsest
