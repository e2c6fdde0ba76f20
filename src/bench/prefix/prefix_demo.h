#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/prefix/prefix_result.h"
#include "bench/prefix/prefix_task.h"
#include "prefix/prefix_build.h"

namespace palimpsest {

struct PrefixDemoOptions {
    PrefixTaskOptions task = {};
    std::vector<uint64_t> seeds = {1};          // of the task
    std::vector<uint64_t> cluster_seeds = {1};  // of memories
    /// Bytes held, as shares of the full prefix's: every method that has a size gets these.
    std::vector<double> shares = {0.03125, 0.0625, 0.125, 0.25};
    std::vector<std::string> methods = {};  // names; empty: all
    bool asks_validation = false;           // in place of the tests
    std::string model_name;
    std::string work_folder;  // where records wait, a folder a seed
};

struct PrefixDemoHooks {
    std::function<bool(const std::string& key)> is_known;  // what need not be done again
    std::function<void(const PrefixResult&)> on_result;
    /// A method that the model cannot have is left out, and why.
    std::function<void(const std::string& why)> on_left_out = {};
};

struct PrefixMethodInfo {
    std::string_view name, title;
    bool is_aside = false;  // in charts without a colour: a variant, a control, or nobody's choice
};
[[nodiscard]] std::vector<PrefixMethodInfo> prefix_methods();

/// Section 10.2 of the specification: a prefix with generated requests under all conditions, the
/// rivals that the paper leaves out and the controls among them. Throws kInvalidArgument for an
/// unknown method or a share that holds nothing.
void run_prefix_demo(const PrefixRuntime& with, const PrefixDemoOptions& options,
                     const PrefixDemoHooks& hooks);

}  // namespace palimpsest
