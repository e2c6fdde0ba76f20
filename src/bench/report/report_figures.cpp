#include "bench/report/report_figures.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "bench/report/report_html.h"
#include "core/error.h"

namespace palimpsest {

namespace {

/// Small letters and digits, with a dash for everything between.
std::string slug(const std::string& text) {
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isalnum(byte) != 0) {
            out += static_cast<char>(std::tolower(byte));
        } else if (!out.empty() && out.back() != '-') {
            out += '-';
        }
    }
    while (out.ends_with('-')) out.pop_back();
    return out;
}

std::string standing_alone(const std::string& svg) {
    constexpr std::string_view kTag = "<svg";
    check(svg.starts_with(kTag), "a chart");
    const size_t inside = svg.find('>') + 1;
    return cat(kTag, " xmlns=\"http://www.w3.org/2000/svg\"",
               svg.substr(kTag.size(), inside - kTag.size()), "<style>", chart_style(),
               "</style><rect width=\"100%\" height=\"100%\" style=\"fill: var(--ground)\"/>",
               svg.substr(inside), "\n");
}

/// Parts of the same title have charts of the same captions: their files are numbered.
std::string unused_name(const std::vector<FigureFile>& files, const std::string& stem) {
    std::string name = stem + ".svg";
    for (int i = 2; std::ranges::find(files, name, &FigureFile::name) != files.end(); ++i) {
        name = cat(stem, "-", i, ".svg");
    }
    return name;
}

}  // namespace

std::vector<FigureFile> report_figures(const ReportDocument& document) {
    std::vector<FigureFile> files;
    for (const ReportPart& part : document.parts) {
        if (part.level > 3) continue;
        for (const ReportBlock& block : part.blocks) {
            if (block.is_small) continue;
            for (const ReportFigure& f : block.figures) {
                files.push_back({.name = unused_name(files, slug(cat(part.title, " ", f.caption))),
                                 .svg = standing_alone(f.svg)});
            }
        }
    }
    return files;
}

}  // namespace palimpsest
