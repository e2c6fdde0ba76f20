// palimpsest train: weights for what forgets, from a frozen model and any texts.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "cli/train_commands.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/whole_file.h"
#include "train/activations.h"
#include "train/sidecar.h"
#include "train/trainer.h"
#include "train/training_log.h"

namespace palimpsest {

namespace {

constexpr double kTellEvery = 30;  // seconds between two lines where there is no terminal
constexpr int64_t kMostSteps = int64_t{1} << 30;

struct TrainFlags {
    ModelFlags model;
    std::vector<std::string> documents;
    std::string out;
    CorpusOptions corpus;
    TrainingOptions training;
    ObjectiveOptions objective;
    std::string form = "softmax";
    std::string response = "repetition";
    std::string activation = "relu";
    std::string loss = "logs";
    bool is_by_layer = false;
    int64_t n_warm_up = -1, n_decay = -1;  // -1: a tenth of the steps, and three
    int64_t save_every = 200;
    bool resume = false;
};

/// OUT.checkpoint and the like, beside OUT.
std::string beside(const std::string& out, std::string_view suffix) {
    std::string path = out;
    if (path.ends_with(".gguf")) path.resize(path.size() - 5);
    return cat(path, suffix);
}

/// What comes beside OUT must not be what is learnt from, and OUT is written again and again.
void require_files_apart(const TrainFlags& f) {
    std::error_code error;
    require(
        !std::filesystem::exists(f.out, error) || std::filesystem::is_regular_file(f.out, error),
        "--out '", f.out, "' is no regular file; a training writes it again and again, and ",
        "other files beside it");
    std::vector<NamedFile> written;
    for (const char* suffix : {".checkpoint", ".log.jsonl", ".loss.svg"}) {
        written.push_back({"--out", beside(f.out, suffix)});
    }
    std::vector<NamedFile> read = {{"--model", model_path(f.model.engine)},
                                   {"--sidecar", f.model.memory.sidecar}};
    for (const std::string& path : f.documents) read.push_back({"--documents", path});
    require_apart(written, read);
}

/// One training, from flags to files.
class Training {
 public:
    Training(const TrainFlags& f, const ObjectiveKind& kind)
        : flags_(f),
          kind_(kind),
          opened_(f.model.engine),
          engine_(opened_.runtime()),
          shape_(engine_.shape()),
          base_({.architecture = engine_.config().architecture,
                 .fingerprint = model_fingerprint(engine_.loaded().file())}),
          sidecar_(sidecar_of(f)),
          objective_(kind.make({.shape = shape_,
                                .backend = engine_.backend(),
                                .options = f.objective,
                                .sidecar = sidecar_.get()})),
          reader_(engine_, objective_->wanted()) {
        corpus_ = read_corpus(f.documents, engine_.loaded().require_tokenizer(), f.corpus);
        TrainingOptions options = f.training;
        options.subject = cat(kind.name, " ", objective_->settings(), " model=", base_.fingerprint,
                              " length=", f.corpus.length);
        trainer_.emplace(*objective_, reader_, corpus_, options);
    }

    /// False: interrupted; what was done is saved.
    bool run() {
        if (flags_.resume) go_on_from(beside(flags_.out, ".checkpoint"));
        log_.emplace(beside(flags_.out, ".log.jsonl"), trainer_->n_done());
        write_message(cat("training a ", kind_.name, " on ",
                          human_count(std::ssize(corpus_.learnt)), " windows of ",
                          human_count(flags_.corpus.length), " tokens, ", corpus_.held_out.size(),
                          " held out; step ", human_count(trainer_->n_done()), " of ",
                          human_count(flags_.training.schedule.n_steps), "\n"));
        first_ = trainer_->n_done();
        trainer_->on_reading = [&](int64_t done, int64_t total) {
            reading_.show(done, total);
            return !interrupted();
        };
        trainer_->on_step = [&](const StepReport& r) { return after_step(r); };
        trainer_->goes_on = [] { return !interrupted(); };
        const bool is_whole = trainer_->run();
        reading_.clear();
        bar_.clear();
        // Whole already, its sidecar may still be missing: a disk can fill up between the two.
        if (is_whole || trainer_->n_done() > first_) save();
        return is_whole;
    }

    [[nodiscard]] bool has_saved() const { return trainer_->n_done() > first_; }

 private:
    /// A checkpoint that was damaged is as good as none.
    void go_on_from(const std::string& checkpoint) {
        try {
            trainer_->load(checkpoint);
        } catch (const Error& e) {
            if (e.code() != ErrorCode::kCorrupt) throw;
            write_note(cat(e.what(), "; the training begins anew"));
        }
    }

    /// Checked as a whole before hours go into one that could not be written.
    [[nodiscard]] std::unique_ptr<EvictionWeights> sidecar_of(const TrainFlags& f) const {
        if (f.model.memory.sidecar.empty()) return nullptr;
        return std::make_unique<EvictionWeights>(f.model.memory.sidecar, engine_.backend(), shape_,
                                                 base_);
    }

    bool after_step(const StepReport& r) {
        reading_.clear();
        log_->add(to_json(r));
        const int64_t n_steps = flags_.training.schedule.n_steps;
        bar_.set_label(cat("loss ", fixed(r.loss, 3)));
        bar_.show(r.step - first_, n_steps - first_);
        const double since = std::chrono::duration<double>(Clock::now() - told_).count();
        if (!r.held_out.empty() || (!messages_are_terminal() && since > kTellEvery)) tell(r);
        if (r.step % flags_.save_every == 0 && r.step < n_steps) save();
        return !interrupted();
    }

    void tell(const StepReport& r) {
        told_ = Clock::now();
        bar_.clear();
        const double taken = std::chrono::duration<double>(told_ - start_).count();
        const auto done = static_cast<double>(r.step - first_);
        const double left =
            taken / done * static_cast<double>(flags_.training.schedule.n_steps - r.step);
        std::string text =
            cat("step ", human_count(r.step), ": loss ", fixed(r.loss, 4), ", ",
                human_count(
                    std::lround(static_cast<double>(r.n_positions) / std::max(r.seconds, 1e-9))),
                " positions/s learnt, ", human_count(r.n_documents), " documents read at ",
                human_count(std::lround(static_cast<double>(r.n_documents * flags_.corpus.length) /
                                        std::max(r.reading_s, 1e-9))),
                " tokens/s, about ", human_seconds(left), " left");
        for (const Measure& m : r.held_out) {
            text += cat(&m == &r.held_out.front() ? "; held out: " : ", ", m.name, " ",
                        fixed(m.value, 4));
        }
        write_message(text + "\n");
    }

    void save() {
        trainer_->save(beside(flags_.out, ".checkpoint"));
        const int64_t n_steps = flags_.training.schedule.n_steps;
        const bool is_whole = trainer_->n_done() >= n_steps;
        write_sidecar(flags_.out, flags_.model.memory.sidecar, kind_.part, *objective_, shape_,
                      base_, is_whole ? "" : cat("step ", trainer_->n_done(), " of ", n_steps));
        write_whole_file(beside(flags_.out, ".loss.svg"), log_->svg());
    }

    using Clock = std::chrono::steady_clock;
    const TrainFlags& flags_;
    const ObjectiveKind& kind_;
    Engine opened_;
    const Runtime& engine_;
    MemoryShape shape_;
    BaseModel base_;
    std::unique_ptr<EvictionWeights> sidecar_;
    std::unique_ptr<Objective> objective_;
    ExampleReader reader_;
    Corpus corpus_;
    std::optional<Trainer> trainer_;
    std::optional<TrainingLog> log_;
    ProgressBar reading_{"reading", "documents"}, bar_{"training", "steps"};
    Clock::time_point start_ = Clock::now(), told_ = start_;
    int64_t first_ = 0;
};

void train(TrainFlags f, const ObjectiveKind& kind) {
    Schedule& s = f.training.schedule;
    s.n_warm_up = f.n_warm_up < 0 ? s.n_steps / 10 : f.n_warm_up;
    s.n_decay = f.n_decay < 0 ? 3 * s.n_steps / 10 : f.n_decay;
    f.objective.latent_form = f.form == "softmax" ? LatentForm::kSoftmax : LatentForm::kResidual;
    IndexerTrainingOptions& indexer = f.objective.indexer;
    indexer.response = f.response == "repetition" ? Response::kRepetition : Response::kContinuation;
    indexer.loss = f.loss == "divergence" ? IndexerLoss::kDivergence
                   : f.loss == "cuts"     ? IndexerLoss::kCuts
                                          : IndexerLoss::kLogs;
    indexer.activation = find_activation(f.activation).value();
    indexer.is_by_head = !f.is_by_layer;
    const int64_t n_taught =
        indexer.response == Response::kRepetition ? f.corpus.length : f.corpus.length / 2;
    require(indexer.n_recent + kTrainedSinks < n_taught, "--recent ", indexer.n_recent,
            " leaves an indexer nothing to rank: it learns from ", n_taught,
            " tokens, of which the first ", kTrainedSinks, " stay as well");
    f.corpus.seed = f.objective.seed = f.training.seed;
    require_files_apart(f);
    catch_interrupts();
    Training training(f, kind);
    if (!training.run()) {
        write_message(training.has_saved() ? "stopped; go on with the same flags and --resume\n"
                                           : "stopped; nothing new was learnt\n");
        throw CLI::RuntimeError(kInterrupted);
    }
    write_message(
        cat("written: ", f.out, "; use it with --sidecar, or name it MODEL.evict.gguf\n"));
}

void add_schedule_flags(CLI::App& command, TrainFlags& f) {
    const auto steps = CLI::Range(int64_t{0}, kMostSteps);
    const auto many = CLI::Range(int64_t{1}, kMostSteps);
    TrainingOptions& t = f.training;
    t.schedule.n_steps = 2000;
    command.add_option("--steps", t.schedule.n_steps, "steps in all")
        ->check(many)
        ->capture_default_str();
    command.add_option("--learning-rate", t.schedule.rate, "the highest of the schedule")
        ->check(CLI::Range(1e-12, 1e3))
        ->capture_default_str();
    command.add_option("--warm-up", f.n_warm_up, "steps in which it rises (default: a tenth)")
        ->check(steps);
    command
        .add_option("--decay", f.n_decay, "last steps, in which it falls (default: three tenths)")
        ->check(steps);
    command.add_option("--seed", t.seed, "of everything random")->capture_default_str();
    command.add_option("--save-every", f.save_every, "steps between two checkpoints")
        ->check(many)
        ->capture_default_str();
    command
        .add_option("--examine-every", t.examine_every, "steps between two looks at held-out texts")
        ->check(many)
        ->capture_default_str();
}

void add_data_flags(CLI::App& command, TrainFlags& f) {
    const auto many = CLI::Range(int64_t{1}, kMostSteps);
    reads_file(command.add_option(
                   "-d,--documents", f.documents,
                   "texts to learn from: text files, or .jsonl with a field \"text\" a line"))
        ->required();
    command.add_option("--length", f.corpus.length, "tokens of a document that is learnt from")
        ->check(CLI::Range(int64_t{8}, int64_t{1} << 20))
        ->capture_default_str();
    command.add_option("--held-out", f.corpus.n_held_out, "windows that only measure")
        ->check(CLI::Range(int64_t{0}, kMostSteps))
        ->capture_default_str();
    command.add_option("--batch", f.training.n_batch, "blocks of 64 positions in a step")
        ->check(CLI::Range(int64_t{1}, int64_t{4096}))
        ->capture_default_str();
    command
        .add_option(
            "--pool", f.training.n_pool,
            "documents at hand at once, beside those held out; a token of the default model "
            "takes 35 kB of memory for 'gate', 127 kB for the others")
        ->check(many)
        ->capture_default_str();
    command
        .add_option("--read-every", f.training.read_every,
                    "steps from one new document to the next")
        ->check(many)
        ->capture_default_str();
}

std::vector<std::string> activation_names() {
    std::vector<std::string> names;
    names.reserve(kActivations.size());
    for (const auto& [name, value] : kActivations) names.emplace_back(name);
    return names;
}

void add_indexer_flags(CLI::App& command, TrainFlags& f) {
    IndexerTrainingOptions& o = f.objective.indexer;
    command
        .add_option("--response", f.response,
                    "what teaches an indexer: a repetition of the document, or its continuation: "
                    "its own second half")
        ->check(CLI::IsMember({"repetition", "continuation"}))
        ->capture_default_str();
    command
        .add_option("--loss", f.loss,
                    "an indexer's: logs, of what a token is worth, as a gate's; divergence, of the "
                    "spreads over tokens, which is the paper's; or cuts, by the side of a cut that "
                    "tokens are on")
        ->check(CLI::IsMember({"divergence", "cuts", "logs"}))
        ->capture_default_str();
    command
        .add_option("--activation", f.activation,
                    "what an indexer's scores go through before its heads are added up")
        ->check(CLI::IsMember(activation_names()))
        ->capture_default_str();
    command.add_flag("--by-layer", f.is_by_layer,
                     "an indexer's importance is one for all KV heads of a layer, as in its paper, "
                     "not one for each");
    command
        .add_option("--recent", o.n_recent,
                    "last tokens that an indexer is not taught to rank, and never lets go")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
        ->capture_default_str();
    command
        .add_option("--index-heads", o.n_head,
                    "heads of an indexer (default: a quarter of the model's)")
        ->check(CLI::Range(int64_t{1}, kMostIndexHeads));
    command
        .add_option("--index-width", o.d_head,
                    "channels of one (default: an eighth of a head's of the model)")
        ->check(CLI::Range(kLeastIndexWidth, kMostIndexWidth));
}

/// Every objective takes them all, so that one set of flags goes for several trainings.
void add_objective_flags(CLI::App& command, TrainFlags& f) {
    ObjectiveOptions& o = f.objective;
    const auto sizes = CLI::Range(int64_t{1}, int64_t{4096});
    command.add_option("--mid", o.n_mid, "width of a gate's middle")
        ->check(sizes)
        ->capture_default_str();
    command
        .add_option("--features", o.n_feature,
                    "features of a latent memory: it takes features x (channels + 1) x 4 bytes a "
                    "head")
        ->check(sizes)
        ->capture_default_str();
    command
        .add_option("--form", f.form,
                    "how a latent memory is read: in attention's softmax, or as a residual beside "
                    "it, which is the paper's form")
        ->check(CLI::IsMember({"softmax", "residual"}))
        ->capture_default_str();
    add_indexer_flags(command, f);
}

void add_objective(CLI::App& train_command, const ObjectiveKind& kind) {
    CLI::App& command =
        *train_command.add_subcommand(std::string(kind.name), std::string(kind.summary));
    auto f = std::make_shared<TrainFlags>();
    reads_model(command.add_option("-m,--model", f->model.engine.model,
                                   "GGUF file (default: the one set-up fetched)"));
    writes_file(command.add_option("-o,--out", f->out, "the sidecar to write"))->required();
    reads_file(command.add_option("--sidecar", f->model.memory.sidecar,
                                  "a sidecar of this model, whose other parts are kept"));
    command
        .add_option("-t,--threads", f->model.engine.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    add_objective_flags(command, *f);
    command.add_flag("--resume", f->resume, "go on from OUT's checkpoint, with the same flags");
    add_data_flags(command, *f);
    add_schedule_flags(command, *f);
    command.footer(
        "\nBeside OUT come OUT.checkpoint, OUT.log.jsonl and OUT.loss.svg (without .gguf).\n"
        "Ctrl-C saves and stops; --resume goes on as if it had not been stopped.\n");
    command.callback([f, &kind] { train(*f, kind); });
}

}  // namespace

void add_train(CLI::App& command) {
    command.require_subcommand(1);
    for (const ObjectiveKind& kind : objective_kinds()) add_objective(command, kind);
    add_train_latent_context(command);
    add_train_linear(command);
}

}  // namespace palimpsest
