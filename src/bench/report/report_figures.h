#pragma once

#include <string>
#include <vector>

#include "bench/report/report_document.h"

namespace palimpsest {

/// A chart that needs nothing else: colours in it, light or dark as the reader's system.
struct FigureFile {
    std::string name;  // of part and caption: "intents-7600-tokens-right-answers-against-....svg"
    std::string svg;
};

/// All charts of a report but those in folded parts and the many small ones.
std::vector<FigureFile> report_figures(const ReportDocument& document);

}  // namespace palimpsest
