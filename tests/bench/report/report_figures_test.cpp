// Charts of a report as files.

#include "bench/report/report_figures.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

ReportPart part_with(const std::string& svg) {
    ReportPart part = {.title = "Rules, 3,000 tokens"};
    part.blocks.push_back({.figures = {{.caption = "Right (%)", .svg = svg}}});
    return part;
}

TEST(ReportFigures, ChartsOfTheSameNameAreAllWritten) {
    ReportDocument document;
    for (const char* drawn : {"<svg>a</svg>", "<svg>b</svg>"}) {
        document.parts.push_back(part_with(drawn));
    }
    document.parts.push_back(part_with("<svg>c</svg>"));
    document.parts.back().level = 4;  // folded
    const std::vector<FigureFile> files = report_figures(document);
    ASSERT_EQ(files.size(), 2U);
    EXPECT_EQ(files[0].name, "rules-3-000-tokens-right.svg");
    EXPECT_EQ(files[1].name, "rules-3-000-tokens-right-2.svg");
    EXPECT_TRUE(files[1].svg.ends_with("b</svg>\n")) << files[1].svg;
}

}  // namespace
}  // namespace palimpsest
