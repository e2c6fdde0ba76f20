#include "text/json_text.h"

#include <algorithm>

#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr int kMostNested = 256;
constexpr size_t kMostBrief = 60;

/// How deep brackets nest outside of texts; right for valid JSON, and no less than what a parser
/// gets to see of any other.
int depth_of(std::string_view text) {
    int depth = 0;
    int most = 0;
    bool is_text = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (is_text && c == '\\') {
            ++i;
        } else if (c == '"') {
            is_text = !is_text;
        } else if (!is_text && (c == '[' || c == '{')) {
            most = std::max(most, ++depth);
        } else if (!is_text && (c == ']' || c == '}')) {
            --depth;
        }
    }
    return most;
}

}  // namespace

bool nests_too_deeply(std::string_view text) { return depth_of(text) > kMostNested; }

std::string brief_json(const nlohmann::json& value) {
    std::string text = json_text(value);
    if (text.size() <= kMostBrief) return text;
    text.resize(kMostBrief);
    text.resize(kMostBrief - unfinished_utf8(text));
    return text + "…";
}

}  // namespace palimpsest
