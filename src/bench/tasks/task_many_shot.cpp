// Many-shot classification: the protocol of ManyICLBench (Zou and others, 2024, arXiv:2411.07130)
// over label spaces made up for each sample, so that no model has seen them. Labels are nonsense
// words; each class has eight topic words of its own, of which a text holds four, and three words
// that any text may hold. Texts and labels alternate up to the length, every class as often as any
// other; the question is a new text of one class.
//
// Where whole demonstrations stay more than 2 % below the length, some texts get more of the words
// that tell nothing.
#include <algorithm>
#include <set>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "bench/tasks/word_list.h"
#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr int64_t kTopicWords = 8;
constexpr int64_t kTopicWordsInText = 4;
constexpr int64_t kOtherWordsInText = 3;

/// 8 to 64: one for about 128 tokens.
int64_t n_classes(int64_t length) { return std::clamp<int64_t>(length / 128, 8, 64); }

std::string nonsense_word(Random& random) {
    constexpr std::string_view kConsonants = "bdfgklmnprstvz", kVowels = "aeiou";
    std::string word;
    for (int i = 0; i < 5; ++i) {
        const std::string_view letters = i % 2 == 0 ? kConsonants : kVowels;
        word += letters[static_cast<size_t>(random.below(static_cast<int64_t>(letters.size())))];
    }
    return word;
}

class LabelSpace {
 public:
    LabelSpace(int64_t n_class, Random& random) {
        const int64_t n_topic = n_class * kTopicWords;
        const std::vector<std::string> words = distinct_words(n_topic + 64, random);
        others_ = {words.begin() + n_topic, words.end()};
        for (int64_t i = 0; i < n_class; ++i) {
            const auto first = words.begin() + i * kTopicWords;
            topics_.emplace_back(first, first + kTopicWords);
        }
        std::set<std::string> used(words.begin(), words.end());
        while (static_cast<int64_t>(labels_.size()) < n_class) {
            const std::string label = nonsense_word(random);
            if (used.insert(label).second) labels_.push_back(label);
        }
    }

    [[nodiscard]] const std::vector<std::string>& labels() const { return labels_; }

    /// Which of a class's topic words a text holds, ascending.
    static std::vector<int64_t> draw_topic(Random& random) {
        std::vector<int64_t> chosen = random.sample(kTopicWords, kTopicWordsInText);
        std::ranges::sort(chosen);
        return chosen;
    }

    [[nodiscard]] std::vector<std::string> text(size_t label, const std::vector<int64_t>& topic,
                                                Random& random) const {
        std::vector<std::string> words;
        words.reserve(topic.size() + kOtherWordsInText);
        for (const int64_t i : topic) words.push_back(topics_[label][static_cast<size_t>(i)]);
        for (int64_t i = 0; i < kOtherWordsInText; ++i) words.push_back(any_other(random));
        random.shuffle(words);
        return words;
    }

    [[nodiscard]] const std::string& any_other(Random& random) const {
        const auto i = random.below(static_cast<int64_t>(others_.size()));
        return others_[static_cast<size_t>(i)];
    }

 private:
    std::vector<std::string> labels_, others_;
    std::vector<std::vector<std::string>> topics_;  // by label
};

class ManyShotSample {
 public:
    ManyShotSample(int64_t n_class, Random random) : random_(random), space_(n_class, random_) {
        asked_ = static_cast<size_t>(random_.below(n_class));
        topic_ = LabelSpace::draw_topic(random_);
        question_ = space_.text(asked_, topic_, random_);
    }

    /// So many demonstrations, and so many words more in their texts.
    Sample with(int64_t n_demonstration, int64_t n_more) {
        while (static_cast<int64_t>(texts_.size()) < n_demonstration) add_demonstration();
        std::vector<std::string> demonstrations;
        for (int64_t i = 0; i < n_demonstration; ++i) {
            const int64_t n_here =
                n_more / n_demonstration + (i < n_more % n_demonstration ? 1 : 0);
            demonstrations.push_back(demonstration(static_cast<size_t>(i), n_here));
        }
        Random order = random_;
        order.shuffle(demonstrations);
        Sample sample;
        sample.context = cat("Each text has a label. Give the label of the last text.\n\n",
                             join(demonstrations, ""));
        sample.question = cat("Text: ", join(question_, " "), "\n");
        sample.answer_prefix = "Label:";
        sample.references = {space_.labels()[asked_]};
        sample.classes = space_.labels();
        sample.source = cat("many-shot, generated; ", space_.labels().size(), " classes");
        sample.n_new = 8;
        sample.has_template = false;
        return sample;
    }

 private:
    [[nodiscard]] size_t label_of(size_t i) const { return i % space_.labels().size(); }

    void add_demonstration() {
        const size_t label = label_of(texts_.size());
        std::vector<int64_t> topic = LabelSpace::draw_topic(draws_);
        while (label == asked_ && topic == topic_) topic = LabelSpace::draw_topic(draws_);
        texts_.push_back(space_.text(label, topic, draws_));
    }

    [[nodiscard]] std::string demonstration(size_t i, int64_t n_more) const {
        Random random(i);
        std::string text = join(texts_[i], " ");
        for (int64_t k = 0; k < n_more; ++k) text += " " + space_.any_other(random);
        return cat("Text: ", text, "\nLabel: ", space_.labels()[label_of(i)], "\n\n");
    }

    Random random_;
    LabelSpace space_;
    size_t asked_ = 0;
    std::vector<int64_t> topic_;         // of the question
    std::vector<std::string> question_;  // its words
    Random draws_ = Random(random_.next());
    std::vector<std::vector<std::string>> texts_;
};

}  // namespace

Samples many_shot_samples(std::string_view task, const SampleRequest& request) {
    const int64_t n_class = n_classes(request.length);
    return make_samples(task, request, [&](Random random) {
        ManyShotSample parts(n_class, random);
        const auto whole = [&](int64_t n) { return parts.with(n, 0); };
        const int64_t n = most_units(task, request, whole, {.least = n_class});
        Sample sample = whole(n);
        if (!is_short(request, sample)) return sample;
        const auto filled = [&](int64_t n_more) { return parts.with(n, n_more); };
        return filled(most_units(task, request, filled, {.least = 0}));
    });
}

}  // namespace palimpsest
