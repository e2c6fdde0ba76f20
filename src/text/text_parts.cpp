#include "text/text_parts.h"

#include <algorithm>

namespace palimpsest {

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_punctuation(char c) {
    return std::string_view("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").find(c) != std::string_view::npos;
}

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

namespace {

bool is_ascii_word(std::string_view character) {
    const char c = character[0];
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

}  // namespace

size_t character_size(std::string_view text) {
    const auto first = static_cast<unsigned char>(text[0]);
    const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
    if (size > text.size()) return 1;
    const auto goes_on = [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80; };
    return std::ranges::all_of(text.substr(1, size - 1), goes_on) ? size : 1;
}

std::vector<std::string_view> characters_of(std::string_view text) {
    std::vector<std::string_view> characters;
    while (!text.empty()) {
        characters.push_back(text.substr(0, character_size(text)));
        text.remove_prefix(characters.back().size());
    }
    return characters;
}

char32_t code_point(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    if (character.size() == 1) return first;
    char32_t point = first & (0xffU >> (character.size() + 1));
    for (const char c : character.substr(1)) {
        point = point << 6U | (static_cast<unsigned char>(c) & 0x3fU);
    }
    return point;
}

bool is_white(std::string_view character) {
    if (character.size() == 1) return is_space(character[0]);
    const char32_t c = code_point(character);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::vector<std::string_view> words_by_character(std::string_view text) {
    std::vector<std::string_view> words;
    bool is_in_run = false;
    for (const std::string_view character : characters_of(text)) {
        const bool is_of_run = is_ascii_word(character);
        if (is_of_run && is_in_run) {
            words.back() = {words.back().data(), words.back().size() + 1};
        } else if (!is_white(character)) {
            words.push_back(character);
        }
        is_in_run = is_of_run;
    }
    return words;
}

std::vector<std::string_view> numbers_in(std::string_view text) { return runs(text, is_digit); }

std::vector<std::string_view> split_at(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (size_t end = text.find(separator); end != std::string_view::npos;
         end = text.find(separator)) {
        parts.push_back(text.substr(0, end));
        text.remove_prefix(end + 1);
    }
    parts.push_back(text);
    return parts;
}

std::string_view number_behind(std::string_view text, std::string_view mark) {
    for (size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + 1)) {
        const std::string_view rest = text.substr(at + mark.size());
        if (!rest.empty() && is_digit(rest[0])) return numbers_in(rest).front();
    }
    return {};
}

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
