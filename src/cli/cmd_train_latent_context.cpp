// palimpsest train latent-context: an encoder and its adapter, and a decoder that reads latents.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/train_commands.h"
#include "core/error.h"
#include "core/numbers.h"
#include "core/whole_file.h"
#include "text/text_parts.h"
#include "train/latent_context/latent_training.h"
#include "train/training_log.h"

namespace palimpsest {

namespace {

constexpr int64_t kMost = int64_t{1} << 30;

struct LatentFlags {
    ModelFlags model;
    LatentTrainingOptions training;
    std::string stages = "pack:300,all:400";
};

/// 0: it is none of these numbers.
int64_t parse_count(std::string_view text) {
    const bool is_number = !text.empty() && text.size() < 9 && std::ranges::all_of(text, is_digit);
    return is_number ? std::stoll(std::string(text)) : 0;
}

/// "pack:300,all:400,answers:200:8"
std::vector<LatentStage> parse_stages(const std::string& text) {
    std::vector<LatentStage> stages;
    for (const std::string_view part : split_at(text, ',')) {
        const std::vector<std::string_view> fields = split_at(part, ':');
        LatentStage stage;
        if (fields.size() >= 2) stage.n_steps = parse_count(fields[1]);
        if (fields.size() == 3) stage.n_windows = parse_count(fields[2]);
        require(fields.size() <= 3 && stage.n_steps > 0 && stage.n_windows > 0, "--stages has '",
                part, "'; write names and steps, and windows of a sample if there are to be more ",
                "than one, such as pack:300,all:400,answers:200:8");
        stage.kind = fields[0];
        stages.push_back(std::move(stage));
    }
    return stages;
}

std::string name_of(const LatentStepReport::HeldOut& h) {
    return h.n_windows == 1 ? h.task : cat(h.task, ", ", h.n_windows, " windows");
}

nlohmann::json to_json(const LatentStepReport& r) {
    nlohmann::json j = {{"step", r.step},
                        {"stage", r.stage},
                        {"loss", r.loss},
                        {"right", r.right},
                        {"rate", r.rate},
                        {"seconds", r.seconds},
                        {"source_tokens", r.n_source}};
    for (const auto& h : r.held_out) {
        j["held_out"][name_of(h)] = {{"loss", h.loss}, {"right", h.right}, {"whole", h.whole}};
    }
    return j;
}

std::string held_out_line(const LatentStepReport& r) {
    std::string text = cat("step ", r.step, " of ", r.n_steps, " (", r.stage,
                           "): ", human_count(r.n_source), " source tokens; held out:");
    for (const auto& h : r.held_out) {
        text += cat(" ", name_of(h), " loss ", fixed(h.loss, 3), ", ", fixed(100 * h.right, 1),
                    " % of tokens, ", fixed(100 * h.whole, 1), " % whole;");
    }
    return text + "\n";
}

void train(LatentFlags f) {
    LatentTrainingOptions& o = f.training;
    o.model = model_path(f.model.engine);
    o.n_threads = thread_count(f.model.engine);
    o.stages = parse_stages(f.stages);
    std::error_code error;
    std::filesystem::create_directories(o.out, error);
    const auto in_out = [&o](const char* name) {
        return (std::filesystem::path(o.out) / name).string();
    };
    const std::string log_path = in_out("training.jsonl");
    require_apart(std::vector<NamedFile>{{"--out", log_path}},
                  std::vector<NamedFile>{{"--model", o.model}});
    catch_interrupts();
    std::optional<TrainingLog> log;  // once it is known where the training goes on
    ProgressBar bar("training", "steps");
    const LatentTrainingHooks hooks = {
        .on_step =
            [&](const LatentStepReport& r) {
                if (!log) log.emplace(log_path, r.step - 1);
                log->add(to_json(r));
                bar.set_label(cat(r.stage, ", loss ", fixed(r.loss, 3)));
                bar.show(r.step, r.n_steps);
                if (!r.held_out.empty()) {
                    write_whole_file(in_out("training.svg"), log->svg());
                    bar.clear();
                    write_message(held_out_line(r));
                }
                return !interrupted();
            },
        .on_note = [](const std::string& text) { write_note(text); }};
    const bool is_whole = train_latent_context(o, hooks);
    bar.clear();
    if (!is_whole) {
        write_message("stopped; go on with the same flags and --resume\n");
        throw CLI::RuntimeError(kInterrupted);
    }
    write_message(cat("written: encoder.gguf, adapter.gguf, decoder.gguf and training.svg in ",
                      o.out, "; use them with: palimpsest run --latent ", o.out,
                      "/adapter.gguf\n"));
}

}  // namespace

void add_train_latent_context(CLI::App& parent) {
    CLI::App& command = *parent.add_subcommand(
        "latent-context", "an encoder, an adapter and a decoder that read documents as latents");
    auto f = std::make_shared<LatentFlags>();
    LatentTrainingOptions& o = f->training;
    reads_model(command.add_option("-m,--model", f->model.engine.model,
                                   "what encoder and decoder start from"));
    command
        .add_option("-t,--threads", f->model.engine.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, 512));
    reads_file(command.add_option(
                   "-d,--documents", o.documents,
                   "texts to learn from: text files, or .jsonl with a field \"text\" a line"))
        ->required();
    command.add_option("-o,--out", o.out, "the folder for models, log and checkpoint")->required();
    std::string kinds;
    for (const LatentStageKind& k : latent_stage_kinds()) {
        kinds += cat(kinds.empty() ? "" : "; ", k.name, ": ", k.summary);
    }
    command
        .add_option(
            "--stages", f->stages,
            cat("what is learnt, for how many steps, and from documents of how many windows at ",
                "most (NAME:STEPS[:WINDOWS]). ", kinds))
        ->capture_default_str();
    const auto add_count = [&](const char* flag, int64_t& to, int64_t least, const char* what) {
        command.add_option(flag, to, what)->check(CLI::Range(least, kMost))->capture_default_str();
    };
    add_count("--ratio", o.ratio, 1, "tokens in a latent");
    add_count("--source", o.n_source, 1, "tokens of the encoder's window");
    add_count("--target", o.n_target, 1, "most tokens learnt of a sample");
    add_count("--batch", o.n_batch, 1, "samples in a step");
    add_count("--encoder-layers", o.n_encoder_layers, 1, "first layers of the model that encode");
    command.add_option("--pooling", o.pooling, "how a group becomes one")
        ->check(CLI::IsMember({"concat", "mean"}))
        ->capture_default_str();
    reads_file(command.add_option("--start", o.start,
                                  "go on from another training's additions.gguf, of the same "
                                  "ranks; moments of the optimiser begin anew"));
    add_count("--encoder-rank", o.encoder_rank, 0,
              "what is learnt of the encoder's matrices: all (0), or thin ones of this rank");
    add_count("--decoder-rank", o.decoder_rank, 0, "and of the decoder's");
    command.add_option("--rate-scale", o.rate_scale, "of all learning rates")
        ->check(CLI::Range(1e-9, 1e3))
        ->capture_default_str();
    add_count("--examine-every", o.examine_every, 1, "steps between two looks at held-out texts");
    add_count("--examined", o.n_examined, 1, "samples of each task looked at");
    add_count("--save-every", o.save_every, 1, "steps between two checkpoints");
    command.add_option("--seed", o.seed, "of everything random")->capture_default_str();
    command.add_option("--type", o.type, "how the models' matrices are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    command.add_flag("--f32", o.is_f32, "compute in f32, not in bf16 (slower)");
    command.add_flag("--resume", o.resume, "go on from the checkpoint in the folder");
    command.callback([f] { train(*f); });
}

}  // namespace palimpsest
