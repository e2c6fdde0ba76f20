#include "bench/text_parts.h"

#include <algorithm>

namespace palimpsest {

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string lower_case(std::string_view text) {
    std::string lower(text);
    for (char& c : lower) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return lower;
}

std::string_view strip(std::string_view text) {
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    return text;
}

namespace {

template <typename Belongs>
std::vector<std::string_view> runs(std::string_view text, Belongs belongs) {
    std::vector<std::string_view> found;
    size_t at = 0;
    while (at < text.size()) {
        size_t end = at;
        while (end < text.size() && belongs(text[end])) ++end;
        if (end > at) found.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return found;
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text) {
    return runs(text, [](char c) { return !is_space(c); });
}

std::vector<std::string_view> numbers_in(std::string_view text) { return runs(text, is_digit); }

std::string_view first_line(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    return text.substr(0, text.find('\n'));
}

std::string join(const std::vector<std::string>& texts, std::string_view between) {
    std::string joined;
    for (size_t i = 0; i < texts.size(); ++i) {
        if (i > 0) joined += between;
        joined += texts[i];
    }
    return joined;
}

std::vector<size_t> cut_points(std::string_view text) {
    constexpr size_t kLongRun = 32;
    std::vector<size_t> points = {0};
    for (size_t i = 1; i < text.size(); ++i) {
        const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
        const bool starts_word = is_space(text[i - 1]) && !is_space(text[i]);
        if (starts_word || (starts_character && i - points.back() >= kLongRun)) points.push_back(i);
    }
    if (!text.empty()) points.push_back(text.size());
    return points;
}

}  // namespace palimpsest
