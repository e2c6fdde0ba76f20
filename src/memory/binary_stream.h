#pragma once

#include <algorithm>
#include <cstdint>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "core/error.h"

namespace palimpsest {

// Plain values to and from a saved memory. Little-endian machines only, as everything here.

template <typename T>
void put(std::ostream& out, const T& value) {
    out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Throws kCorrupt where the stream ends.
template <typename T>
T take(std::istream& in) {
    T value{};
    in.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!in) throw Error(ErrorCode::kCorrupt, "the saved memory ends too early");
    return value;
}

template <typename T>
void put_all(std::ostream& out, const std::vector<T>& values) {
    put(out, static_cast<int64_t>(values.size()));
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(T)));
}

/// Throws kCorrupt if there are more than `most`, before it takes memory for them.
template <typename T>
std::vector<T> take_all(std::istream& in, int64_t most) {
    const auto n = take<int64_t>(in);
    if (n < 0 || n > most) {
        throw Error(ErrorCode::kCorrupt,
                    cat("the saved memory has a list of ", n, " where at most ", most, " fit"));
    }
    // Piece by piece: a short file that claims much takes little.
    constexpr size_t kPiece = (size_t{1} << 20U) / sizeof(T);
    std::vector<T> values;
    while (values.size() < static_cast<size_t>(n)) {
        const size_t from = values.size();
        values.resize(std::min(static_cast<size_t>(n), from + kPiece));
        in.read(reinterpret_cast<char*>(values.data() + from),
                static_cast<std::streamsize>((values.size() - from) * sizeof(T)));
        if (!in) throw Error(ErrorCode::kCorrupt, "the saved memory ends too early");
    }
    return values;
}

inline void put_text(std::ostream& out, const std::string& text) {
    put_all(out, std::vector<char>(text.begin(), text.end()));
}

/// Throws as take_all() does.
inline std::string take_text(std::istream& in, int64_t most) {
    const std::vector<char> text = take_all<char>(in, most);
    return {text.begin(), text.end()};
}

}  // namespace palimpsest
