#include "support/task_files.h"

#include "bench/tasks/word_list.h"
#include "core/error.h"
#include "core/random.h"
#include "core/text_hash.h"
#include "text/text_parts.h"

namespace palimpsest::testing {

namespace fs = std::filesystem;

int64_t count_test_tokens(const Sample& sample) {
    int64_t n = sample.n_new + (sample.has_template ? 20 : 0);
    const std::string whole = sample.context + sample.question + sample.answer_prefix;
    for (const std::string_view word : split_words(whole)) {
        n += static_cast<int64_t>((word.size() + 3) / 4);
    }
    return n;
}

SampleRequest request_of(int64_t length, int64_t n, uint64_t seed) {
    SampleRequest request;
    request.length = length;
    request.n = n;
    request.seed = seed;
    request.count_tokens = count_test_tokens;
    return request;
}

std::string prose(int64_t n_sentence) {
    Random random(7);
    std::string text;
    for (int64_t i = 0; i < n_sentence; ++i) {
        const int64_t n_word = 5 + random.below(20);
        for (int64_t k = 0; k < n_word; ++k) {
            const auto& list = k % 3 == 0 ? adjectives() : k % 3 == 1 ? nouns() : verbs();
            if (k > 0) text += ' ';
            text += list[static_cast<size_t>(random.below(static_cast<int64_t>(list.size())))];
        }
        text += i % 7 == 6 ? ".\n\n" : ". ";
    }
    return text;
}

std::string prose_with_facts(int64_t n_stretch) {
    std::string text;
    for (int64_t i = 0; i < n_stretch; ++i) {
        const std::string name{static_cast<char>('A' + i / 26), static_cast<char>('a' + i % 26)};
        text += cat("Of the stretch ", name, "\n\nThis is stretch ", i, ", for those who ask. ",
                    prose(3), " All the people who came by stretch ", i, " of it wrote to ", name,
                    "berto Ranfur, who lived there. They had paid in stretch ", i,
                    " and for the year ", 1000 + i, " pounds. It was closed by stretch ", i,
                    " again on ", 1 + i % 28, " May ", 3000 + i, " for good.\n\n");
    }
    return text;
}

std::vector<Sample> samples_of(std::string_view task, const SampleRequest& request) {
    const std::string name(task);
    return find_tasks({&name, 1}).front()->samples(task, request);
}

size_t count_of(std::string_view text, std::string_view part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
    return n;
}

uint64_t hash_of(const std::vector<Sample>& samples) {
    uint64_t hash = text_hash("");
    for (const Sample& sample : samples) {
        hash = text_hash(sample.context + "|" + sample.question + "|" + sample.answer_prefix, hash);
        hash = text_hash(join(sample.references, "|") + "|" + sample.id, hash);
    }
    return hash;
}

std::string right_answer(const TaskKind& kind, const Sample& sample) {
    return kind.metric->name == "all" ? join(sample.references, ", ") : sample.references.front();
}

}  // namespace palimpsest::testing
