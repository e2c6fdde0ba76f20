// RULER's eight needle tasks (Hsieh and others, 2024, arXiv:2404.06654, section 3): keys and values
// in single sentences, hidden in noise, in prose, or among sentences of the same kind.
//
// Where we differ: instructions are in our own words; the last line of noise may hold fewer than
// five sentences, and a haystack of needles that stays more than 2 % below the length is followed
// by a line of noise, so that lengths are kept; sentences are told by a simple rule.
#include <algorithm>
#include <array>
#include <memory>

#include "bench/quality/fitting.h"
#include "bench/tasks/haystack.h"
#include "bench/tasks/needles.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

enum class HaystackKind { kNoise, kProse, kNeedles };

struct NeedleSetting {
    std::string_view task;
    HaystackKind haystack = HaystackKind::kProse;
    NeedleText key = NeedleText::kWords, value = NeedleText::kNumber;
    int64_t n_key = 1, n_value = 1, n_query = 1;
};

constexpr std::array<NeedleSetting, 8> kSettings = {{
    {"niah_single_1", HaystackKind::kNoise},
    {"niah_single_2"},
    {"niah_single_3", HaystackKind::kProse, NeedleText::kWords, NeedleText::kUuid},
    {"niah_multikey_1", HaystackKind::kProse, NeedleText::kWords, NeedleText::kNumber, 4},
    {"niah_multikey_2", HaystackKind::kNeedles},
    {"niah_multikey_3", HaystackKind::kNeedles, NeedleText::kUuid, NeedleText::kUuid},
    {"niah_multivalue", HaystackKind::kProse, NeedleText::kWords, NeedleText::kNumber, 1, 4},
    {"niah_multiquery", HaystackKind::kProse, NeedleText::kWords, NeedleText::kNumber, 4, 1, 4},
}};

const NeedleSetting& setting_of(std::string_view task) {
    const auto it = std::ranges::find(kSettings, task, &NeedleSetting::task);
    check(it != kSettings.end(), "a needle task without a setting");
    return *it;
}

/// One sample in the making: what is asked, and the needles.
class NeedleSample {
 public:
    NeedleSample(const NeedleSetting& setting, const Haystack& haystack, Random random)
        : setting_(setting),
          haystack_(haystack),
          random_(random),
          texts_(Random(random_.next()), [&](std::string_view t) { return haystack.contains(t); }) {
        std::vector<std::string> keys;
        std::vector<std::vector<std::string>> values;
        for (int64_t k = 0; k < setting.n_key; ++k) {
            keys.push_back(texts_.next(setting.key));
            values.emplace_back();
            for (int64_t v = 0; v < setting.n_value; ++v) {
                values.back().push_back(texts_.next(setting.value));
                needles_.push_back(
                    needle_sentence(setting.value, keys.back(), values.back().back()));
            }
        }
        random_.shuffle(needles_);
        std::vector<std::string> asked, references;
        for (const int64_t i : random_.sample(setting.n_key, setting.n_query)) {
            const auto& of_key = values[static_cast<size_t>(i)];
            asked.push_back(keys[static_cast<size_t>(i)]);
            references.insert(references.end(), of_key.begin(), of_key.end());
        }
        frame_ = needle_question(setting.value, asked, references.size() == 1);
        frame_.references = references;
    }

    /// Units: sentences of noise, words of prose, needles of other keys.
    Sample with(int64_t n_unit) {
        switch (setting_.haystack) {
            case HaystackKind::kNoise:
                return in_lines(noise_lines(n_unit));
            case HaystackKind::kProse:
                return in_prose(n_unit);
            default:
                return in_lines(other_needles(n_unit));
        }
    }

    /// With a line of noise at the end.
    Sample with_noise(int64_t n_unit, int64_t n_sentence) {
        Sample sample = with(n_unit);
        sample.context += join(noise_lines(n_sentence), " ") + "\n";
        return sample;
    }

 private:
    Sample in_lines(const std::vector<std::string>& lines) {
        Random random = random_;
        const auto n_line = static_cast<int64_t>(lines.size());
        std::vector<int64_t> places = random.sample(n_line, static_cast<int64_t>(needles_.size()));
        std::ranges::sort(places);
        return framed(join(insert_lines(lines, {needles_, places}), "\n"),
                      "RULER-style, generated");
    }

    /// Depths are among 40 even ones, from first to last sentence.
    Sample in_prose(int64_t n_word) {
        Random random = random_;
        const std::vector<std::string> sentences = haystack_.sentences(n_word);
        const auto n_sentence = static_cast<int64_t>(sentences.size());
        std::vector<int64_t> places;
        for (const int64_t i : random.sample(40, static_cast<int64_t>(needles_.size()))) {
            const int64_t percent = (200 * i + 39) / 78;  // 100 i / 39, rounded
            places.push_back(n_sentence * percent / 100);
        }
        std::ranges::sort(places);
        return framed(join(insert_lines(sentences, {needles_, places}), " "),
                      cat("RULER-style, generated; ", haystack_.source(n_word)));
    }

    std::vector<std::string> other_needles(int64_t n) {
        while (static_cast<int64_t>(others_.size()) < n) {
            const std::string key = texts_.next(setting_.key);
            others_.push_back(needle_sentence(setting_.value, key, texts_.next(setting_.value)));
        }
        return {others_.begin(), others_.begin() + n};
    }

    Sample framed(const std::string& haystack, const std::string& source) const {
        Sample sample = frame_;
        sample.context += haystack + "\n";
        sample.source = source;
        return sample;
    }

    const NeedleSetting& setting_;
    const Haystack& haystack_;
    Random random_;
    NeedleTexts texts_;
    std::vector<std::string> needles_, others_;
    Sample frame_;
};

}  // namespace

Samples needle_samples(std::string_view task, const SampleRequest& request) {
    if (!request.sources.ready.empty()) return ready_samples(task, request, 128);
    const NeedleSetting& setting = setting_of(task);
    const bool is_prose = setting.haystack == HaystackKind::kProse;
    if (is_prose) {
        require_named(request.sources.haystack, task, "a haystack",
                      "--haystack FILE (any long text)");
    }
    const Haystack haystack =
        is_prose ? Haystack::from_file(request.sources.haystack) : Haystack::noise();
    const int64_t least = setting.n_key * setting.n_value;
    return make_samples(task, request, [&](Random random) {
        NeedleSample parts(setting, haystack, random);
        const auto plain = [&](int64_t n) { return parts.with(n); };
        const int64_t n = most_units(task, request, plain, {.least = least});
        Sample sample = parts.with(n);
        if (setting.haystack != HaystackKind::kNeedles || !is_short(request, sample)) return sample;
        const auto filled = [&](int64_t n_noise) { return parts.with_noise(n, n_noise); };
        return filled(most_units(task, request, filled, {.least = 0}));
    });
}

}  // namespace palimpsest
