#pragma once

#include <string>

#include "bench/report/report_document.h"

namespace palimpsest {

/// The same tables as text. Charts are left out.
std::string report_markdown(const ReportDocument& document);

}  // namespace palimpsest
