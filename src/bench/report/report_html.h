#pragma once

#include <string>

#include "bench/report/report_document.h"

namespace palimpsest {

/// One page that needs nothing else: no script, no network, light or dark as the reader's system.
/// Every tag is closed, so that it is XML too but for its first line.
std::string report_html(const ReportDocument& document);

/// Its style sheet, and of that what charts need.
std::string report_style();
std::string chart_style();

}  // namespace palimpsest
