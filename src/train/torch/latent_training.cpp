#include "train/latent_context/latent_training.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>
#include <sstream>

#include "compress/compression_form.h"
#include "compress/convert/thin_additions.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/random.h"
#include "train/latent_context/latent_samples.h"
#include "train/torch/torch_adam.h"
#include "train/torch/torch_adapter.h"
#include "train/torch/torch_checkpoint.h"
#include "train/torch/torch_decoder.h"
#include "train/torch/torch_guard.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kMostPositions = 4096;  // of the decoder, in one pass there and back
constexpr int64_t kPackedGroups = 32;     // of a source, judged in a step of packing
constexpr int64_t kWarmUp = 30;
constexpr double kDecayFrom = 0.7, kLeastRate = 0.05;  // of a stage's steps, of its rate
constexpr uint64_t kExaminedSeed = 99;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

torch::Tensor ids_of(const std::vector<TokenId>& tokens) {
    return torch::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()));
}

class Training {
 public:
    Training(const LatentTrainingOptions& o, const LatentTrainingHooks& hooks)
        : o_(o),
          hooks_(hooks),
          file_(GgufFile::open(o.model)),
          tokenizer_(Tokenizer::load(o.model, file_)),
          texts_(read_latent_texts(o.documents)),
          math_(o.is_f32 ? TorchMath::kF32 : TorchMath::kBf16) {
        check_options();
        torch::manual_seed(o.seed);
        at::set_num_threads(o.n_threads);
        decoder_.emplace(file_, 0, math_);
        encoder_.emplace(file_, o.n_encoder_layers, math_);
        width_ = decoder_->config().n_embd;
        const int64_t pooled = o.pooling == "concat" ? o.ratio * width_ : width_;
        adapter_.emplace(pooled, width_, read_tensor(file_, "token_embd.weight"));
        encoder_->learn(o.encoder_rank);
        decoder_->learn(o.decoder_rank);
        if (!o.start.empty()) start_from(o.start);
        for (int64_t i = 0; i < o.ratio; ++i) heads_.push_back(torch::eye(width_));
        learnt_.emplace(*tokenizer_, texts_.learnt);
        held_out_.emplace(*tokenizer_, texts_.held_out);
        adam_ = TorchAdam(all_parameters());
        for (const LatentStage& s : o.stages) n_steps_ += s.n_steps;
    }

    bool run() {
        if (o_.resume) load();
        while (done_ < n_steps_) {
            const auto [kind, step, n, n_windows] = stage_at(done_);
            begin_stage(kind);
            const auto start = Clock::now();
            LatentStepReport report;
            report.stage = kind->name;
            report.n_steps = n_steps_;
            Random random(o_.seed * 1000003 + static_cast<uint64_t>(done_));
            adam_.clear_gradients();
            const auto [loss, right, n_source] = std::string_view(kind->name) == "pack"
                                                     ? pack(random)
                                                     : read(*kind, n_windows, random);
            report.rate = rate_of(step, n);
            ++done_;
            adam_.step(report.rate, all_paces(), done_);
            n_source_ += n_source;
            report.step = done_;
            report.loss = loss;
            report.right = right;
            require(std::isfinite(report.loss), "the loss of step ", done_,
                    " is not a number; lower the rates (--rate-scale)");
            report.seconds = seconds_since(start);
            report.n_source = n_source_;
            const bool is_end = done_ == n_steps_ || stage_at(done_).kind != kind;
            const bool is_examined = done_ % o_.examine_every == 0 || is_end;
            if (is_examined) report.held_out = examine(*kind, n_windows);
            const bool goes_on = !hooks_.on_step || hooks_.on_step(report);
            if (done_ % o_.save_every == 0 || is_end || !goes_on) save();
            if (!goes_on) return done_ == n_steps_;
        }
        return true;
    }

 private:
    struct At {
        const LatentStageKind* kind;
        int64_t step, n;  // in its stage
        int64_t n_windows;
    };

    void check_options() const {
        require(tokenizer_ != nullptr, "'", o_.model, "' has no vocabulary");
        require(!texts_.held_out.empty(), "there is no document to hold out");
        require(o_.ratio >= 1 && o_.n_source % o_.ratio == 0, "sources of ", o_.n_source,
                " tokens are no whole number of groups of ", o_.ratio);
        require(o_.pooling == "concat" || o_.pooling == "mean", "pooling '", o_.pooling,
                "'; concat and mean can be trained");
        require(!o_.stages.empty(), "there are no stages");
        for (const LatentStage& s : o_.stages) static_cast<void>(kind_of(s.kind));
        require(o_.start.empty() || is_thin(), "a training that starts from additions learns ",
                "additions: give it their ranks (--encoder-rank, --decoder-rank)");
    }

    /// Is all that is learnt of the models in thin additions?
    [[nodiscard]] bool is_thin() const { return o_.encoder_rank > 0 && o_.decoder_rank > 0; }

    static const LatentStageKind& kind_of(const std::string& name) {
        std::string names;
        for (const LatentStageKind& k : latent_stage_kinds()) {
            if (name == k.name) return k;
            names += cat(names.empty() ? "" : ", ", k.name);
        }
        throw Error(ErrorCode::kInvalidArgument, cat("stage '", name, "'; there are: ", names));
    }

    [[nodiscard]] At stage_at(int64_t step) const {
        for (const LatentStage& s : o_.stages) {
            if (step < s.n_steps) return {&kind_of(s.kind), step, s.n_steps, s.n_windows};
            step -= s.n_steps;
        }
        const LatentStage& last = o_.stages.back();
        return {&kind_of(last.kind), last.n_steps, last.n_steps, last.n_windows};
    }

    void begin_stage(const LatentStageKind* kind) {
        if (kind == stage_) return;
        stage_ = kind;
        for (torch::Tensor t : adapter_->parameters()) t.requires_grad_(kind->adapter_rate > 0);
        const bool packs = std::string_view(kind->name) == "pack";
        for (torch::Tensor& t : heads_) t.requires_grad_(packs);
        encoder_->activate(kind->encoder_rate > 0);
        decoder_->activate(kind->decoder_rate > 0);
    }

    // ---- what is computed ----

    /// [batch, n_source] ids to latents [batch, n_latents, width].
    [[nodiscard]] torch::Tensor encode(const torch::Tensor& ids) const {
        const torch::Tensor states = encoder_->states(encoder_->embed(ids));
        const int64_t batch = ids.size(0);
        const int64_t n = ids.size(1) / o_.ratio;
        const torch::Tensor pooled = o_.pooling == "concat"
                                         ? states.reshape({batch, n, o_.ratio * width_})
                                         : states.view({batch, n, o_.ratio, width_}).mean(2);
        return (*adapter_)(pooled);
    }

    /// Of a step, whose gradients are there.
    struct Learnt {
        double loss, right;
        int64_t n_source;
    };

    /// No decoder runs: each token of a group is to be told from its latent by a matrix of its own.
    Learnt pack(Random& random) const {
        std::vector<torch::Tensor> sources;
        for (int64_t i = 0; i < o_.n_batch; ++i) {
            sources.push_back(ids_of(learnt_->stretch(o_.n_source, random)));
        }
        const torch::Tensor ids = torch::stack(sources);
        const torch::Tensor latents = encode(ids);
        const int64_t n = latents.size(1);
        const auto chosen = random.sample(n, std::min(n, kPackedGroups));
        const torch::Tensor pick = torch::tensor(chosen);
        const torch::Tensor some = latents.index_select(1, pick).flatten(0, 1);
        const torch::Tensor groups =
            ids.view({o_.n_batch, n, o_.ratio}).index_select(1, pick).flatten(0, 1);
        torch::Tensor loss = torch::zeros({});
        double right = 0;
        for (int64_t i = 0; i < o_.ratio; ++i) {
            const torch::Tensor logits =
                decoder_->logits(torch::linear(some, heads_[static_cast<size_t>(i)]));
            const torch::Tensor wanted = groups.select(1, i);
            loss = loss + torch::cross_entropy_loss(logits, wanted) / static_cast<double>(o_.ratio);
            right += logits.argmax(-1).eq(wanted).to(torch::kFloat).mean().item<double>();
        }
        loss.backward();
        return {loss.item<double>(), right / static_cast<double>(o_.ratio),
                o_.n_batch * o_.n_source};
    }

    struct Said {
        torch::Tensor logits, wanted;  // [targets of all samples, ...]
        std::vector<int64_t> counts;   // targets of each sample
    };

    [[nodiscard]] torch::Tensor embed(const std::vector<TokenId>& tokens) const {
        return decoder_->embed(ids_of(tokens)).view({-1, width_});
    }

    [[nodiscard]] LatentSizes sizes(int64_t n_windows) const {
        return {.n_window = o_.n_source,
                .n_windows = n_windows,
                .n_target = o_.n_target,
                .ratio = o_.ratio};
    }

    [[nodiscard]] Said say(const std::vector<LatentSample>& samples) const {
        std::vector<torch::Tensor> sources;
        for (const LatentSample& s : samples) {
            for (const LatentSample::Part& p : s.prompt) {
                if (p.is_source) sources.push_back(ids_of(p.tokens).view({-1, o_.n_source}));
            }
        }
        const torch::Tensor latents = encode(torch::cat(sources));
        int64_t window = 0;
        std::vector<torch::Tensor> inputs;
        std::vector<int64_t> first;
        int64_t longest = 0;
        for (size_t i = 0; i < samples.size(); ++i) {
            const LatentSample& s = samples[i];
            std::vector<torch::Tensor> rows;
            for (const LatentSample::Part& p : s.prompt) {
                if (!p.is_source) {
                    rows.push_back(embed(p.tokens));
                    continue;
                }
                const int64_t n = std::ssize(p.tokens) / o_.n_source;
                rows.push_back(adapter_->start().view({1, -1}));
                rows.push_back(latents.slice(0, window, window + n).reshape({-1, width_}));
                rows.push_back(adapter_->end().view({1, -1}));
                window += n;
            }
            rows.push_back(embed(s.target));
            const torch::Tensor input = torch::cat(rows);
            // A position tells the token after it.
            first.push_back(input.size(0) - std::ssize(s.target) - 1);
            longest = std::max(longest, input.size(0));
            inputs.push_back(input);
        }
        for (torch::Tensor& t : inputs) {
            t = torch::constant_pad_nd(t, {0, 0, 0, longest - t.size(0)});
        }
        const torch::Tensor states = decoder_->states(torch::stack(inputs));
        Said said;
        std::vector<torch::Tensor> rows;
        std::vector<torch::Tensor> wanted;
        for (size_t i = 0; i < samples.size(); ++i) {
            const int64_t n = std::ssize(samples[i].target);
            rows.push_back(states[static_cast<int64_t>(i)].slice(0, first[i], first[i] + n));
            wanted.push_back(ids_of(samples[i].target));
            said.counts.push_back(n);
        }
        said.logits = decoder_->logits(torch::cat(rows));
        said.wanted = torch::cat(wanted);
        return said;
    }

    Learnt read(const LatentStageKind& kind, int64_t n_windows, Random& random) const {
        std::vector<LatentSample> samples;
        int64_t n_source = 0;
        for (int64_t i = 0; i < o_.n_batch; ++i) {
            double at =
                random.unit() * std::accumulate(kind.shares.begin(), kind.shares.end(), 0.0);
            size_t task = 0;
            while (task + 1 < kind.shares.size() && at >= kind.shares.at(task)) {
                at -= kind.shares.at(task++);
            }
            const LatentSizes size = sizes(1 + random.below(n_windows));
            samples.push_back(learnt_->make(static_cast<LatentTask>(task), size, random));
            n_source += samples.back().n_source();
        }
        const Learnt learnt = learn_from(samples);
        return {learnt.loss, learnt.right, n_source};
    }

    /// A few samples at a time, so that no more than kMostPositions are held for the way back.
    [[nodiscard]] Learnt learn_from(const std::vector<LatentSample>& samples) const {
        double n_targets = 0;
        for (const LatentSample& s : samples) n_targets += static_cast<double>(s.target.size());
        Learnt all = {};
        std::vector<LatentSample> some;
        const auto learn_some = [&] {
            const Said said = say(some);
            const double share = static_cast<double>(said.wanted.size(0)) / n_targets;
            const torch::Tensor loss = torch::cross_entropy_loss(said.logits, said.wanted) * share;
            loss.backward();
            all.loss += loss.item<double>();
            all.right +=
                share *
                said.logits.argmax(-1).eq(said.wanted).to(torch::kFloat).mean().item<double>();
            some.clear();
        };
        int64_t longest = 0;
        for (const LatentSample& s : samples) {
            const int64_t longer = std::max(longest, positions_of(s));
            if (!some.empty() && longer * (std::ssize(some) + 1) > kMostPositions) learn_some();
            longest = some.empty() ? positions_of(s) : longer;
            some.push_back(s);
        }
        learn_some();
        return all;
    }

    /// That the decoder reads of a sample.
    [[nodiscard]] int64_t positions_of(const LatentSample& s) const {
        int64_t n = std::ssize(s.target);
        for (const LatentSample::Part& p : s.prompt) {
            const int64_t of = std::ssize(p.tokens);
            n += p.is_source ? of / o_.ratio + 2 : of;
        }
        return n;
    }

    /// On documents that are held out, the same ones every time: of one window, and of as many as
    /// the stage has what it learns from those.
    [[nodiscard]] std::vector<LatentStepReport::HeldOut> examine(const LatentStageKind& kind,
                                                                 int64_t n_windows) const {
        std::vector<LatentStepReport::HeldOut> all;
        for (const LatentTask task :
             {LatentTask::kRepeat, LatentTask::kContinue, LatentTask::kFact}) {
            all.push_back(examine_task(task, 1));
        }
        if (n_windows > 1) all.push_back(examine_task(LatentTask::kFact, n_windows));
        const bool expands = kind.shares.at(static_cast<size_t>(LatentTask::kExpand)) > 0;
        if (expands) all.push_back(examine_task(LatentTask::kExpand, n_windows));
        return all;
    }

    [[nodiscard]] LatentStepReport::HeldOut examine_task(LatentTask task, int64_t n_windows) const {
        const torch::NoGradGuard no_grad;
        constexpr std::array<const char*, kLatentTasks> kNames = {"repeat", "continue", "fact",
                                                                  "expand"};
        Random random(kExaminedSeed + static_cast<uint64_t>(task));
        double loss = 0;
        int64_t n_right = 0;
        int64_t n_tokens = 0;
        int64_t n_whole = 0;
        int64_t n_samples = 0;
        while (n_samples < o_.n_examined) {
            std::vector<LatentSample> samples;
            for (int64_t i = 0; i < std::min<int64_t>(o_.n_batch, o_.n_examined - n_samples); ++i) {
                samples.push_back(held_out_->make(task, sizes(n_windows), random));
            }
            const Said said = say(samples);
            const torch::Tensor hits = said.logits.argmax(-1).eq(said.wanted);
            loss += torch::cross_entropy_loss(said.logits, said.wanted, {}, at::Reduction::Sum)
                        .item<double>();
            n_right += hits.sum().item<int64_t>();
            n_tokens += hits.size(0);
            int64_t at = 0;
            for (const int64_t n : said.counts) {
                n_whole += hits.slice(0, at, at + n).all().item<bool>() ? 1 : 0;
                at += n;
            }
            n_samples += std::ssize(samples);
        }
        const auto tokens = static_cast<double>(n_tokens);
        return {.task = kNames.at(static_cast<size_t>(task)),
                .n_windows = n_windows,
                .loss = loss / tokens,
                .right = static_cast<double>(n_right) / tokens,
                .whole = static_cast<double>(n_whole) / static_cast<double>(n_samples)};
    }

    // ---- how it is learnt ----

    /// 0 to 1, of the stage's rates.
    [[nodiscard]] double rate_of(int64_t step, int64_t n) const {
        const double warm = std::min(1.0, static_cast<double>(step + 1) / kWarmUp);
        const double gone =
            static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, n));
        const double decay =
            gone < kDecayFrom ? 1 : std::max(kLeastRate, (1 - gone) / (1 - kDecayFrom));
        return o_.rate_scale * warm * decay;
    }

    [[nodiscard]] std::vector<torch::Tensor> all_parameters() const {
        std::vector<torch::Tensor> all = adapter_->parameters();
        all.insert(all.end(), heads_.begin(), heads_.end());
        for (const auto* part : {&*encoder_, &*decoder_}) {
            const auto own = part->parameters();
            all.insert(all.end(), own.begin(), own.end());
        }
        return all;
    }

    /// In the order of all_parameters().
    [[nodiscard]] std::vector<TorchAdam::Pace> all_paces() const {
        std::vector<TorchAdam::Pace> paces(adapter_->parameters().size() + heads_.size(),
                                           {.rate = stage_->adapter_rate});
        paces.insert(paces.end(), encoder_->parameters().size(), {.rate = stage_->encoder_rate});
        paces.insert(paces.end(), decoder_->parameters().size(), {.rate = stage_->decoder_rate});
        return paces;
    }

    // ---- files ----

    [[nodiscard]] std::string path(const char* name) const {
        return (fs::path(o_.out) / name).string();
    }

    /// What a checkpoint must agree in: the stages that have begun, which may go on for longer or
    /// shorter than they were meant to.
    [[nodiscard]] std::string settings() const {
        std::string stages;
        int64_t begin = 0;
        for (const LatentStage& s : o_.stages) {
            if (begin > 0 && begin >= done_) break;
            stages += cat(s.kind, "@", begin, "x", s.n_windows, ",");
            begin += s.n_steps;
        }
        return cat(model_fingerprint(file_), " ", stages, " ", o_.ratio, " ", o_.n_source, " ",
                   o_.n_target, " ", o_.n_batch, " ", o_.n_encoder_layers, " ", o_.pooling, " ",
                   o_.encoder_rank, " ", o_.decoder_rank, " ", o_.rate_scale, " ", o_.seed, " ",
                   o_.is_f32);
    }

    void save() const {
        save_checkpoint(o_.out, {.settings = settings(),
                                 .progress = cat(done_, " ", n_source_),
                                 .state = adam_.state()});
        write_models();
    }

    void load() {
        const std::optional<TorchCheckpoint> from = load_checkpoint(o_.out, hooks_.on_note);
        if (!from) return;
        std::istringstream(from->progress) >> done_ >> n_source_;
        from->require_settings(settings(), o_.out);
        adam_.restore(from->state);
    }

    void write_models() const {
        if (is_thin()) write_additions();
        const ggml_type type = matrix_type(o_.type);
        const std::string name(file_.text("general.name").value_or("model"));
        encoder_->write(file_, cat(name, ", encoder"), type, path("encoder.gguf"));
        decoder_->write(file_, cat(name, ", reads latents"), type, path("decoder.gguf"));
        GgufWriter to;
        to.set_text("general.architecture", "lclm");
        to.set_text("general.name", cat(name, ", adapter ", o_.ratio, "x"));
        describe(form(), to);
        to.set_text("lclm.encoder.fingerprint",
                    model_fingerprint(GgufFile::open(path("encoder.gguf"))));
        to.set_text("lclm.decoder.fingerprint",
                    model_fingerprint(GgufFile::open(path("decoder.gguf"))));
        adapter_->write(to, GGML_TYPE_F16);
        to.write(path("adapter.gguf"));
    }

    [[nodiscard]] CompressionForm form() const {
        return {.ratio = o_.ratio,
                .window = o_.n_source,
                .pooling = pooling_named(o_.pooling),
                .encoder_width = width_,
                .decoder_width = width_};
    }

    /// What was learnt without the model that it was added to.
    void write_additions() const {
        GgufWriter to;
        const std::string name(file_.text("general.name").value_or("model"));
        to.set_text("general.architecture", kThinAdditions);
        to.set_text("general.name", cat(name, ", latents ", o_.ratio, "x"));
        describe(form(), to);
        to.set_text(kAdditionsModel, model_fingerprint(file_));
        to.set_count(kAdditionsLayers, static_cast<uint32_t>(o_.n_encoder_layers));
        to.set_integer("lclm.additions.source_tokens", n_source_);
        encoder_->write_thin(to, "encoder");
        decoder_->write_thin(to, "decoder");
        adapter_->write(to, GGML_TYPE_Q8_0);
        to.write(path("additions.gguf"));
    }

    void start_from(const std::string& additions) {
        const GgufFile from = GgufFile::open(additions);
        require(from.text("general.architecture") == kThinAdditions &&
                    from.text(kAdditionsModel) == model_fingerprint(file_),
                "'", additions, "' holds no additions to this model");
        const CompressionForm theirs = read_compression_form(from);
        require(theirs.ratio == o_.ratio && to_string(theirs.pooling) == o_.pooling &&
                    from.integer(kAdditionsLayers) == o_.n_encoder_layers,
                "'", additions, "' has another ratio, pooling or depth than this training");
        encoder_->start_from_thin(from, "encoder");
        decoder_->start_from_thin(from, "decoder");
        adapter_->start_from(from);
        n_source_ = from.integer("lclm.additions.source_tokens").value_or(0);
    }

    const LatentTrainingOptions& o_;
    const LatentTrainingHooks& hooks_;
    GgufFile file_;
    std::unique_ptr<Tokenizer> tokenizer_;
    LatentTexts texts_;
    TorchMath math_;
    int64_t width_ = 0;
    std::optional<TorchDecoder> decoder_, encoder_;
    std::optional<TorchAdapter> adapter_;
    std::vector<torch::Tensor> heads_;  // of packing
    std::optional<LatentSamples> learnt_, held_out_;
    TorchAdam adam_;
    const LatentStageKind* stage_ = nullptr;
    int64_t n_steps_ = 0, done_ = 0, n_source_ = 0;
};

}  // namespace

}  // namespace palimpsest

/// What train_latent_context() looks for.
extern "C" __attribute__((visibility("default"))) bool palimpsest_train_latent_context(
    const palimpsest::LatentTrainingOptions& options,
    const palimpsest::LatentTrainingHooks& hooks) {
    return palimpsest::guarded_torch([&] { return palimpsest::Training(options, hooks).run(); });
}
