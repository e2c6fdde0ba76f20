// Samples that RULER's own generators made, READY/LENGTH/TASK.jsonl, with the fields `input`,
// `outputs` and `answer_prefix`. The question is the input's last line with words; whatever white
// space and line breaks end it do not count. What went through a chat template already is refused:
// it would go through another one.
#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

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

/// Marks of chat templates that models use, wherever they stand in a line.
constexpr auto kTemplateMarks = std::to_array<std::string_view>(
    {"<|", "|>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>",
     "<\xEF\xBD\x9C", "\xEF\xBD\x9C>", "<bos>", "<eos>", "[SYSTEM_PROMPT]", "### Response",
     "### Assistant", "[gMASK]"});

/// A whole line that only says who speaks next.
constexpr auto kSpeakers = std::to_array<std::string_view>(
    {"assistant", "assistant:", "model", "model:", "answer:", "response:", "bot:", "ai:"});

constexpr std::string_view kBlanks = " \t\r\n\v\f";

std::string lower(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return text;
}

/// What of a chat template ends an input; empty: nothing.
std::string_view template_mark(std::string_view last_line) {
    for (const std::string_view mark : kTemplateMarks) {
        if (last_line.find(mark) != last_line.npos) return mark;
    }
    const std::string whole = lower(std::string(last_line));
    for (const std::string_view speaker : kSpeakers) {
        if (whole == speaker) return speaker;
        if (speaker.ends_with(':') && whole.ends_with(cat(" ", speaker))) return speaker;
    }
    return {};
}

struct Halves {
    std::string context, question;
};

Halves split_at_question(std::string_view input, const std::string& where) {
    const auto refuse = [&](const std::string& what) {
        throw Error(ErrorCode::kCorrupt, cat(where, ": 'input' ", what));
    };
    const size_t end = input.find_last_not_of(kBlanks);
    const size_t line_break = end == input.npos ? input.npos : input.find_last_of("\r\n", end);
    if (line_break == input.npos) refuse("has no line break, so no line with the question");
    const std::string_view line = input.substr(line_break + 1, end - line_break);
    const std::string_view mark = template_mark(line);
    if (!mark.empty()) {
        refuse(cat("ends in '", mark, "', of a chat template, so its question cannot be told ",
                   "apart; make the samples without a template, for one is put around them here"));
    }
    const std::string context(input.substr(0, line_break + 1));
    if (context.find_first_not_of(kBlanks) == context.npos) {
        refuse("has a question and no context");
    }
    return {context, std::string(line.substr(line.find_first_not_of(kBlanks)))};
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
        Halves halves = split_at_question(input, line.where);
        Sample sample;
        sample.id = std::to_string(samples.size());
        sample.context = std::move(halves.context);
        sample.question = std::move(halves.question);
        sample.answer_prefix = text_field(line.value, "answer_prefix", line.where);
        sample.references = texts_field(line.value, "outputs", line.where);
        sample.source = "RULER samples: " + base_name(request.sources.ready);
        sample.n_new = n_new;
        samples.push_back(std::move(sample));
    }
    return samples;
}

}  // namespace palimpsest
