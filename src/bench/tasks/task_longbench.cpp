// LongBench (Bai and others, 2023, arXiv:2308.14508): its 21 tasks from FOLDER/TASK.jsonl. Prompts
// are those of a dataset2prompt.json in the folder or its config/, else in our own words. No chat
// template for few-shot and code tasks.
//
// LongBench-E: 13 of them from FOLDER/TASK_e.jsonl, whose lengths are spread evenly. Prompts and
// metrics are those of TASK. A line's `length`, in words, puts it into a bucket of the original's;
// each bucket has samples, and results, of its own.
//
// Where we differ: a prompt that is too long loses the middle of its context, not of the whole
// prompt, so that instructions and question stay whole; it is cut between words, its halves equal
// in words. Chinese answers are judged by characters, not by words (metrics_longbench.cpp).
#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <map>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

struct LongBenchTask {
    std::string_view name;
    int64_t n_new = 0;
    bool has_template = true;
    std::string_view prompt;  // our own; "{context}" and "{input}" stand for a line's fields
    bool has_classes = false;
};

constexpr std::string_view kOneText =
    "Read this text and answer the question on it as briefly as you can, without an explanation."
    "\n\n{context}\n\nAnswer the question on the text above as briefly as you can, without an "
    "explanation.\n\nQuestion: {input}\nAnswer:";
constexpr std::string_view kPaper =
    "Read this article and answer the question on it as briefly as you can: with \"yes\" or \"no\" "
    "where that is asked, with \"unanswerable\" where the article does not say.\n\n{context}\n\n"
    "Answer the question on the article above as briefly as you can: \"yes\", \"no\", a phrase, or "
    "\"unanswerable\".\n\nQuestion: {input}\nAnswer:";
constexpr std::string_view kPassages =
    "Read these passages and answer the question on them. Give the answer alone.\n\n{context}\n\n"
    "Answer the question on the passages above. Give the answer alone.\n\n"
    "Question: {input}\nAnswer:";
constexpr std::string_view kReport =
    "Read this report and sum it up on one page.\n\n{context}\n\nSum the report up on one page.\n\n"
    "Summary:";
constexpr std::string_view kNews =
    "Read these news articles and sum them all up on one page.\n\n{context}\n\nSum all the news up "
    "on one page.\n\nSummary:";
constexpr std::string_view kMeeting =
    "Read this record of a meeting and do what is asked about it in a few sentences.\n\n{context}"
    "\n\nQuery: {input}\nAnswer:";
constexpr std::string_view kQuestionTypes =
    "Tell the type of the last question, as these examples do.\n\n{context}\n{input}";
constexpr std::string_view kTrivia =
    "Answer the last question from its passage, as these examples do. Give the answer alone.\n\n"
    "{context}\n\n{input}";
constexpr std::string_view kDialogues =
    "Sum up the last dialogue in a few short sentences, as these examples do.\n\n{context}\n\n"
    "{input}";
constexpr std::string_view kCount =
    "Some of these paragraphs may stand here twice or more. Count the different ones.\n\n{context}"
    "\n\nHow many different paragraphs are there? Give the number alone.\n\nThe number is: ";
constexpr std::string_view kRetrieval =
    "Here are 30 paragraphs, and behind them an abstract of one. Find which.\n\n{context}\n\n"
    "The abstract:\n\n{input}\n\nWhich paragraph is it of? Answer in the form \"Paragraph 1\"."
    "\n\nThe answer is: ";
constexpr std::string_view kLine = "Go on with this code.\n{context}Next line of code:\n";
constexpr std::string_view kRepositoryLine =
    "Go on with this code.\n{context}{input}Next line of code:\n";

constexpr std::string_view kChineseText =
    "请阅读这篇文章，然后用中文尽量简短地回答问题，不必解释。\n\n{context}\n\n"
    "请根据这篇文章用中文尽量简短地回答，不必解释。\n\n问题：{input}\n答案：";
constexpr std::string_view kChineseArticles =
    "下面有几篇文章，文章后面有一个问题。请从文章中寻找答案。\n\n{context}\n\n"
    "请用文章里的内容回答。\n\n问题：{input}\n答案：";
constexpr std::string_view kChineseMeeting =
    "这是一次会议的发言记录。请读完以后概括会议谈了什么。\n\n{context}\n\n"
    "请概括这次会议谈了什么。\n\n概括：";
constexpr std::string_view kChineseNews =
    "请仿照这些例子，写出最后一条新闻属于哪一类。\n\n{context}\n{input}";
constexpr std::string_view kChineseRetrieval =
    "这里有许多段落，后面是其中一段的摘要。请找出是哪一段。\n\n{context}\n\n摘要：\n\n{input}\n\n"
    "这是哪一段的摘要？请照“段落1”的形式作答。\n\n答案：";

constexpr std::array<LongBenchTask, 21> kTasks = {{
    {"narrativeqa", 128, true, kOneText},
    {"qasper", 128, true, kPaper},
    {"multifieldqa_en", 64, true, kOneText},
    {"multifieldqa_zh", 64, true, kChineseText},
    {"hotpotqa", 32, true, kPassages},
    {"2wikimqa", 32, true, kPassages},
    {"musique", 32, true, kPassages},
    {"dureader", 128, true, kChineseArticles},
    {"gov_report", 512, true, kReport},
    {"qmsum", 512, true, kMeeting},
    {"multi_news", 512, true, kNews},
    {"vcsum", 512, true, kChineseMeeting},
    {"trec", 64, false, kQuestionTypes, true},
    {"triviaqa", 32, false, kTrivia},
    {"samsum", 128, false, kDialogues},
    {"lsht", 64, false, kChineseNews, true},
    {"passage_count", 32, true, kCount},
    {"passage_retrieval_en", 32, true, kRetrieval},
    {"passage_retrieval_zh", 32, true, kChineseRetrieval},
    {"lcc", 64, false, kLine},
    {"repobench-p", 64, false, kRepositoryLine},
}};

constexpr std::string_view kContextMark = "{context}", kInputMark = "{input}";

/// A prompt around a line's context, the input still to be put in.
struct Prompt {
    std::string before, after;
    std::string source;
};

Prompt split_prompt(std::string_view text, const std::string& where, const std::string& source) {
    const size_t at = text.find(kContextMark);
    if (at == std::string_view::npos) {
        throw Error(ErrorCode::kCorrupt, cat(where, ": a prompt without ", kContextMark));
    }
    const size_t end = at + kContextMark.size();
    return {std::string(text.substr(0, at)), std::string(text.substr(end)), source};
}

Prompt prompt_of(const LongBenchTask& task, const fs::path& folder) {
    std::error_code ignored;
    for (const fs::path& place : {folder, folder / "config"}) {
        const fs::path path = place / "dataset2prompt.json";
        if (!fs::exists(path, ignored)) continue;
        const std::string where = cat("'", path.string(), "'");
        const nlohmann::json file = read_json_file(path.string());
        const std::string& text = text_field(file, std::string(task.name), where);
        return split_prompt(text, where, "prompts: dataset2prompt.json");
    }
    return split_prompt(task.prompt, "built in", "prompts in our own words");
}

std::string with_input(const std::string& text, const std::string& input) {
    const size_t at = text.find(kInputMark);
    if (at == std::string::npos) return text;
    return text.substr(0, at) + input + text.substr(at + kInputMark.size());
}

/// The halves that stay of a text of which n words are kept.
std::string without_middle(const std::string& text, const std::vector<size_t>& points, int64_t n) {
    const auto n_all = static_cast<int64_t>(points.size()) - 1;
    const auto head = static_cast<size_t>(n - n / 2), tail = static_cast<size_t>(n_all - n / 2);
    return text.substr(0, points[head]) + text.substr(points[tail]);
}

/// Shortens the context that stands between `before` and the question until all fits.
void cut_middle(std::string_view task, const SampleRequest& request, const std::string& before,
                Sample& sample) {
    const int64_t n_token = request.count_tokens(sample);
    if (n_token <= request.length) return;
    const std::string text = sample.context.substr(before.size());
    const std::vector<size_t> points = cut_points(text);
    const Recipe shorter = [&](int64_t n) {
        Sample cut = sample;
        cut.context = before + without_middle(text, points, n);
        return cut;
    };
    const auto most = static_cast<int64_t>(points.size()) - 1;
    sample = shorter(most_units(task, request, shorter, {.least = 0, .most = most}));
    sample.source += cat("; middle ", n_token - request.count_tokens(sample), " tokens cut out");
}

std::vector<std::string> classes_of(const JsonLine& line) {
    const auto it = line.value.find("all_classes");
    if (it == line.value.end() || it->is_null()) return {};
    return texts_field(line.value, "all_classes", line.where);
}

/// What all samples of a task have in common.
struct Source {
    std::string_view task;
    const LongBenchTask& setting;
    Prompt prompt;
    std::string path;
    std::string name;  // of the folder, and whose prompt it is
};

/// Of a task whose prompt and limits are those of `original`.
Source source_of(std::string_view task, std::string_view original, const SampleRequest& request) {
    check_request(task, request);
    const std::string& folder = request.sources.longbench;
    require_named(folder, task, "LongBench's files", "--longbench FOLDER");
    const auto found = std::ranges::find(kTasks, original, &LongBenchTask::name);
    check(found != kTasks.end(), "a LongBench task without a setting");
    Prompt prompt = prompt_of(*found, folder);
    std::string name = cat("LongBench: ", base_name(folder), ", ", prompt.source);
    return {.task = task,
            .setting = *found,
            .prompt = std::move(prompt),
            .path = (fs::path(folder) / cat(task, ".jsonl")).string(),
            .name = std::move(name)};
}

Sample sample_of(const JsonLine& line, int64_t index, const Source& source,
                 const SampleRequest& request) {
    const std::string& input = text_field(line.value, "input", line.where);
    const std::string before = with_input(source.prompt.before, input);
    Sample sample;
    sample.id = std::to_string(index);
    sample.context = before + text_field(line.value, "context", line.where);
    sample.question = with_input(source.prompt.after, input);
    sample.references = texts_field(line.value, "answers", line.where);
    sample.classes = classes_of(line);
    if (source.setting.has_classes && sample.classes.empty()) {
        throw Error(ErrorCode::kCorrupt, line.where + ": no field 'all_classes'");
    }
    sample.source = source.name;
    sample.n_new = source.setting.n_new;
    sample.has_template = source.setting.has_template;
    cut_middle(source.task, request, before, sample);
    return sample;
}

/// The original's bucket of a text of so many words.
std::string_view bucket_of(int64_t n_word) {
    return n_word < 4000 ? "0-4k" : n_word < 8000 ? "4-8k" : "8k+";
}

}  // namespace

Samples longbench_samples(std::string_view task, const SampleRequest& request) {
    const Source source = source_of(task, task, request);
    Samples samples;
    for (const JsonLine& line : read_json_lines(source.path, request.n)) {
        samples.push_back(sample_of(line, std::ssize(samples), source, request));
    }
    return samples;
}

Samples longbench_e_samples(std::string_view task, const SampleRequest& request) {
    constexpr std::string_view kEnding = "_e";
    check(task.ends_with(kEnding), "a task of LongBench-E without its ending");
    const Source source = source_of(task, task.substr(0, task.size() - kEnding.size()), request);
    const std::vector<JsonLine> lines =
        read_json_lines(source.path, std::numeric_limits<int64_t>::max());
    std::map<std::string_view, int64_t> n_in;
    Samples samples;
    for (size_t i = 0; i < lines.size(); ++i) {
        const JsonLine& line = lines[i];
        const std::string_view bucket = bucket_of(count_field(line.value, "length", line.where));
        if (++n_in[bucket] > request.n) continue;
        samples.push_back(sample_of(line, static_cast<int64_t>(i), source, request));
        samples.back().part = bucket;
    }
    std::ranges::stable_sort(samples, {}, &Sample::part);  // whose names sort by length
    return samples;
}

}  // namespace palimpsest
