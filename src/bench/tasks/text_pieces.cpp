#include "bench/tasks/text_pieces.h"

#include <algorithm>

#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

TextPieces::TextPieces(const std::string& path)
    : text_(read_text_file(path)), points_(cut_points(text_)) {}

std::string TextPieces::text(int64_t start, int64_t n) const {
    const size_t begin = points_[static_cast<size_t>(start)];
    return text_.substr(begin, points_[static_cast<size_t>(start + n)] - begin);
}

int64_t TextPieces::count_of(size_t n_byte) const {
    return std::ranges::lower_bound(points_, n_byte) - points_.begin();
}

}  // namespace palimpsest
