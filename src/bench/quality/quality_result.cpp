#include "bench/quality/quality_result.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;

[[noreturn]] void corrupt(const std::string& what) { throw Error(ErrorCode::kCorrupt, what); }

/// The fields that say what was asked, and of what.
template <class Visitor, class Result>
void visit_key(Visitor& v, Result& r) {
    v("task", r.task);
    v("group", r.group);
    v("metric", r.metric);
    v("length", r.length);
    v("seed", r.seed);
    v("sample", r.sample);
    v("prompt", r.prompt);
    v("source", r.source);
    v("model", r.model);
    v("memory", r.memory);
    v("policy", r.policy);
    v("allocator", r.allocator);
    v("residue", r.residue);
    v("options", r.options);
    v("entries", r.entries);
    v("budget", r.budget);
    v("protocol", r.protocol);
    v("question", r.question);
    v("chunk", r.chunk);
    v("has_template", r.has_template);
}

/// The fields that say what came of it and that every result has.
template <class Visitor, class Result>
void visit_outcome(Visitor& v, Result& r) {
    v("score", r.score);
    v("output", r.output);
    v("n_context", r.n_context);
    v("n_question", r.n_question);
    v("n_written", r.n_written);
    v("kept", r.kept);
    v("bytes", r.bytes);
    v("peak_bytes", r.peak_bytes);
    v("full_bytes", r.full_bytes);
    v("prefill_s", r.prefill_s);
    v("cut_s", r.cut_s);
    v("decode_s", r.decode_s);
    v("lanes", r.lanes);
    v("threads", r.threads);
    v("commit", r.commit);
    v("processor", r.processor);
}

/// Puts fields into an object, or only their values into an array.
struct Writer {
    Json& out;

    template <class T>
    void operator()(const char* name, const T& value) {
        out[name] = value;
    }
    void operator()(const char* name, double value) {
        check(std::isfinite(value), cat("the number '", name, "' of a result is not finite"));
        out[name] = value;
    }
};

struct KeyWriter {
    Json& out;

    template <class T>
    void operator()(const char* /*name*/, const T& value) {
        out.push_back(value);
    }
};

/// Takes fields from an object; checks that they are there and what they should be.
struct Reader {
    const Json& in;

    const Json& at(const char* name) const {
        const auto found = in.find(name);
        if (found == in.end()) corrupt(cat("the field '", name, "' is missing"));
        return *found;
    }

    void operator()(const char* name, std::string& value) {
        if (!at(name).is_string()) corrupt(cat("'", name, "' is not a text"));
        value = at(name).get<std::string>();
    }
    void operator()(const char* name, bool& value) {
        if (!at(name).is_boolean()) corrupt(cat("'", name, "' is neither true nor false"));
        value = at(name).get<bool>();
    }
    void operator()(const char* name, int64_t& value) {
        if (!at(name).is_number_unsigned() || at(name).get<uint64_t>() > INT64_MAX) {
            corrupt(cat("'", name, "' is not a whole number from 0"));
        }
        value = at(name).get<int64_t>();
    }
    void operator()(const char* name, uint64_t& value) {
        if (!at(name).is_number_unsigned()) {
            corrupt(cat("'", name, "' is not a whole number from 0"));
        }
        value = at(name).get<uint64_t>();
    }
    void operator()(const char* name, double& value) {
        if (!at(name).is_number()) corrupt(cat("'", name, "' is not a number"));
        value = at(name).get<double>();
    }

    /// Absent: stays as it is.
    template <class T>
    void optional(const char* name, T& value) {
        if (in.contains(name)) (*this)(name, value);
    }
};

std::string compact(const Json& json) { return json_text(json); }

void write_optional_fields(Json& line, const QualityResult& r) {
    Writer write{line};
    if (!r.label.empty() || !r.predicted.empty()) {
        write("label", r.label);
        write("predicted", r.predicted);
    }
    if (r.depth >= 0) write("depth", r.depth);
    if (!r.prefix.empty()) write("prefix", r.prefix);
    if (!r.weights.empty()) write("weights", r.weights);
    if (!r.reading.empty()) write("reading", r.reading);
    if (r.metric != "kl") return;
    write("nll", r.nll);
    write("nll_full", r.nll_full);
    Json bins = Json::array();
    for (const DivergenceBin& bin : r.kl_by_position) {
        check(std::isfinite(bin.kl), "a divergence by position is not finite");
        bins.push_back(Json{{"begin", bin.begin}, {"end", bin.end}, {"kl", bin.kl}});
    }
    line["kl_by_position"] = std::move(bins);
}

void read_optional_fields(const Json& line, QualityResult& r) {
    Reader read{line};
    read.optional("label", r.label);
    read.optional("predicted", r.predicted);
    read.optional("depth", r.depth);
    read.optional("prefix", r.prefix);
    read.optional("weights", r.weights);
    read.optional("reading", r.reading);
    if (r.metric != "kl") return;
    read("nll", r.nll);
    read("nll_full", r.nll_full);
    const Json& bins = read.at("kl_by_position");
    if (!bins.is_array()) corrupt("'kl_by_position' is not a list");
    for (const Json& bin : bins) {
        if (!bin.is_object()) corrupt("an element of 'kl_by_position' is not an object");
        Reader read_bin{bin};
        DivergenceBin& b = r.kl_by_position.emplace_back();
        read_bin("begin", b.begin);
        read_bin("end", b.end);
        read_bin("kl", b.kl);
        if (b.begin >= b.end) corrupt("an element of 'kl_by_position' ends before it begins");
    }
}

void check_ranges(const QualityResult& r) {
    const auto within = [](const char* name, double value, double low, double high) {
        if (value >= low && value <= high) return;
        corrupt(cat("'", name, "' is ", value, ", not from ", low, " to ", high));
    };
    if (r.metric != "kl") within("score", r.score, 0, 1);
    within("kept", r.kept, 0, 1);
    if (r.depth >= 0) within("depth", r.depth, 0, 1);
    for (const auto& [name, seconds] :
         {std::pair{"prefill_s", r.prefill_s}, std::pair{"cut_s", r.cut_s},
          std::pair{"decode_s", r.decode_s}}) {
        if (seconds < 0) corrupt(cat("'", name, "' is negative"));
    }
    if (r.lanes < 1) corrupt("'lanes' is 0");
}

/// One line as an object; its kind is still open.
Json parse_object(std::string_view line) {
    auto json = parse_json<Json>(line);
    if (json.is_discarded()) corrupt("no JSON, or nested too deeply");
    if (!json.is_object()) corrupt("a JSON value, but no object");
    return json;
}

/// What other measurements write into the same files.
bool is_of_others(const Json& json) {
    const auto kind = json.find("kind");
    return kind == json.end() ? json.contains("phase") : *kind == "prefix";
}

void check_kind_and_version(const Json& json) {
    const auto kind = json.find("kind");
    if (kind == json.end() || *kind != "quality") {
        corrupt("neither a result of `bench quality` nor one of `bench prefix` or `bench speed`");
    }
    int64_t version = 0;
    Reader{json}("version", version);
    if (version != kVersion) {
        throw Error(
            ErrorCode::kUnsupported,
            cat("a result of format version ", version, ", but this program reads version ",
                kVersion, "; use the program that wrote it, or measure again into a new ", "file"));
    }
}

QualityResult result_of(const Json& json) {
    check_kind_and_version(json);
    QualityResult r;
    Reader read{json};
    visit_key(read, r);
    visit_outcome(read, r);
    read_optional_fields(json, r);
    check_ranges(r);
    return r;
}

bool is_blank(std::string_view line) {
    return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

/// Could this be what an interrupted run left of a line? Half an object is no JSON.
bool is_cut_off(std::string_view line) { return line.starts_with('{') && !Json::accept(line); }

}  // namespace

std::string QualityResult::key() const {
    Json values = Json::array();
    KeyWriter write{values};
    visit_key(write, *this);
    // Most results have neither of the first two, all older ones none.
    if (!prefix.empty()) values.push_back(cat("prefix ", prefix));
    if (!weights.empty()) values.push_back(cat("weights ", weights));
    if (!reading.empty()) values.push_back(cat("reading ", reading));
    return compact(values);
}

std::string to_json_line(const QualityResult& result) {
    Json line = {{"kind", "quality"}, {"version", kVersion}};
    Writer write{line};
    visit_key(write, result);
    visit_outcome(write, result);
    write_optional_fields(line, result);
    return compact(line);
}

QualityResult parse_quality_result(std::string_view line) { return result_of(parse_object(line)); }

std::vector<QualityResult> read_quality_results(std::string_view text, std::string_view name,
                                                size_t* whole_bytes) {
    std::vector<QualityResult> results;
    size_t begin = 0;
    for (int64_t number = 1; begin < text.size(); ++number) {
        const size_t line_end = text.find('\n', begin);
        const bool is_ended = line_end != std::string_view::npos;
        const std::string_view line = text.substr(begin, line_end - begin);
        // Who goes on writing after an unended line would spoil it: to them it is not whole.
        if (!is_ended && (whole_bytes != nullptr ? line.starts_with('{') : is_cut_off(line))) break;
        try {
            if (!is_blank(line)) {
                const Json json = parse_object(line);
                if (!is_of_others(json)) results.push_back(result_of(json));
            }
        } catch (const Error& e) {
            throw Error(e.code(), cat("'", name, "', line ", number, ": ", e.what()));
        }
        begin = is_ended ? line_end + 1 : text.size();
    }
    if (whole_bytes != nullptr) *whole_bytes = begin;
    return results;
}

}  // namespace palimpsest
