// ManyICLBench (Zou and others, 2024, arXiv:2411.07130) from files: FOLDER/TASK/seedN.jsonl or
// .json, one row of the published data set as JSON, N = seed modulo 3. A row has the demonstrations
// of a length in "1k" to "128k", and the lists "Test Data" and "Test Target". The context is the
// longest of the demonstrations with which a question fits the length that is asked for.
//
// Not supported: the four MATH tasks. Their rows name files of the MATH data set, one a problem,
// and hold no text: without that second data set there is nothing to ask. GPQA_cot, whose answers
// are reasoning, is judged by the first line alone, as by the published evaluation. Parquet, in
// which the data set is published, is not read: a command in the error message makes seedN.jsonl of
// it.
#include <algorithm>
#include <array>
#include <filesystem>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr std::array<const char*, 8> kLengths = {"128k", "64k", "32k", "16k",
                                                 "8k",   "4k",  "2k",  "1k"};

struct AnswerRoom {
    std::string_view task;
    int64_t n_new = 0;
};

/// Where answers are longer than a label. A letter of Kurdish may take two tokens.
constexpr std::array<AnswerRoom, 8> kRooms = {{{"GSM8K", 400},
                                               {"GPQA_cot", 400},
                                               {"BBH-word_sorting", 100},
                                               {"dialogRE", 200},
                                               {"XLSUM", 128},
                                               {"MT_Kurdish", 400},
                                               {"MT_Chinese", 200},
                                               {"MT_Spanish", 200}}};

int64_t n_new_of(std::string_view task) {
    constexpr int64_t kLabel = 24;
    const auto room = std::ranges::find(kRooms, task, &AnswerRoom::task);
    return room == kRooms.end() ? kLabel : room->n_new;
}

bool holds_parquet(const fs::path& folder) {
    std::error_code ignored;
    const auto is_parquet = [](const fs::directory_entry& entry) {
        return entry.path().extension() == ".parquet";
    };
    return std::ranges::any_of(fs::directory_iterator(folder, ignored), is_parquet);
}

/// The file that is there; `lines` if there is none, so that an error names it.
std::string file_of(std::string_view task, const SampleRequest& request) {
    const uint64_t seed = request.seed % 3;
    const fs::path folder = fs::path(request.sources.many_icl) / task;
    const fs::path lines = folder / cat("seed", seed, ".jsonl");
    const fs::path whole = folder / cat("seed", seed, ".json");
    std::error_code ignored;
    if (fs::exists(lines, ignored)) return lines.string();
    if (fs::exists(whole, ignored)) return whole.string();
    if (!holds_parquet(folder)) return lines.string();
    const fs::path published = folder / cat(task, "_", seed, ".parquet");
    throw Error(ErrorCode::kNotFound,
                cat("'", folder.string(), "' holds Parquet, which is not read; make JSON of it, ",
                    "with pandas and pyarrow: python3 -c \"import pandas; pandas.read_parquet('",
                    published.string(), "').to_json('", lines.string(),
                    "', orient='records', lines=True)\""));
}

/// The row, whether it stands alone, on the first line, or in a list.
JsonLine read_row(const std::string& path) {
    if (path.ends_with(".jsonl")) return read_json_lines(path, 1).front();
    nlohmann::json value = read_json_file(path);
    if (value.is_array() && !value.empty()) value = nlohmann::json(value.front());
    return {std::move(value), cat("'", path, "'")};
}

/// Rows may hold each list inside another.
std::vector<std::string> texts_of(const JsonLine& row, const std::string& name) {
    const auto it = row.value.find(name);
    const bool is_nested =
        it != row.value.end() && it->is_array() && !it->empty() && it->front().is_array();
    if (!is_nested) return texts_field(row.value, name, row.where);
    return texts_field(nlohmann::json::object({{name, it->front()}}), name, row.where);
}

}  // namespace

Samples many_icl_samples(std::string_view task, const SampleRequest& request) {
    check_request(task, request);
    require_named(request.sources.many_icl, task, "ManyICLBench's files", "--many-icl FOLDER");
    const JsonLine row = read_row(file_of(task, request));
    const std::vector<std::string> questions = texts_of(row, "Test Data");
    const std::vector<std::string> answers = texts_of(row, "Test Target");
    if (questions.size() != answers.size()) {
        throw Error(ErrorCode::kCorrupt, cat(row.where, ": ", questions.size(), " questions, but ",
                                             answers.size(), " answers"));
    }
    std::vector<std::pair<std::string, std::string>> demonstrations;  // longest first
    for (const char* length : kLengths) {
        if (row.value.contains(length))
            demonstrations.emplace_back(length, texts_of(row, length)[0]);
    }
    Samples samples;
    for (size_t i = 0; i < questions.size() && samples.size() < static_cast<size_t>(request.n);
         ++i) {
        Sample sample;
        sample.id = std::to_string(i);
        sample.question = questions[i];
        sample.references = {answers[i]};
        sample.n_new = n_new_of(task);
        sample.has_template = false;
        size_t at = 0;
        for (; at < demonstrations.size(); ++at) {
            sample.context = demonstrations[at].second;
            if (request.count_tokens(sample) <= request.length) break;
        }
        require(at < demonstrations.size(), row.where, ": no demonstrations for task '", task,
                "' fit a length of ", request.length, " tokens");
        sample.source = cat("ManyICLBench: ", base_name(request.sources.many_icl), ", ",
                            demonstrations[at].first, ", seed ", request.seed % 3);
        samples.push_back(std::move(sample));
    }
    return samples;
}

}  // namespace palimpsest
