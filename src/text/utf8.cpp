#include "text/utf8.h"

#include <algorithm>

#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned byte_at(std::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }

/// Bytes of a character that starts with `first`; 0 if none does.
size_t length_from(unsigned first) {
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return 2;
    if (first >= 0xE0 && first <= 0xEF) return 3;
    if (first >= 0xF0 && first <= 0xF4) return 4;
    return 0;
}

/// Can `second` follow `first`? Excludes overlong forms, surrogates and values over U+10FFFF.
bool is_second(unsigned first, unsigned second) {
    if (first == 0xE0) return second >= 0xA0 && second <= 0xBF;
    if (first == 0xED) return second >= 0x80 && second <= 0x9F;
    if (first == 0xF0) return second >= 0x90 && second <= 0xBF;
    if (first == 0xF4) return second >= 0x80 && second <= 0x8F;
    return second >= 0x80 && second <= 0xBF;
}

/// How many bytes from the start of `text` fit together, of how many the character needs.
struct Character {
    size_t present = 0;
    size_t needed = 0;  // 0: no character starts like this
};

Character first_character(std::string_view text) {
    const unsigned first = byte_at(text, 0);
    const size_t needed = length_from(first);
    size_t present = std::min<size_t>(1, needed);
    while (present > 0 && present < needed && present < text.size()) {
        const unsigned next = byte_at(text, present);
        const bool fits = present == 1 ? is_second(first, next) : (next & 0xC0U) == 0x80;
        if (!fits) break;
        ++present;
    }
    return {present, needed};
}

/// Does a terminal, or whoever writes a line, do something else than write it?
bool is_control(char32_t code) {
    const bool turns = (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
    return code < 0x20 || (code >= 0x7F && code < 0xA0) || turns;
}

std::string escaped(char32_t code) {
    if (code == '\n') return "\\n";
    if (code == '\t') return "\\t";
    if (code == '\r') return "\\r";
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string out = code < 0x80 ? "\\x" : "\\u";
    for (int shift = code < 0x80 ? 4 : 12; shift >= 0; shift -= 4) {
        out += kDigits[(code >> static_cast<unsigned>(shift)) & 0xFU];
    }
    return out;
}

std::string without_controls(std::string_view text, std::string_view as_they_are) {
    const std::string valid = replace_invalid_utf8(text);
    std::string out;
    for (std::string_view rest = valid; !rest.empty();) {
        const std::string_view c = rest.substr(0, first_character(rest).needed);
        rest.remove_prefix(c.size());
        const bool shows =
            is_control(code_point(c)) && as_they_are.find(c) == std::string_view::npos;
        out += shows ? escaped(code_point(c)) : std::string(c);
    }
    return out;
}

}  // namespace

std::string printable(std::string_view text) { return without_controls(text, ""); }

std::string printable_lines(std::string_view text) { return without_controls(text, "\n\t"); }

std::optional<size_t> find_invalid_utf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        const Character c = first_character(text.substr(at));
        if (c.needed == 0 || c.present < c.needed) return at;
        at += c.needed;
    }
    return std::nullopt;
}

std::string replace_invalid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const Character c = first_character(text);
        const bool whole = c.needed != 0 && c.present == c.needed;
        out += whole ? text.substr(0, c.needed) : kReplacement;
        text.remove_prefix(whole ? c.needed : 1);
    }
    return out;
}

std::string without_mark(std::string text) {
    constexpr std::string_view kMark = "\xEF\xBB\xBF";
    if (text.starts_with(kMark)) text.erase(0, kMark.size());
    return text;
}

size_t unfinished_utf8(std::string_view text) {
    for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
        const Character c = first_character(text.substr(text.size() - n));
        if (c.needed > n && c.present == n) return n;
    }
    return 0;
}

}  // namespace palimpsest
