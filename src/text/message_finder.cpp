#include "text/message_finder.h"

#include <algorithm>

#include "text/chat_template.h"
#include "text/text_parts.h"

namespace palimpsest {

MessageFinder::MessageFinder(std::span<const ChatMessage> messages) {
    for (const ChatMessage& m : messages) texts_.push_back({.whole = text_of(m)});
}

std::optional<MessageFinder::Place> MessageFinder::find(std::string_view text) {
    const auto equal = [text](const Text& t) -> size_t {
        if (t.is_found || (text != t.whole && text != strip(t.whole))) return std::string::npos;
        return t.whole.find(text);
    };
    const auto part = [text](const Text& t) { return t.whole.find(text, t.cursor); };
    if (const auto place = first_of(equal, text.size())) return place;
    if (const auto place = first_of(part, text.size())) return place;
    for (size_t i = 0; i < texts_.size(); ++i) {
        const std::string_view own = strip(texts_[i].whole);
        if (texts_[i].is_found || own.empty() || !text.starts_with(own)) continue;
        return taken(i, texts_[i].whole.find(own), own.size());
    }
    return std::nullopt;
}

std::optional<size_t> MessageFinder::missing() const {
    const auto at = std::ranges::find_if(
        texts_, [](const Text& t) { return !t.is_found && !strip(t.whole).empty(); });
    if (at == texts_.end()) return std::nullopt;
    return static_cast<size_t>(at - texts_.begin());
}

template <class At>
std::optional<MessageFinder::Place> MessageFinder::first_of(const At& at, size_t size) {
    for (size_t i = 0; i < texts_.size(); ++i) {
        const size_t begin = at(texts_[i]);
        if (begin != std::string::npos) return taken(i, begin, size);
    }
    return std::nullopt;
}

MessageFinder::Place MessageFinder::taken(size_t i, size_t begin, size_t size) {
    texts_[i].is_found = true;
    texts_[i].cursor = begin + size;
    return {.message = i, .begin = begin, .end = begin + size};
}

}  // namespace palimpsest
