// Lines of results and of traces: they are read, or Error says what is wrong. What was read is
// written so that it is read again as the same.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "bench/prefix/prefix_result.h"
#include "bench/quality/quality_result.h"
#include "engine/prefix_text.h"
#include "expect.h"

namespace {

using palimpsest::fuzzing::expect;
using palimpsest::fuzzing::is_refused;

/// Reads a file's text with `read`, and again what it held.
template <typename Read>
void try_results(std::string_view text, const Read& read) {
    is_refused([&] { static_cast<void>(read(text, "file", nullptr)); });
    is_refused([&] {
        size_t whole = 0;
        const auto results = read(text, "file", &whole);
        expect(whole <= text.size(), "more bytes are whole than there are");
        std::string again;
        for (const auto& r : results) again += to_json_line(r) + "\n";
        const auto same = read(again, "file", &whole);
        expect(whole == again.size() && same.size() == results.size(), "results are lost");
        for (size_t i = 0; i < same.size(); ++i) {
            expect(same[i].key() == results[i].key(), "a result has another key");
        }
    });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try_results(text, palimpsest::read_quality_results);
    try_results(text, palimpsest::read_prefix_results);
    is_refused([&] {
        std::string again;
        const auto traces = palimpsest::parse_traces(text);
        for (const auto& t : traces) again += to_json_line(t);
        expect(palimpsest::parse_traces(again).size() == traces.size(), "traces are lost");
    });
    return 0;
}
