#include "cli/linear_flags.h"

#include "cli/file_flags.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kMost = int64_t{1} << 30;

}  // namespace

void add_linear_flags(CLI::App& command, LinearTrainingOptions& o) {
    const auto count = [&](const char* flag, int64_t& to, int64_t least, int64_t most,
                           const char* what, const char* group) {
        command.add_option(flag, to, what)
            ->check(CLI::Range(least, most))
            ->capture_default_str()
            ->group(group);
    };
    const char* const task = "Task";
    count("--length", o.task.length, 16, 1 << 20, "tokens of a sequence", task);
    count("--examined", o.task.n_examined, 1, kMost, "sequences of every set that is examined",
          task);
    count("--vocabulary", o.task.n_vocab, 8, 1 << 20, "recall: keys and values together", task);
    command
        .add_option("--pairs", o.task.pairs,
                    "recall: pairs of a sequence, any of these (default: 4, 8, .. as many as fit)")
        ->delimiter(',')
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 18))
        ->group(task);
    reads_file(command.add_option("-d,--documents", o.task.documents,
                                  "text, needles: what is learnt from, text files or .jsonl"))
        ->group(task);
    reads_file(command.add_option("--held-out", o.task.held_out,
                                  "text, needles: what is examined in, other projects' texts"))
        ->group(task);
    const char* const shape = "Model";
    count("--layers", o.shape.n_layer, 1, 1024, "layers", shape);
    count("--width", o.shape.n_embd, 8, 1 << 16, "channels", shape);
    count("--heads", o.shape.n_head, 1, 4096, "heads a layer", shape);
    count("--key-size", o.shape.d_key, 1, 1 << 14, "rows of a state", shape);
    count("--value-size", o.shape.d_value, 1, 1 << 14, "columns of a state", shape);
    count("--feed-forward", o.shape.n_ff, 1, 1 << 18,
          "channels of Gated DeltaNet's feed-forward part", shape);
    command
        .add_option("--fastest-decay", o.shape.fastest_decay,
                    "A begins between 0 and this; less where sequences are short")
        ->check(CLI::Range(1e-3, 1e3))
        ->capture_default_str()
        ->group(shape);
    const char* const steps = "Training";
    count("--steps", o.n_steps, 1, kMost, "steps", steps);
    count("--batch", o.n_batch, 1, 1 << 16, "sequences in a step", steps);
    command.add_option("--decay", o.decay, "of matrices, a step, times the rate")
        ->check(CLI::Range(0.0, 10.0))
        ->capture_default_str()
        ->group(steps);
}

}  // namespace palimpsest
