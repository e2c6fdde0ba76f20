// palimpsest train linear: models whose layers are recurrent, with one state a head or a bank.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/file_flags.h"
#include "cli/linear_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/train_commands.h"
#include "core/error.h"
#include "core/graph.h"
#include "core/numbers.h"
#include "core/whole_file.h"
#include "train/linear/linear_training.h"
#include "train/training_log.h"

namespace palimpsest {

namespace {

struct LinearFlags {
    LinearTrainingOptions training;
    int threads = 0;
    bool weighs_one = false;
};

nlohmann::json to_json(const LinearStepReport& r) {
    nlohmann::json j = {{"step", r.step},
                        {"loss", r.loss},
                        {"rate", r.rate},
                        {"seconds", r.seconds},
                        {"source_tokens", r.n_tokens},
                        {"boundary_rates", r.boundary_rates}};
    for (const LinearScore& s : r.scores) {
        const auto n = static_cast<double>(s.n);
        j["held_out"][s.set] = {
            {"right", static_cast<double>(s.n_right) / n},
            {"loss", s.bits / static_cast<double>(s.n_bytes)},
            {"whole", static_cast<double>(s.n_whole) / static_cast<double>(s.n_sequences)}};
    }
    return j;
}

std::string scores_line(const LinearStepReport& r) {
    std::string text =
        cat("step ", r.step, " of ", r.n_steps, ", ", human_count(r.n_tokens), " tokens; ");
    for (const LinearScore& s : r.scores) {
        text += cat(s.set, ": ",
                    fixed(100 * static_cast<double>(s.n_right) / static_cast<double>(s.n), 1),
                    " % right, ", fixed(s.bits / static_cast<double>(s.n_bytes), 3), " bits; ");
    }
    return text + "\n";
}

std::string what_to_do(const LinearTrainingOptions& o) {
    const bool has_bank = o.mixing.bank.name != "single";
    const std::string model = o.only_weights ? o.model : cat(o.out, "/model.gguf");
    std::string files = o.only_weights ? "" : "model.gguf, ";
    if (has_bank) files += "read-out.gguf, ";
    return cat("written: ", files, "training.svg in ", o.out, "; use it with: palimpsest run -m ",
               model, has_bank ? cat(" --bank ", o.out, "/read-out.gguf") : "", " --raw\n");
}

void train(LinearFlags f) {
    LinearTrainingOptions& o = f.training;
    o.n_threads = f.threads > 0 ? f.threads : Backend::available_threads();
    if (o.mixing.bank.name == "single") o.mixing.bank.n_states = 1;
    o.mixing.learns_weights = o.mixing.bank.n_states > 1 && !f.weighs_one;
    if (o.shape.base == "mamba2") o.shape.n_ff = 0;
    std::error_code error;
    std::filesystem::create_directories(o.out, error);
    const auto in_out = [&o](const char* name) {
        return (std::filesystem::path(o.out) / name).string();
    };
    const std::string log_path = in_out("training.jsonl");
    std::vector<NamedFile> inputs;
    if (!o.model.empty()) inputs.push_back({"--model", o.model});
    require_apart(std::vector<NamedFile>{{"--out", log_path}, {"--out", in_out("model.gguf")}},
                  inputs);
    catch_interrupts();
    std::optional<TrainingLog> log;  // once it is known where the training goes on
    ProgressBar bar("training", "steps");
    const LinearTrainingHooks hooks = {
        .on_step =
            [&](const LinearStepReport& r) {
                if (!log) log.emplace(log_path, r.step - 1);
                log->add(to_json(r));
                bar.set_label(cat("loss ", fixed(r.loss, 3)));
                bar.show(r.step, r.n_steps);
                if (!r.scores.empty()) {
                    write_whole_file(in_out("training.svg"), log->svg());
                    bar.clear();
                    write_message(scores_line(r));
                }
                return !interrupted();
            },
        .on_model =
            [&](const LinearModelReport& m) {
                bar.clear();
                write_message(cat(human_count(m.n_parameters), " parameters learnt; states of ",
                                  human_bytes(static_cast<size_t>(m.state_bytes)), "\n"));
            },
        .on_note = [](const std::string& text) { write_note(text); }};
    const bool is_whole = train_linear(o, hooks);
    bar.clear();
    if (!is_whole) {
        write_message("stopped; go on with the same flags and --resume\n");
        throw CLI::RuntimeError(kInterrupted);
    }
    write_message(what_to_do(o));
}

void add_bank_flags(CLI::App& command, LinearFlags& f) {
    const char* const group = "Bank of states";
    BankOptions& bank = f.training.mixing.bank;
    std::vector<std::string> names;
    for (const BankKind& kind : bank_kinds()) names.emplace_back(kind.name);
    bank.n_states = 8;
    command.add_option("--bank", bank.name, "how heads keep what they read")
        ->check(CLI::IsMember(names))
        ->capture_default_str()
        ->group(group);
    command.add_option("--states", bank.n_states, "states a head")
        ->check(CLI::Range(int64_t{1}, int64_t{4096}))
        ->capture_default_str()
        ->group(group);
    command
        .add_option("--threshold", bank.threshold,
                    "a token further than this from the open state opens another")
        ->capture_default_str()
        ->group(group);
    command
        .add_option("--boundary-rate", f.training.mixing.boundary_rate,
                    "set every layer's threshold, in the first third of the steps, so that this "
                    "share of tokens opens a state")
        ->check(CLI::Range(0.0, 1.0))
        ->group(group);
    command
        .add_option_function<std::string>(
            "--closed",
            [&bank](const std::string& name) { bank.closed = closed_states_named(name); },
            "what becomes of closed states: transition, decay, nothing")
        ->group(group);
    command.add_flag("--weigh-one", f.weighs_one, "every state counts 1: nothing tells them apart")
        ->group(group);
    command
        .add_flag("--only-weights", f.training.only_weights,
                  "learn only what weighs states, of a model that is there (--model)")
        ->group(group);
}

}  // namespace

void add_train_linear(CLI::App& parent) {
    CLI::App& command = *parent.add_subcommand(
        "linear", "a small model whose layers are recurrent, or what weighs a model's states");
    auto f = std::make_shared<LinearFlags>();
    LinearTrainingOptions& o = f->training;
    o.task.name = "text";
    o.task.length = 256;
    o.task.n_examined = 32;
    o.n_batch = 8;
    o.examine_every = 100;
    reads_file(command.add_option("-m,--model", o.model,
                                  "go on from a model (mamba2, or qwen35, dense) instead of from "
                                  "nothing"));
    std::vector<std::string> tasks;
    for (const LinearTaskKind& kind : linear_task_kinds()) tasks.emplace_back(kind.name);
    command.add_option("--task", o.task.name, "what is learnt")
        ->check(CLI::IsMember(tasks))
        ->capture_default_str();
    command.add_option("--base", o.shape.base, "of a model from nothing")
        ->check(CLI::IsMember({"gated-delta", "mamba2"}))
        ->capture_default_str();
    command.add_option("-o,--out", o.out, "the folder for model, log and checkpoint")->required();
    command.add_option("-t,--threads", f->threads, "threads (default: all processors)")
        ->check(CLI::Range(1, 512));
    command.add_option("--rate", o.rate, "the highest learning rate")
        ->check(CLI::Range(1e-9, 1.0))
        ->capture_default_str();
    command.add_option("--seed", o.seed, "of everything random")->capture_default_str();
    command
        .add_option("--examine-every", o.examine_every, "steps between two looks at the held-out")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
        ->capture_default_str();
    command.add_option("--save-every", o.save_every, "steps between two checkpoints")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
        ->capture_default_str();
    command.add_option("--type", o.type, "how the model's matrices are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    command.add_flag("--resume", o.resume, "go on from the checkpoint in the folder");
    add_bank_flags(command, *f);
    add_linear_flags(command, o);
    command.callback([f] { train(*f); });
}

}  // namespace palimpsest
