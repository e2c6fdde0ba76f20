#include "train/linear/linear_bench.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

using nlohmann::json;

/// What is the same for all runs of a bench that can be compared.
std::string settings_of(const LinearBenchOptions& o) {
    const LinearTrainingOptions& t = o.training;
    const LinearShape& s = t.shape;
    std::string pairs;
    for (const int64_t n : t.task.pairs) pairs += cat(" ", n);
    return cat(t.task.name, " ", t.task.length, " ", t.task.n_vocab, pairs, "; ", s.n_layer,
               " layers, ", s.n_embd, " wide, ", s.n_head, " heads of ", s.d_key, " by ", s.d_value,
               "; K ", o.n_states, "; ", t.n_steps, " steps of ", t.n_batch);
}

const LinearResult* find(const std::vector<LinearResult>& all, const LinearResult& like) {
    const std::string key = key_of(like);
    const auto at = std::ranges::find_if(all, [&](const auto& r) { return key_of(r) == key; });
    return at == all.end() ? nullptr : &*at;
}

/// Of an arm's runs with one seed, the one with the least loss; nullptr: there is none.
const LinearResult* best_of(const std::vector<LinearResult>& all, const LinearResult& like) {
    const LinearResult* best = nullptr;
    for (const LinearResult& r : all) {
        const bool fits = r.settings == like.settings && r.base == like.base && r.arm == like.arm &&
                          r.seed == like.seed;
        if (fits && (best == nullptr || r.loss < best->loss)) best = &r;
    }
    return best;
}

double mean_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

/// Over the last tenth of steps.
class LastTenth {
 public:
    void add(const LinearStepReport& r) {
        if (r.step <= r.n_steps - std::max<int64_t>(1, r.n_steps / 10)) return;
        loss_ += r.loss;
        rates_.resize(r.boundary_rates.size());
        for (size_t i = 0; i < rates_.size(); ++i) rates_[i] += r.boundary_rates[i];
        ++n_;
    }
    [[nodiscard]] double loss() const { return loss_ / static_cast<double>(n_); }
    [[nodiscard]] std::vector<double> rates() const {
        std::vector<double> means = rates_;
        for (double& r : means) r /= static_cast<double>(n_);
        return means;
    }

 private:
    double loss_ = 0;
    std::vector<double> rates_;
    int64_t n_ = 0;
};

class Bench {
 public:
    Bench(const LinearBenchOptions& o, std::vector<LinearResult> done,
          const LinearBenchHooks& hooks)
        : o_(o), done_(std::move(done)), hooks_(hooks) {}

    bool run() {
        for (const std::string& base : o_.bases) {
            for (const std::string& arm : o_.arms) {
                for (const double rate : o_.rates) {
                    if (!run_one(base, arm, rate, o_.seeds.front())) return false;
                }
            }
        }
        // Seed after seed, so that all arms have as many whenever it is stopped.
        for (size_t i = 1; i < o_.seeds.size(); ++i) {
            for (const std::string& base : o_.bases) {
                for (const std::string& arm : o_.arms) {
                    const LinearResult* best =
                        best_of(done_, named(base, arm, 0, o_.seeds.front()));
                    check(best != nullptr, "every arm has run with the first seed");
                    if (!run_one(base, arm, best->rate, o_.seeds[i])) return false;
                }
            }
        }
        return true;
    }

 private:
    [[nodiscard]] LinearResult named(const std::string& base, const std::string& arm, double rate,
                                     uint64_t seed) const {
        LinearResult r;
        r.task = o_.training.task.name;
        r.base = base;
        r.arm = arm;
        r.rate = rate;
        r.seed = seed;
        r.settings = settings_of(o_);
        return r;
    }

    [[nodiscard]] LinearArmInputs inputs(const std::string& base) const {
        LinearArmInputs in = {
            .shape = o_.training.shape, .n_states = o_.n_states, .length = o_.training.task.length};
        in.shape.base = base;
        if (base == "mamba2") in.shape.n_ff = 0;
        const LinearResult* dynamic = best_of(done_, named(base, "dla", 0, o_.seeds.front()));
        if (dynamic != nullptr) in.dynamic_rate = mean_of(dynamic->boundary_rates);
        return in;
    }

    bool run_one(const std::string& base, const std::string& arm, double rate, uint64_t seed) {
        LinearResult result = named(base, arm, rate, seed);
        if (find(done_, result) != nullptr) return true;
        LinearTrainingOptions t = o_.training;
        const LinearArmSetup setup = linear_arm(arm).make(inputs(base));
        t.shape = setup.shape;
        t.mixing = setup.mixing;
        t.rate = rate;
        t.seed = seed;
        t.examine_every = t.n_steps;
        t.out.clear();
        const std::string what = cat(base, ", ", arm, ", rate ", rate, ", seed ", seed);
        LastTenth last;
        double seconds = 0;
        const bool is_whole =
            train_linear(t, {.on_step =
                                 [&](const LinearStepReport& r) {
                                     last.add(r);
                                     seconds += r.seconds;
                                     result.n_steps = r.step;
                                     result.n_tokens = r.n_tokens;
                                     if (!r.scores.empty()) result.scores = r.scores;
                                     return !hooks_.on_step || hooks_.on_step(what, r);
                                 },
                             .on_model =
                                 [&](const LinearModelReport& m) {
                                     result.n_parameters = m.n_parameters;
                                     result.state_bytes = m.state_bytes;
                                     result.thresholds = m.thresholds;
                                 }});
        if (!is_whole) return false;
        result.loss = last.loss();
        result.boundary_rates = last.rates();
        result.tokens_per_s = static_cast<double>(result.n_tokens) / seconds;
        done_.push_back(result);
        if (hooks_.on_result) hooks_.on_result(result);
        return true;
    }

    const LinearBenchOptions& o_;
    std::vector<LinearResult> done_;
    const LinearBenchHooks& hooks_;
};

// ---- tables -------------------------------------------------------------------------------------

/// Accuracy, or bits a byte where a set is of text.
struct Shown {
    bool is_bits = false;
    std::vector<double> values;  // of seeds
};

bool is_text(const std::string& task, const std::string& set) {
    return task == "text" || set == "text";
}

Shown shown(const std::vector<const LinearResult*>& seeds, const std::string& set) {
    Shown s;
    for (const LinearResult* r : seeds) {
        for (const LinearScore& score : r->scores) {
            if (score.set != set) continue;
            s.is_bits = is_text(r->task, set);
            const bool is_whole = r->task == "needles";
            const auto n = static_cast<double>(is_whole ? score.n_sequences : score.n);
            s.values.push_back(
                s.is_bits
                    ? score.bits / static_cast<double>(score.n_bytes)
                    : 100 * static_cast<double>(is_whole ? score.n_whole : score.n_right) / n);
        }
    }
    return s;
}

std::string in_words(const Shown& s) {
    if (s.values.empty()) return "";
    const int digits = s.is_bits ? 3 : 1;
    const double mean = mean_of(s.values);
    if (s.values.size() == 1) return fixed(mean, digits);
    double squares = 0;
    for (const double v : s.values) squares += (v - mean) * (v - mean);
    const double deviation = std::sqrt(squares / static_cast<double>(s.values.size() - 1));
    return cat(fixed(mean, digits), " ± ", fixed(deviation, digits));
}

std::string rates_in_words(const std::vector<double>& rates) {
    std::string text;
    for (const double r : rates) text += cat(text.empty() ? "" : " / ", fixed(r, 2));
    return text;
}

/// The runs of an arm at its best rate, by seed.
std::vector<const LinearResult*> at_best(const std::vector<LinearResult>& all,
                                         const LinearResult& like) {
    const LinearResult* first = nullptr;
    for (const LinearResult& r : all) {
        if (r.settings != like.settings || r.base != like.base || r.arm != like.arm) continue;
        if (first == nullptr || r.seed < first->seed ||
            (r.seed == first->seed && r.loss < first->loss)) {
            first = &r;
        }
    }
    std::vector<const LinearResult*> runs;
    for (const LinearResult& r : all) {
        const bool fits = r.settings == like.settings && r.base == like.base && r.arm == like.arm &&
                          r.rate == first->rate;
        if (fits) runs.push_back(&r);
    }
    return runs;
}

std::string table(const std::vector<LinearResult>& all, const LinearResult& of) {
    std::vector<std::string> sets;
    for (const LinearScore& s : of.scores) sets.push_back(s.set);
    std::string text = cat("\n### ", of.task, ", ", of.base, "\n\n", of.settings, ".\n\n");
    text += "| arm | bytes of states | parameters | rate | seeds | opened, by layer | tokens/s |";
    for (const std::string& set : sets) text += cat(" ", set, " |");
    text += "\n|---|---:|---:|---:|---:|---|---:|";
    for (size_t i = 0; i < sets.size(); ++i) text += "---:|";
    text += "\n";
    for (const LinearArm& arm : linear_arms()) {
        LinearResult like = of;
        like.arm = arm.name;
        const auto runs = at_best(all, like);
        if (runs.empty()) continue;
        const LinearResult& r = *runs.front();
        text += cat("| ", arm.name, " | ", r.state_bytes, " | ", r.n_parameters, " | ", r.rate,
                    " | ", runs.size(), " | ", rates_in_words(r.boundary_rates), " | ",
                    fixed(r.tokens_per_s, 0), " |");
        for (const std::string& set : sets) text += cat(" ", in_words(shown(runs, set)), " |");
        text += "\n";
    }
    return text;
}

}  // namespace

std::string key_of(const LinearResult& r) {
    return cat(r.settings, "|", r.base, "|", r.arm, "|", r.rate, "|", r.seed);
}

std::string to_json_line(const LinearResult& r) {
    json scores = json::array();
    for (const LinearScore& s : r.scores) {
        scores.push_back({{"set", s.set},
                          {"n", s.n},
                          {"right", s.n_right},
                          {"bytes", s.n_bytes},
                          {"bits", s.bits},
                          {"sequences", s.n_sequences},
                          {"whole", s.n_whole}});
    }
    return json({{"kind", "linear"},
                 {"task", r.task},
                 {"base", r.base},
                 {"arm", r.arm},
                 {"rate", r.rate},
                 {"seed", r.seed},
                 {"steps", r.n_steps},
                 {"tokens", r.n_tokens},
                 {"parameters", r.n_parameters},
                 {"state_bytes", r.state_bytes},
                 {"loss", r.loss},
                 {"tokens_per_s", r.tokens_per_s},
                 {"boundary_rates", r.boundary_rates},
                 {"thresholds", r.thresholds},
                 {"settings", r.settings},
                 {"scores", scores}})
        .dump();
}

LinearResult linear_result(const std::string& line, const std::string& where) {
    try {
        const json j = json::parse(line);
        LinearResult r;
        r.task = j.at("task");
        r.base = j.at("base");
        r.arm = j.at("arm");
        r.rate = j.at("rate");
        r.seed = j.at("seed");
        r.n_steps = j.at("steps");
        r.n_tokens = j.at("tokens");
        r.n_parameters = j.at("parameters");
        r.state_bytes = j.at("state_bytes");
        r.loss = j.at("loss");
        r.tokens_per_s = j.at("tokens_per_s");
        r.boundary_rates = j.at("boundary_rates").get<std::vector<double>>();
        r.thresholds = j.at("thresholds").get<std::vector<float>>();
        r.settings = j.at("settings");
        for (const json& s : j.at("scores")) {
            LinearScore score;
            score.set = s.at("set");
            score.n = s.at("n");
            score.n_right = s.at("right");
            score.n_bytes = s.at("bytes");
            score.bits = s.at("bits");
            score.n_sequences = s.at("sequences");
            score.n_whole = s.at("whole");
            r.scores.push_back(std::move(score));
        }
        return r;
    } catch (const json::exception&) {
        throw Error(ErrorCode::kCorrupt, cat(where, " is no result of bench linear"));
    }
}

bool run_linear_bench(const LinearBenchOptions& options, std::vector<LinearResult> done,
                      const LinearBenchHooks& hooks) {
    require(!options.arms.empty() && !options.rates.empty() && !options.seeds.empty() &&
                !options.bases.empty(),
            "there is nothing to compare");
    for (const std::string& arm : options.arms) static_cast<void>(linear_arm(arm));
    return Bench(options, std::move(done), hooks).run();
}

std::string linear_tables(const std::vector<LinearResult>& results) {
    std::string text;
    std::set<std::string> seen;
    for (const LinearResult& r : results) {
        if (seen.insert(cat(r.settings, "|", r.base)).second) text += table(results, r);
    }
    return text;
}

}  // namespace palimpsest
