#pragma once

#include <string>

#include "bench/quality/quality_summary.h"

namespace palimpsest {

/// One line a summary row, after a line of names; quoted and ended as RFC 4180 says. Empty: there
/// is no such number.
std::string report_csv(const QualitySummary& summary);

}  // namespace palimpsest
