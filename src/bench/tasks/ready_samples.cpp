// Samples that RULER's own generators made, READY/LENGTH/TASK.jsonl, with the fields `input`,
// `outputs` and `answer_prefix`. The context ends, and the question begins, at the input's last
// line break.
#include <algorithm>
#include <filesystem>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/input_files.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

/// "2048, 4096": lengths for which the folder has the task.
std::string lengths_with(const fs::path& folder, const std::string& file) {
    std::vector<int64_t> lengths;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
        const std::string name = entry.path().filename().string();
        const bool is_number = !name.empty() && name.size() < 12 &&
                               name.find_first_not_of("0123456789") == std::string::npos;
        if (is_number && fs::exists(entry.path() / file, ignored)) {
            lengths.push_back(std::stoll(name));
        }
    }
    std::ranges::sort(lengths);
    std::string list;
    for (const int64_t length : lengths) list += cat(list.empty() ? "" : ", ", length);
    return list;
}

}  // namespace

Samples ready_samples(std::string_view task, const SampleRequest& request, int64_t n_new) {
    check_request(task, request);
    const fs::path folder = request.sources.ready;
    const std::string file = cat(task, ".jsonl");
    const fs::path path = folder / std::to_string(request.length) / file;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
        const std::string lengths = lengths_with(folder, file);
        throw Error(ErrorCode::kNotFound,
                    cat("no ready samples '", path.string(), "'; ",
                        lengths.empty() ? cat("no length has ", file)
                                        : cat("lengths that have ", file, ": ", lengths)));
    }
    Samples samples;
    for (const JsonLine& line : read_json_lines(path.string(), request.n)) {
        const std::string& input = text_field(line.value, "input", line.where);
        const size_t line_break = input.rfind('\n');
        if (line_break == std::string::npos) {
            throw Error(ErrorCode::kCorrupt,
                        line.where + ": 'input' has no line break, so no line with the question");
        }
        Sample sample;
        sample.id = std::to_string(samples.size());
        sample.context = input.substr(0, line_break + 1);
        sample.question = input.substr(line_break + 1);
        sample.answer_prefix = text_field(line.value, "answer_prefix", line.where);
        sample.references = texts_field(line.value, "outputs", line.where);
        sample.source = "RULER samples: " + base_name(request.sources.ready);
        sample.n_new = n_new;
        samples.push_back(std::move(sample));
    }
    return samples;
}

}  // namespace palimpsest
