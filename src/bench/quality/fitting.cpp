#include "bench/quality/fitting.h"

#include <algorithm>

#include "core/error.h"
#include "core/text_hash.h"

namespace palimpsest {

namespace {

/// A number of units and the tokens of the sample they make.
struct Point {
    int64_t units = 0, tokens = 0;
};

// Whole numbers only: a seed must give the same bytes on every processor.

/// Strictly between both: by turns where a straight line reaches the limit, a little beyond, so
/// that both close in, and halfway, should lines lead astray.
int64_t between(const Point& fits, const Point& over, int64_t limit, int n_tried) {
    const int64_t gap = over.units - fits.units;
    if (n_tried % 4 == 3) return fits.units + gap / 2;
    const int64_t on_line = (limit - fits.tokens) * gap / (over.tokens - fits.tokens);
    const int64_t ahead = n_tried % 2 == 0 ? on_line : on_line + on_line / 8 + 1;
    return std::clamp(fits.units + ahead, fits.units + 1, over.units - 1);
}

/// The next number of units to try while everything tried fits.
int64_t beyond(const Point& first, const Point& last, int64_t limit) {
    const int64_t gained = std::max<int64_t>(last.tokens - first.tokens, 1);
    const int64_t wanted = (limit - last.tokens) * (last.units - first.units) / gained;
    return last.units + std::min(wanted + wanted / 50 + 1, 8 * (last.units + 8));
}

}  // namespace

void check_request(std::string_view task, const SampleRequest& request) {
    require(request.n >= 1, "task '", task, "': ", request.n, " samples are asked for; 1 or more");
    require(request.length >= 1, "task '", task, "': a length of ", request.length,
            " tokens is asked for; 1 or more");
    check(static_cast<bool>(request.count_tokens), "a sample request has no token counter");
}

Random sample_random(std::string_view task, const SampleRequest& request, int64_t index) {
    return Random(text_hash(cat(task, "/", request.length, "/", request.seed, "/", index)));
}

int64_t most_units(std::string_view task, const SampleRequest& request, const Recipe& recipe,
                   UnitRange range) {
    const int64_t limit = request.length;
    const auto point = [&](int64_t n) { return Point{n, request.count_tokens(recipe(n))}; };
    const Point first = point(range.least);
    require(first.tokens <= limit, "task '", task, "' needs ", first.tokens,
            " tokens or more, its answer included; a length of ", limit, " cannot hold it");
    Point fits = first, over;
    for (int64_t next = range.least + 16; over.units == 0; next = beyond(first, fits, limit)) {
        if (fits.units >= range.most) return fits.units;
        const Point tried = point(std::min(next, range.most));
        (tried.tokens <= limit ? fits : over) = tried;
    }
    for (int n_tried = 0; over.units - fits.units > 1; ++n_tried) {
        const Point tried = point(between(fits, over, limit, n_tried));
        (tried.tokens <= limit ? fits : over) = tried;
    }
    return fits.units;
}

bool is_short(const SampleRequest& request, const Sample& sample) {
    return request.count_tokens(sample) < request.length - request.length / 50;
}

std::vector<Sample> make_samples(std::string_view task, const SampleRequest& request,
                                 const std::function<Sample(Random)>& make) {
    check_request(task, request);
    std::vector<Sample> samples;
    for (int64_t i = 0; i < request.n; ++i) {
        samples.push_back(make(sample_random(task, request, i)));
        samples.back().id = std::to_string(i);
    }
    return samples;
}

}  // namespace palimpsest
