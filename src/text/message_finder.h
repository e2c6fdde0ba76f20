#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "palimpsest/message.h"

namespace palimpsest {

/// Finds in messages what a chat template wrote of them: whole, without white space at the ends, or
/// in pieces.
class MessageFinder {
 public:
    explicit MessageFinder(std::span<const ChatMessage> messages);

    struct Place {
        size_t message;
        size_t begin, end;  // in its text
    };
    /// Place of the beginning of `text`, which may go on with another message's; nullopt: none
    /// says it. To be asked in the order in which the template wrote.
    std::optional<Place> find(std::string_view text);

    /// The first message with words that was not found.
    [[nodiscard]] std::optional<size_t> missing() const;

 private:
    struct Text {
        std::string whole;
        size_t cursor = 0;
        bool is_found = false;
    };

    template <class At>
    std::optional<Place> first_of(const At& at, size_t size);
    Place taken(size_t i, size_t begin, size_t size);

    std::vector<Text> texts_;
};

}  // namespace palimpsest
