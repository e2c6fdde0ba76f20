#include <algorithm>
#include <array>

#include "bench/tasks/metrics.h"
#include "bench/tasks/task.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "memory/option_reader.h"

namespace palimpsest {

namespace {

constexpr std::array kKinds = std::to_array<TaskKind>({
    {"niah_single_1", "ruler", &kAllMetric, needle_samples, "a number in noise"},
    {"niah_single_2", "ruler", &kAllMetric, needle_samples, "a number in prose"},
    {"niah_single_3", "ruler", &kAllMetric, needle_samples, "a UUID in prose"},
    {"niah_multikey_1", "ruler", &kAllMetric, needle_samples, "one of four keys in prose"},
    {"niah_multikey_2", "ruler", &kAllMetric, needle_samples, "a number among many others"},
    {"niah_multikey_3", "ruler", &kAllMetric, needle_samples, "a UUID for a UUID among many"},
    {"niah_multivalue", "ruler", &kAllMetric, needle_samples, "four values of one key in prose"},
    {"niah_multiquery", "ruler", &kAllMetric, needle_samples, "the values of four keys in prose"},
    {"vt", "ruler", &kAllMetric, variable_samples, "variables that hold a value, over four hops"},
    {"cwe", "ruler", &kAllMetric, common_word_samples, "the ten most common words of a list"},
    {"fwe", "ruler", &kAllMetric, frequent_word_samples, "the three most frequent coded words"},
    {"qa_1", "ruler", &kPartMetric, document_samples, "SQuAD among other paragraphs"},
    {"qa_2", "ruler", &kPartMetric, document_samples, "HotpotQA among other paragraphs"},
    {"doc_number", "document", &kExactMetric, fact_samples,
     "a number in any text, by the words before"},
    {"doc_date", "document", &kExactMetric, fact_samples,
     "a date in any text, by the words before"},
    {"doc_name", "document", &kExactMetric, fact_samples,
     "a name in any text, by the words before"},
    {"doc_section", "document", &kExactMetric, fact_samples, "what any text says below a heading"},
    {"needle", "needle", &kExactMetric, grid_samples, "one needle at each of many depths"},
    {"many-shot", "many-shot", &kAccuracyMetric, many_shot_samples, "labels made up for a sample"},
    {"banking77", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: bank queries"},
    {"goEmotions", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: emotions"},
    {"dialogRE", "many-icl", &kLabelsMetric, many_icl_samples,
     "ManyICLBench: relations in a dialogue"},
    {"trec_50", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: question types"},
    {"clinc150", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: intents"},
    {"BBH-geometric_shapes", "many-icl", &kAccuracyMetric, many_icl_samples,
     "ManyICLBench: shapes of paths"},
    {"BBH-salient_translation_error_detection", "many-icl", &kAccuracyMetric, many_icl_samples,
     "ManyICLBench: kinds of translation errors"},
    {"BBH-word_sorting", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: sorting"},
    {"BBH-dyck_languages", "many-icl", &kAccuracyMetric, many_icl_samples,
     "ManyICLBench: closing brackets"},
    {"ARC-Easy", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: easy science"},
    {"ARC-Challenge", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: science"},
    {"GPQA", "many-icl", &kAccuracyMetric, many_icl_samples, "ManyICLBench: hard science"},
    {"GPQA_cot", "many-icl", &kAccuracyMetric, many_icl_samples,
     "ManyICLBench: hard science, reasoned"},
    {"GSM8K", "many-icl", &kGsm8kMetric, many_icl_samples, "ManyICLBench: sums in words"},
    {"XLSUM", "many-icl", &kRougeLStemsMetric, many_icl_samples, "ManyICLBench: news summed up"},
    {"MT_Kurdish", "many-icl", &kChrfMetric, many_icl_samples, "ManyICLBench: into Kurdish"},
    {"MT_Chinese", "many-icl", &kChrfMetric, many_icl_samples, "ManyICLBench: into Chinese"},
    {"MT_Spanish", "many-icl", &kChrfMetric, many_icl_samples, "ManyICLBench: into Spanish"},
    {"narrativeqa", "longbench", &kF1Metric, longbench_samples, "LongBench: stories"},
    {"qasper", "longbench", &kF1Metric, longbench_samples, "LongBench: papers"},
    {"multifieldqa_en", "longbench", &kF1Metric, longbench_samples, "LongBench: articles"},
    {"multifieldqa_zh", "longbench", &kF1CharsMetric, longbench_samples,
     "LongBench: Chinese articles"},
    {"hotpotqa", "longbench", &kF1Metric, longbench_samples, "LongBench: two passages"},
    {"2wikimqa", "longbench", &kF1Metric, longbench_samples, "LongBench: several passages"},
    {"musique", "longbench", &kF1Metric, longbench_samples, "LongBench: up to four passages"},
    {"dureader", "longbench", &kRougeLCharsMetric, longbench_samples,
     "LongBench: several Chinese articles"},
    {"gov_report", "longbench", &kRougeLMetric, longbench_samples, "LongBench: reports summed up"},
    {"qmsum", "longbench", &kRougeLMetric, longbench_samples, "LongBench: meetings"},
    {"multi_news", "longbench", &kRougeLMetric, longbench_samples, "LongBench: news summed up"},
    {"vcsum", "longbench", &kRougeLCharsMetric, longbench_samples, "LongBench: Chinese meetings"},
    {"trec", "longbench", &kClassesMetric, longbench_samples, "LongBench: question types"},
    {"triviaqa", "longbench", &kF1LineMetric, longbench_samples, "LongBench: few-shot trivia"},
    {"samsum", "longbench", &kRougeLLineMetric, longbench_samples, "LongBench: dialogues"},
    {"lsht", "longbench", &kClassesMetric, longbench_samples, "LongBench: kinds of Chinese news"},
    {"passage_count", "longbench", &kCountMetric, longbench_samples, "LongBench: counting"},
    {"passage_retrieval_en", "longbench", &kRetrievalMetric, longbench_samples,
     "LongBench: a passage by its abstract"},
    {"passage_retrieval_zh", "longbench", &kRetrievalMetric, longbench_samples,
     "LongBench: a Chinese passage by its abstract"},
    {"lcc", "longbench", &kEditMetric, longbench_samples, "LongBench: the next line of code"},
    {"repobench-p", "longbench", &kEditMetric, longbench_samples,
     "LongBench: the next line of a repository's code"},
    {"qasper_e", "longbench-e", &kF1Metric, longbench_e_samples, "LongBench-E: papers"},
    {"multifieldqa_en_e", "longbench-e", &kF1Metric, longbench_e_samples, "LongBench-E: articles"},
    {"hotpotqa_e", "longbench-e", &kF1Metric, longbench_e_samples, "LongBench-E: two passages"},
    {"2wikimqa_e", "longbench-e", &kF1Metric, longbench_e_samples, "LongBench-E: several passages"},
    {"gov_report_e", "longbench-e", &kRougeLMetric, longbench_e_samples,
     "LongBench-E: reports summed up"},
    {"multi_news_e", "longbench-e", &kRougeLMetric, longbench_e_samples,
     "LongBench-E: news summed up"},
    {"trec_e", "longbench-e", &kClassesMetric, longbench_e_samples, "LongBench-E: question types"},
    {"triviaqa_e", "longbench-e", &kF1LineMetric, longbench_e_samples,
     "LongBench-E: few-shot trivia"},
    {"samsum_e", "longbench-e", &kRougeLLineMetric, longbench_e_samples, "LongBench-E: dialogues"},
    {"passage_count_e", "longbench-e", &kCountMetric, longbench_e_samples, "LongBench-E: counting"},
    {"passage_retrieval_en_e", "longbench-e", &kRetrievalMetric, longbench_e_samples,
     "LongBench-E: a passage by its abstract"},
    {"lcc_e", "longbench-e", &kEditMetric, longbench_e_samples,
     "LongBench-E: the next line of code"},
    {"repobench-p_e", "longbench-e", &kEditMetric, longbench_e_samples,
     "LongBench-E: the next line of a repository's code"},
    {"text", "text", &kKlMetric, text_samples, "divergence from the full cache on any text"},
});

bool is_meant(const TaskKind& kind, std::string_view name) {
    return name == "all" || kind.name == name || kind.group == name;
}

[[noreturn]] void refuse(const std::string& name) {
    std::vector<std::string_view> names = {"all"};
    for (const TaskKind& kind : kKinds) {
        if (kind.group != kind.name && std::ranges::find(names, kind.group) == names.end()) {
            names.push_back(kind.group);
        }
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("task", name, names));
}

}  // namespace

std::span<const TaskKind> task_kinds() { return kKinds; }

std::string result_name(const TaskKind& kind, const Sample& sample) {
    return sample.part.empty() ? std::string(kind.name) : cat(kind.name, " ", sample.part);
}

std::vector<const TaskKind*> find_tasks(std::span<const std::string> names) {
    for (const std::string& name : names) {
        const auto known = [&](const TaskKind& kind) { return is_meant(kind, name); };
        if (std::ranges::none_of(kKinds, known)) refuse(name);
    }
    std::vector<const TaskKind*> found;
    for (const TaskKind& kind : kKinds) {
        const auto meant = [&](const std::string& name) { return is_meant(kind, name); };
        if (std::ranges::any_of(names, meant)) found.push_back(&kind);
    }
    return found;
}

}  // namespace palimpsest
