#pragma once

#include <string>

namespace palimpsest {

/// Is poppler's `pdftotext` here?
[[nodiscard]] bool has_pdf_text();

/// The text of a PDF, by `pdftotext` in a process of its own with limits on time and memory. Throws
/// ApiError 400 if it is none, or takes too much.
[[nodiscard]] std::string pdf_text(const std::string& pdf);

}  // namespace palimpsest
