#include "train/linear/linear_training.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <limits>
#include <numbers>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/fingerprint.h"
#include "memory/recurrent/bank_read_out.h"
#include "train/linear/byte_vocabulary.h"
#include "train/torch/torch_checkpoint.h"
#include "train/torch/torch_decoder.h"
#include "train/torch/torch_guard.h"
#include "train/torch/torch_recurrent.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kWarmUp = 0.05;      // of all steps
constexpr double kLeastRate = 0.1;    // of the rate, at the end
constexpr double kSettled = 1.0 / 3;  // of all steps, after which thresholds stay
constexpr int64_t kSettleEvery = 5;
constexpr double kSettlePace = 0.3;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

class LinearTraining {
 public:
    LinearTraining(const LinearTrainingOptions& o, const LinearTrainingHooks& hooks)
        : o_(o), hooks_(hooks) {
        at::set_num_threads(o.n_threads);
        torch::manual_seed(o.seed);
        if (!o.model.empty()) {
            file_.emplace(GgufFile::open(o.model));
            tokenizer_ = Tokenizer::load(o.model, *file_);
        }
        task_ = make_linear_task(o.task, tokenizer_.get());
        if (file_) {
            model_.emplace(*file_, o.mixing);
        } else {
            LinearShape shape = o.shape;
            shape.n_vocab = task_->n_vocab();
            model_.emplace(shape, o.mixing);
        }
        require(task_->n_vocab() <= model_->shape().n_vocab, "the task has ", task_->n_vocab(),
                " tokens, the model ", model_->shape().n_vocab);
        require(!o.only_weights || (file_ && o.mixing.learns_weights),
                "only weights of states are to be learnt: that needs a model, and a bank that is ",
                "weighed");
        model_->learn(o.only_weights);
        adam_ = TorchAdam(model_->parameters());
        adam_.clear_gradients();
    }

    bool run() {
        if (o_.resume) load();
        bool goes_on = true;
        while (goes_on && done_ < o_.n_steps) {
            const auto start = Clock::now();
            LinearStepReport report = learn();
            report.seconds = seconds_since(start);
            const bool is_end = done_ == o_.n_steps;
            if (is_end || done_ % o_.examine_every == 0) report.scores = examine();
            goes_on = !hooks_.on_step || hooks_.on_step(report);
            if (is_end || !goes_on || done_ % o_.save_every == 0) save();
        }
        if (done_ < o_.n_steps) return false;
        if (!o_.out.empty()) write_models();
        if (hooks_.on_model) hooks_.on_model(report());
        return true;
    }

 private:
    [[nodiscard]] LinearModelReport report() const {
        LinearModelReport r = {.state_bytes = model_->state_bytes()};
        for (const torch::Tensor& t : model_->parameters()) r.n_parameters += t.numel();
        for (int64_t i = 0; i < model_->shape().n_layer; ++i) {
            r.thresholds.push_back(model_->threshold(i));
        }
        return r;
    }

    // ---- steps ----

    struct Told {
        torch::Tensor logits, wanted;
        std::vector<size_t> places;  // in the batch, of each row
    };

    [[nodiscard]] Told tell(const LinearBatch& batch, std::vector<BankTally>* tallies) const {
        const std::vector<int64_t> shape = {batch.n_sequences, batch.length};
        const torch::Tensor ids = torch::tensor(batch.tokens).view(shape);
        const torch::Tensor opens =
            torch::tensor(batch.opens, torch::kUInt8).view(shape).to(torch::kBool);
        Told told;
        std::vector<int64_t> rows;
        std::vector<int64_t> wanted;
        for (size_t i = 0; i < batch.targets.size(); ++i) {
            if (batch.targets[i] < 0) continue;
            told.places.push_back(i);
            rows.push_back(static_cast<int64_t>(i));
            wanted.push_back(batch.targets[i]);
        }
        const torch::Tensor states = model_->states(ids, opens, tallies).flatten(0, 1);
        told.logits = model_->logits(states.index_select(0, torch::tensor(rows)));
        told.wanted = torch::tensor(wanted);
        return told;
    }

    LinearStepReport learn() {
        Random random(o_.seed * 1000003 + static_cast<uint64_t>(done_));
        const LinearBatch batch = task_->learnt(o_.n_batch, random);
        const bool settles =
            o_.mixing.boundary_rate > 0 && done_ % kSettleEvery == 0 &&
            static_cast<double>(done_) < kSettled * static_cast<double>(o_.n_steps);
        std::vector<BankTally> tallies(static_cast<size_t>(model_->shape().n_layer),
                                       {.keeps_scores = settles});
        const Told told = tell(batch, &tallies);
        std::vector<float> weights;
        for (const size_t place : told.places) weights.push_back(batch.weights[place]);
        const torch::Tensor weight = torch::tensor(weights);
        const torch::Tensor each =
            torch::cross_entropy_loss(told.logits, told.wanted, {}, at::Reduction::None);
        const torch::Tensor loss = (each * weight).sum() / weight.sum();
        loss.backward();
        LinearStepReport report = {.n_steps = o_.n_steps, .loss = loss.item<double>()};
        report.rate = rate_now();
        ++done_;
        n_tokens_ += batch.n_sequences * batch.length;
        adam_.step(report.rate, model_->paces(o_.decay), done_);
        report.step = done_;
        report.n_tokens = n_tokens_;
        require(std::isfinite(report.loss), "the loss of step ", done_,
                " is not a number; lower the rate (--rate)");
        for (const BankTally& t : tallies) {
            report.boundary_rates.push_back(t.n_tokens == 0 ? 0
                                                            : static_cast<double>(t.n_opened) /
                                                                  static_cast<double>(t.n_tokens));
        }
        if (settles) settle(tallies);
        return report;
    }

    /// Warms up, then falls along a cosine.
    [[nodiscard]] double rate_now() const {
        const auto n = static_cast<double>(o_.n_steps);
        const double warm =
            std::min(1.0, static_cast<double>(done_ + 1) / std::max(1.0, kWarmUp * n));
        const double wave = 0.5 * (1 + std::cos(std::numbers::pi * static_cast<double>(done_) / n));
        return o_.rate * warm * (kLeastRate + (1 - kLeastRate) * wave);
    }

    /// Moves every layer's threshold to where so many scores are above it.
    void settle(std::vector<BankTally>& tallies) {
        for (size_t i = 0; i < tallies.size(); ++i) {
            std::vector<float>& scores = tallies[i].scores;
            if (scores.empty()) continue;
            const auto below = static_cast<std::ptrdiff_t>((1 - o_.mixing.boundary_rate) *
                                                           static_cast<double>(scores.size() - 1));
            std::nth_element(scores.begin(), scores.begin() + below, scores.end());
            const auto layer = static_cast<int64_t>(i);
            const auto pace = static_cast<float>(done_ == 1 ? 1.0 : kSettlePace);
            const float old = model_->threshold(layer);
            model_->set_threshold(layer, old + pace * (scores[static_cast<size_t>(below)] - old));
        }
    }

    // ---- what it came to ----

    [[nodiscard]] std::vector<LinearScore> examine() const {
        const torch::NoGradGuard no_grad;
        std::vector<LinearScore> scores;
        for (const std::string& name : task_->sets()) scores.push_back({.set = name});
        for (const LinearBatch& batch : task_->examined(o_.n_batch)) {
            const Told told = tell(batch, nullptr);
            const torch::Tensor right = told.logits.argmax(-1).eq(told.wanted).contiguous();
            const torch::Tensor bits =
                (torch::cross_entropy_loss(told.logits, told.wanted, {}, at::Reduction::None) /
                 std::numbers::ln2)
                    .contiguous();
            add(scores, batch, told, right.data_ptr<bool>(), bits.data_ptr<float>());
        }
        std::erase_if(scores, [](const LinearScore& s) { return s.n == 0; });
        return scores;
    }

    void add(std::vector<LinearScore>& scores, const LinearBatch& batch, const Told& told,
             const bool* right, const float* bits) const {
        for (size_t set = 0; set < scores.size(); ++set) {
            LinearScore& s = scores[set];
            std::vector<int> seen(static_cast<size_t>(batch.n_sequences));  // 1: all right; 2: not
            for (size_t i = 0; i < told.places.size(); ++i) {
                const size_t place = told.places[i];
                if ((batch.sets[place] >> set & 1U) == 0) continue;
                ++s.n;
                s.n_right += right[i] ? 1 : 0;
                s.bits += static_cast<double>(bits[i]);
                s.n_bytes += task_->bytes_of(batch.targets[place]);
                int& whole = seen[place / static_cast<size_t>(batch.length)];
                whole = std::max(whole, right[i] ? 1 : 2);
            }
            s.n_sequences += std::ranges::count_if(seen, [](int x) { return x > 0; });
            s.n_whole += std::ranges::count(seen, 1);
        }
    }

    // ---- files ----

    [[nodiscard]] std::string path(const char* name) const {
        return (fs::path(o_.out) / name).string();
    }

    /// What a checkpoint must agree in.
    [[nodiscard]] std::string settings() const {
        const LinearShape& s = model_->shape();
        const LinearMixing& m = o_.mixing;
        return cat(file_ ? model_fingerprint(*file_) : "new", " ", s.base, " ", s.n_vocab, " ",
                   s.n_layer, " ", s.n_embd, " ", s.n_head, " ", s.d_key, " ", s.d_value, " ",
                   s.n_ff, " ", s.fastest_decay, " ", to_string(m.bank), " ", m.learns_weights, " ",
                   m.boundary_rate, " ", m.is_told, " ", m.window, " ", task_->fingerprint(), " ",
                   o_.n_steps, " ", o_.n_batch, " ", o_.rate, " ", o_.decay, " ", o_.seed, " ",
                   o_.only_weights);
    }

    void save() const {
        if (o_.out.empty()) return;
        std::ostringstream progress;
        progress << std::setprecision(std::numeric_limits<float>::max_digits10);
        progress << done_ << ' ' << n_tokens_;
        for (const float t : report().thresholds) progress << ' ' << t;
        save_checkpoint(o_.out, {.settings = settings(),
                                 .progress = std::move(progress).str(),
                                 .state = adam_.state()});
    }

    void load() {
        const std::optional<TorchCheckpoint> from = load_checkpoint(o_.out, hooks_.on_note);
        if (!from) return;
        from->require_settings(settings(), o_.out);
        std::istringstream progress(from->progress);
        progress >> done_ >> n_tokens_;
        float threshold = 0;
        for (int64_t i = 0; progress >> threshold; ++i) model_->set_threshold(i, threshold);
        adam_.restore(from->state);
    }

    void write_models() const {
        // Where only weights of states are learnt, the model is the one that was there.
        if (!o_.only_weights) write_model();
        if (o_.mixing.bank.name == "single" && !o_.mixing.learns_weights) return;
        GgufWriter weights;
        weights.set_text("general.architecture", kReadOutArchitecture);
        weights.set_text("general.name", cat("bank of states, ", o_.mixing.bank.name));
        const std::string model = o_.only_weights ? o_.model : path("model.gguf");
        weights.set_text(kReadOutModel, model_fingerprint(GgufFile::open(model)));
        model_->write_read_out(weights);
        weights.write(path("read-out.gguf"));
    }

    void write_model() const {
        GgufWriter to;
        if (file_) {
            to.copy_keys(*file_);
        } else {
            to.set_text("general.name", cat("trained on ", o_.task.name));
            if (task_->n_vocab() == kByteVocabulary) {
                set_byte_vocabulary(to);
            } else {
                to.set_text("tokenizer.ggml.model", "none");
            }
        }
        model_->write(to, matrix_type(o_.type));
        to.write(path("model.gguf"));
    }

    const LinearTrainingOptions& o_;
    const LinearTrainingHooks& hooks_;
    std::optional<GgufFile> file_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<LinearTask> task_;
    std::optional<TorchRecurrent> model_;
    TorchAdam adam_;
    int64_t done_ = 0, n_tokens_ = 0;
};

}  // namespace

}  // namespace palimpsest

/// What train_linear() looks for.
extern "C" __attribute__((visibility("default"))) bool palimpsest_train_linear(
    const palimpsest::LinearTrainingOptions& options,
    const palimpsest::LinearTrainingHooks& hooks) {
    return palimpsest::guarded_torch(
        [&] { return palimpsest::LinearTraining(options, hooks).run(); });
}
