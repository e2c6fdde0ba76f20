#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// One question over one context, and what counts as its answer.
struct Sample {
    std::string id;             // unique within its task, length and seed
    std::string context;        // what a memory may compress
    std::string question;       // stands right after it
    std::string answer_prefix;  // starts the answer, after the template's assistant header
    std::vector<std::string> references;
    std::vector<std::string> classes = {};  // all labels, where the metric asks for them
    std::string source = "generated";       // where its text is from
    std::string part = {};     // of its task, where results tell parts apart; no part: empty
    int64_t n_new = 128;       // tokens the answer may take; 0: `question` is the text to be judged
    double depth = -1;         // of the needle in the context, 0 to 1; -1: no such thing
    bool has_template = true;  // goes through the model's chat template, if there is one
};

/// How an output is judged.
struct Metric {
    std::string_view name;
    /// 0 to 1.
    double (*score)(std::string_view output, const Sample& sample);
    /// More text never lowers the score: writing may stop once it is 1.
    bool only_rises = false;
    /// The class that the output names, for macro-averaged F1, or several, a line each; nullptr: no
    /// classes. Of a reference, its own.
    std::string (*predicted)(std::string_view output, const Sample& sample) = nullptr;
};

/// Files that a user names; empty: not named.
struct TaskSources {
    std::string ready;      // folder of ready RULER samples, LENGTH/TASK.jsonl
    std::string haystack;   // any long text, in which needles are hidden
    std::string squad;      // SQuAD's JSON, for qa_1
    std::string hotpotqa;   // HotpotQA's JSON, for qa_2
    std::string longbench;  // folder of LongBench's TASK.jsonl
    std::string many_icl;   // folder of ManyICLBench's files
    std::string text;       // any text, for `text`
};

struct SampleRequest {
    int64_t length = 4096;  // most tokens: prompt, template and room for the answer
    int64_t n = 1;          // samples wanted, of each part; fewer come where a file has no more
    uint64_t seed = 42;     // the same seed gives the same bytes everywhere
    TaskSources sources = {};
    std::vector<double> depths = {};  // of needles, 0 to 1; for the needle grid. Empty: 11, evenly
    /// Tokens of the whole prompt of a sample, template and answer prefix included, and its n_new.
    std::function<int64_t(const Sample&)> count_tokens;
};

/// A kind of sample: a line of the table in tasks.cpp, and a function in a file of its own.
struct TaskKind {
    std::string_view name;
    std::string_view group;  // "ruler", "document", "needle", "many-shot", "many-icl", "longbench",
                             // "longbench-e", "text"
    const Metric* metric;
    /// Throws kInvalidArgument if `length` cannot hold the task or a file it needs is not named,
    /// kNotFound if it cannot be read, kCorrupt with the line's number if it is malformed.
    std::vector<Sample> (*samples)(std::string_view task, const SampleRequest& request);
    std::string_view summary;
};

[[nodiscard]] std::span<const TaskKind> task_kinds();

/// The task as results call it: its name, and the sample's part of it behind.
[[nodiscard]] std::string result_name(const TaskKind& kind, const Sample& sample);

/// The tasks that a list of names and groups means, in the table's order, each once; "all": every
/// one. Throws kNotFound, suggesting the nearest name, for an unknown one.
std::vector<const TaskKind*> find_tasks(std::span<const std::string> names);

}  // namespace palimpsest
