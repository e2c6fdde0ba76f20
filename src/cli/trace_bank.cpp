#include "cli/trace_bank.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/mapped_file.h"
#include "text/input_files.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void corrupt(const std::string& what) { throw Error(ErrorCode::kCorrupt, what); }

/// [tokens][heads][width]; width 1 where the file has two dimensions.
struct Values {
    int64_t n = 0, n_head = 0, width = 1;
    std::vector<float> all = {};

    [[nodiscard]] const float* at(int64_t token, int64_t head) const {
        return all.data() + (token * n_head + head) * width;
    }
};

Values read_values(const fs::path& folder, const json& inputs, const char* name) {
    const auto field = inputs.find(name);
    const bool is_there = field != inputs.end() && field->is_object() && field->contains("file") &&
                          field->contains("shape") && (*field)["file"].is_string() &&
                          (*field)["shape"].is_array();
    if (!is_there) corrupt(cat("the inputs have no '", name, "' with a file and a shape"));
    std::vector<int64_t> shape;
    for (const json& d : (*field)["shape"]) {
        const bool is_size = d.is_number_integer() && d >= 1 && d <= (int64_t{1} << 20);
        if (!is_size) corrupt(cat("a dimension of '", name, "' is ", d.dump()));
        shape.push_back(d.get<int64_t>());
    }
    if (shape.size() < 2 || shape.size() > 3) {
        corrupt(cat("'", name, "' has ", shape.size(), " dimensions, not 2 or 3"));
    }
    Values v = {.n = shape[0], .n_head = shape[1], .width = shape.size() == 3 ? shape[2] : 1};
    const MappedFile file((folder / (*field)["file"].get<std::string>()).string());
    const auto n = static_cast<uint64_t>(v.n) * static_cast<uint64_t>(v.n_head);
    const uint64_t n_bytes = n * static_cast<uint64_t>(v.width) * sizeof(float);
    if (file.bytes().size() != n_bytes) {
        corrupt(cat("'", name, "' has ", file.bytes().size(), " bytes, its shape ", n_bytes));
    }
    v.all.resize(file.bytes().size() / sizeof(float));
    std::memcpy(v.all.data(), file.bytes().data(), file.bytes().size());
    for (const float x : v.all) {
        if (!std::isfinite(x)) corrupt(cat("'", name, "' holds what is not a number"));
    }
    return v;
}

struct Inputs {
    Values q, k, v, decay, write, weights;

    [[nodiscard]] BankShape shape() const {
        return {.rule = write.all.empty() ? StateRule::kScalarDecay : StateRule::kGatedDelta,
                .n_rows = k.width,
                .n_columns = v.width};
    }
    [[nodiscard]] BankToken token(int64_t t, int64_t head, std::vector<float>& out) const {
        return {.q = q.at(t, head),
                .k = k.at(t, head),
                .v = v.at(t, head),
                .stays = std::exp(*decay.at(t, head)),
                .write = write.all.empty() ? 1.0F : *write.at(t, head),
                .weights = weights.at(t, head),
                .out = out.data()};
    }
};

Inputs read_inputs(const std::string& path, const BankOptions& options) {
    const json all = read_json_file(path);
    if (!all.is_object() || !all.contains("inputs") || !all["inputs"].is_object()) {
        corrupt(cat("'", path, "' has no 'inputs'"));
    }
    const json& in = all["inputs"];
    const fs::path folder = fs::path(path).parent_path();
    const bool has_levels = options.name == "log-linear";
    Inputs i = {.q = read_values(folder, in, "q"),
                .k = read_values(folder, in, "k"),
                .v = read_values(folder, in, "v"),
                .decay = read_values(folder, in, "g"),
                .write = {},
                .weights = read_values(folder, in, has_levels ? "lambda_levels" : "lambda_dla")};
    if (in.contains("beta")) i.write = read_values(folder, in, "beta");
    const auto fits = [&i](const Values& v, int64_t width) {
        return v.n == i.k.n && v.n_head == i.k.n_head && (width == 0 || v.width == width);
    };
    const bool is_whole = fits(i.q, i.k.width) && fits(i.v, 0) && fits(i.decay, 1) &&
                          fits(i.weights, 0) && (i.write.all.empty() || fits(i.write, 1));
    if (!is_whole) corrupt("the inputs' shapes contradict each other");
    require(i.weights.width >= options.n_states, "the inputs have weights of ", i.weights.width,
            " states; ", options.n_states, " are asked for");
    return i;
}

/// One value a state, 0 for those that are not there.
template <typename Of>
json of_states(const std::vector<BankState>& states, int64_t n, Of of) {
    json row = json::array();
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
        row.push_back(i < states.size() ? json(of(states[i])) : json(0));
    }
    return row;
}

}  // namespace

json trace_bank(const std::string& path, const BankOptions& options) {
    const Inputs in = read_inputs(path, options);
    std::vector<std::unique_ptr<HeadBank>> heads;
    json boundaries = json::array();
    json merges = json::array();
    for (int64_t h = 0; h < in.k.n_head; ++h) {
        heads.push_back(make_bank(in.shape(), options));
        boundaries.push_back(json::array());
        merges.push_back(json::array());
    }
    json scores = json::array();
    json counts = json::array();
    json information = json::array();
    json outputs = json::array();
    std::vector<float> out(static_cast<size_t>(in.v.width));
    for (int64_t t = 0; t < in.k.n; ++t) {
        for (json* rows : {&scores, &counts, &information, &outputs}) {
            rows->push_back(json::array());
        }
        for (size_t h = 0; h < heads.size(); ++h) {
            HeadBank& bank = *heads[h];
            bank.take_in(in.token(t, static_cast<int64_t>(h), out));
            const std::vector<BankState> states = bank.states();
            scores.back().push_back(bank.decision().score);
            outputs.back().push_back(out);
            counts.back().push_back(
                of_states(states, options.n_states, [](const BankState& s) { return s.n; }));
            information.back().push_back(of_states(
                states, options.n_states, [](const BankState& s) { return s.information; }));
            if (bank.decision().opens) boundaries[h].push_back(t);
            if (bank.decision().merged >= 0) merges[h].push_back({t, bank.decision().merged});
        }
    }
    json result = {{"outputs", std::move(outputs)}};
    if (options.name == "log-linear") {
        // The same of all heads: the clock decides.
        json of_one = json::array();
        for (const json& row : counts) of_one.push_back(row.front());
        result["counts"] = std::move(of_one);
        return result;
    }
    result["boundaries"] = std::move(boundaries);
    result["merges"] = std::move(merges);
    result["scores"] = std::move(scores);
    result["n"] = std::move(counts);
    result["information"] = std::move(information);
    return result;
}

}  // namespace palimpsest
