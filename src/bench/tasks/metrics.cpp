#include "bench/tasks/metrics.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

/// As RULER reads an output: stripped, control characters as line breaks, stripped again.
std::string clean(std::string_view output) {
    std::string text(strip(output));
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 0x20) c = '\n';
    }
    return lower_case(strip(text));
}

bool is_alphanumeric(char c) { return is_digit(c) || (c >= 'a' && c <= 'z'); }

/// Does the value's run go on with this text? "8", "f0", "-4c7a" do, ". The", "-" and " 8" do not.
bool goes_on(std::string_view rest) {
    if (rest.empty()) return false;
    return is_alphanumeric(rest[0]) ||
           (rest[0] == '-' && rest.size() > 1 && is_alphanumeric(rest[1]));
}

bool stands_alone(const std::string& text, const std::string& value) {
    for (size_t at = text.find(value); at != std::string::npos; at = text.find(value, at + 1)) {
        std::string before = text.substr(at < 2 ? 0 : at - 2, std::min<size_t>(at, 2));
        std::reverse(before.begin(), before.end());
        if (!goes_on(before) && !goes_on(std::string_view(text).substr(at + value.size()))) {
            return true;
        }
    }
    return false;
}

}  // namespace

double score_all(std::string_view output, const Sample& sample) {
    if (sample.references.empty()) return 0;
    const std::string text = clean(output);
    const auto n = std::ranges::count_if(sample.references, [&](const std::string& reference) {
        return text.find(lower_case(reference)) != std::string::npos;
    });
    return static_cast<double>(n) / static_cast<double>(sample.references.size());
}

double score_part(std::string_view output, const Sample& sample) {
    return score_all(output, sample) > 0 ? 1 : 0;
}

double score_exact(std::string_view output, const Sample& sample) {
    const std::string cleaned = clean(output);
    std::string text;  // whose lines may be broken elsewhere than the reference's
    for (const std::string_view word : split_words(cleaned)) text += cat(word, " ");
    const bool is_there = std::ranges::any_of(sample.references, [&](const std::string& reference) {
        return !reference.empty() && stands_alone(text, lower_case(reference));
    });
    return is_there ? 1 : 0;
}

double score_nothing(std::string_view /*output*/, const Sample& /*sample*/) { return 0; }

double macro_f1(std::span<const std::string> labels, std::span<const std::string> predicted) {
    require(labels.size() == predicted.size(), labels.size(), " labels, but ", predicted.size(),
            " predictions");
    struct Counts {
        double right = 0, met = 0;  // met: as a label or a prediction
    };
    std::map<std::string_view, Counts> classes;
    const auto add = [&](std::string_view label, std::string_view prediction) {
        classes[label].met += 1;
        if (prediction.empty()) return;
        classes[prediction].met += 1;
        if (label == prediction) classes[label].right += 1;
    };
    for (size_t i = 0; i < labels.size(); ++i) {
        const std::vector<std::string_view> wanted = split_at(labels[i], '\n');
        std::vector<std::string_view> given = split_at(predicted[i], '\n');
        given.resize(wanted.size());
        for (size_t k = 0; k < wanted.size(); ++k) add(wanted[k], given[k]);
    }
    double sum = 0;
    for (const auto& [name, counts] : classes) sum += 2 * counts.right / counts.met;
    return classes.empty() ? 0 : sum / static_cast<double>(classes.size());
}

}  // namespace palimpsest
