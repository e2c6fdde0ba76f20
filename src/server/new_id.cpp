#include "server/new_id.h"

#include <random>

namespace palimpsest {

std::string new_id(std::string_view prefix) {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::random_device random;
    std::string id(prefix);
    for (int i = 0; i < 24; ++i) id += kDigits[random() % kDigits.size()];
    return id;
}

}  // namespace palimpsest
