#include "bench/prefix/prefix_result.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PrefixResult, task, model, length, n_traces, n_tests, traced,
                                   seed, cluster_seed, method, share, size, n_prefix, full_bytes,
                                   held_bytes, moved_bytes, n, n_right, n_same, n_only_full,
                                   n_only_this, n_traced, n_traced_right, divergence, request_s,
                                   below_floor, prefill_s, traces_s, clustering_s, e_out,
                                   e_out_worst, e_out_answer, e_out_by_layer, commit, processor,
                                   threads)

namespace {

constexpr int kVersion = 1;

bool is_ours(const json& line) {
    return line.is_object() && line.contains("kind") && line["kind"] == "prefix";
}

/// The library takes any number for a whole one, also where it is beyond all of them.
void check_whole_numbers(const json& line) {
    const json form = PrefixResult{};
    for (const auto& [name, standard] : form.items()) {
        if (!standard.is_number_integer() || !line.contains(name)) continue;
        if (line[name].is_number_integer()) continue;
        throw Error(ErrorCode::kCorrupt,
                    cat("'", name, "' is ", brief_json(line[name]), ", which is no whole number"));
    }
}

PrefixResult result_of(const json& line) {
    const json version = line.value("version", json(0));
    if (version != kVersion) {
        throw Error(ErrorCode::kUnsupported, cat("a result of format version ", brief_json(version),
                                                 "; this program reads ", kVersion));
    }
    check_whole_numbers(line);
    auto r = line.get<PrefixResult>();
    // What the first lines of this version do not have.
    r.is_validation = line.value("is_validation", false);
    r.reading = line.value("reading", std::string());
    r.e_state_by_layer = line.value("e_state_by_layer", std::vector<double>());
    r.e_lse_by_layer = line.value("e_lse_by_layer", std::vector<double>());
    const auto is_part = [&](int64_t some) { return some >= 0 && some <= r.n; };
    const bool is_sane = r.n > 0 && is_part(r.n_right) && is_part(r.n_same) &&
                         is_part(r.n_only_full) && is_part(r.n_only_this) && is_part(r.n_traced) &&
                         r.n_traced_right >= 0 && r.n_traced_right <= r.n_traced &&
                         r.full_bytes > 0;
    if (!is_sane) throw Error(ErrorCode::kCorrupt, "counts that cannot be");
    return r;
}

}  // namespace

std::string PrefixResult::key() const {
    json key = {task, model, length, n_traces, n_tests, traced, seed, cluster_seed, method, share};
    if (is_validation) key.push_back("validation");
    if (!reading.empty()) key.push_back("reading " + reading);
    return json_text(key);
}

std::string to_json_line(const PrefixResult& result) {
    json line = result;
    if (result.is_validation) line["is_validation"] = true;
    if (!result.reading.empty()) line["reading"] = result.reading;
    if (!result.e_state_by_layer.empty()) line["e_state_by_layer"] = result.e_state_by_layer;
    if (!result.e_lse_by_layer.empty()) line["e_lse_by_layer"] = result.e_lse_by_layer;
    line["kind"] = "prefix";
    line["version"] = kVersion;
    return json_text(line);
}

std::vector<PrefixResult> read_prefix_results(std::string_view text, std::string_view name,
                                              size_t* whole_bytes) {
    std::vector<PrefixResult> results;
    size_t begin = 0;
    for (int64_t number = 1; begin < text.size(); ++number) {
        const size_t end = text.find('\n', begin);
        if (end == std::string_view::npos) break;
        const json line = parse_json(text.substr(begin, end - begin));
        begin = end + 1;
        if (!is_ours(line)) continue;
        try {
            results.push_back(result_of(line));
        } catch (const json::exception& e) {
            throw Error(ErrorCode::kCorrupt, cat("'", name, "', line ", number,
                                                 ": no result of `bench prefix`: ", e.what()));
        } catch (const Error& e) {
            throw Error(e.code(), cat("'", name, "', line ", number, ": ", e.what()));
        }
    }
    if (whole_bytes != nullptr) *whole_bytes = begin;
    return results;
}

}  // namespace palimpsest
