// RULER's question answering (Hsieh and others, 2024, arXiv:2404.06654, section 3): a question of
// SQuAD (qa_1) or HotpotQA (qa_2), its documents among others of the set. In SQuAD, documents of
// the same article come first among the others.
//
// Where we differ: instructions are our own; where whole documents stay more than 2 % below the
// length, one more is added, cut behind a word; documents are repeated, except the question's own,
// when the set has too few.
#include <algorithm>
#include <map>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/input_files.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

struct Question {
    std::string text;
    std::vector<std::string> answers;
    std::vector<size_t> documents;  // that answer it
    std::vector<size_t> near;       // of the same article
};

struct QuestionSet {
    std::vector<std::string> documents;  // each once
    std::vector<Question> questions;
    std::string source;
};

/// Numbers documents in the order in which they come.
class DocumentIndex {
 public:
    explicit DocumentIndex(std::vector<std::string>& documents) : documents_(documents) {}

    size_t of(const std::string& text) {
        const auto [it, is_new] = numbers_.try_emplace(text, documents_.size());
        if (is_new) documents_.push_back(text);
        return it->second;
    }

 private:
    std::vector<std::string>& documents_;
    std::map<std::string, size_t> numbers_;
};

using Json = nlohmann::json;

/// One line, so that the question is the prompt's last.
std::string one_line(const std::string& text) {
    std::string line;
    for (const std::string_view word : split_words(text))
        line += cat(line.empty() ? "" : " ", word);
    return line;
}

void add_question(QuestionSet& set, Question question) {
    std::erase_if(question.answers, [](const std::string& a) { return strip(a).empty(); });
    question.text = one_line(question.text);
    if (!question.answers.empty()) set.questions.push_back(std::move(question));
}

void add_article(QuestionSet& set, DocumentIndex& index, const Json& article,
                 const std::string& where) {
    std::vector<size_t> all;
    for (const Json& paragraph : list_field(article, "paragraphs", where)) {
        all.push_back(index.of(text_field(paragraph, "context", where)));
    }
    size_t at = 0;
    for (const Json& paragraph : list_field(article, "paragraphs", where)) {
        const size_t own = all[at++];
        for (const Json& item : list_field(paragraph, "qas", where)) {
            if (item.is_object() && item.value("is_impossible", Json(false)) == Json(true))
                continue;
            Question question = {text_field(item, "question", where), {}, {own}, {}};
            for (const Json& answer : list_field(item, "answers", where)) {
                const std::string& text = text_field(answer, "text", where);
                const auto& known = question.answers;
                if (std::ranges::find(known, text) == known.end()) question.answers.push_back(text);
            }
            for (const size_t other : all) {
                if (other != own) question.near.push_back(other);
            }
            add_question(set, std::move(question));
        }
    }
}

QuestionSet read_squad(const std::string& path) {
    QuestionSet set = {{}, {}, "SQuAD file: " + base_name(path)};
    DocumentIndex index(set.documents);
    const Json file = read_json_file(path);
    int64_t number = 0;
    for (const Json& article : list_field(file, "data", path)) {
        add_article(set, index, article, cat("'", path, "', article ", ++number));
    }
    return set;
}

/// A title, and sentences behind it.
std::string hotpot_document(const Json& entry, const std::string& where) {
    const bool is_pair = entry.is_array() && entry.size() == 2 && entry[0].is_string();
    if (!is_pair || !entry[1].is_array()) {
        throw Error(ErrorCode::kCorrupt, where + ": a document is not [title, [sentence, ...]]");
    }
    std::string text = entry[0].get<std::string>() + "\n";
    for (const Json& sentence : entry[1]) {
        if (!sentence.is_string()) throw Error(ErrorCode::kCorrupt, where + ": no sentence");
        text += sentence.get_ref<const std::string&>();
    }
    return text;
}

QuestionSet read_hotpotqa(const std::string& path) {
    QuestionSet set = {{}, {}, "HotpotQA file: " + base_name(path)};
    DocumentIndex index(set.documents);
    const Json file = read_json_file(path);
    if (!file.is_array()) throw Error(ErrorCode::kCorrupt, path + ": not a list of questions");
    int64_t number = 0;
    for (const Json& item : file) {
        const std::string where = cat("'", path, "', question ", ++number);
        Question question = {
            text_field(item, "question", where), {text_field(item, "answer", where)}, {}, {}};
        for (const Json& entry : list_field(item, "context", where)) {
            question.documents.push_back(index.of(hotpot_document(entry, where)));
        }
        add_question(set, std::move(question));
    }
    return set;
}

/// Those that may stand beside a question's own, nearest first, each group in random order.
std::vector<size_t> other_documents(const QuestionSet& set, const Question& question,
                                    Random& random) {
    std::vector<char> is_taken(set.documents.size(), 0);
    for (const size_t i : question.documents) is_taken[i] = 1;
    std::vector<size_t> others, far;
    for (const size_t i : question.near) {
        if (is_taken[i] == 0) others.push_back(i);
        is_taken[i] = 1;
    }
    for (size_t i = 0; i < is_taken.size(); ++i) {
        if (is_taken[i] == 0) far.push_back(i);
    }
    random.shuffle(others);
    random.shuffle(far);
    others.insert(others.end(), far.begin(), far.end());
    return others;
}

/// The first `n_word` words, line breaks kept.
std::string_view first_words(std::string_view text, int64_t n_word) {
    const std::vector<size_t> points = cut_points(text);
    const auto at = std::min(static_cast<size_t>(n_word), points.size() - 1);
    return strip(text.substr(0, points[at]));
}

class DocumentSample {
 public:
    DocumentSample(const QuestionSet& set, const Question& question, Random random)
        : set_(set),
          question_(question),
          others_(other_documents(set, question, random)),
          random_(random) {}

    [[nodiscard]] int64_t most_others() const { return others_.empty() ? 0 : UnitRange{}.most; }

    /// So many other documents, and so many words of one more.
    [[nodiscard]] Sample with(int64_t n_other, int64_t n_word) const {
        std::vector<std::string> documents;
        for (const size_t i : question_.documents) documents.push_back(set_.documents[i]);
        for (int64_t i = 0; i < n_other; ++i) documents.push_back(other(i));
        if (n_word > 0) documents.emplace_back(first_words(other(n_other), n_word));
        Random random = random_;
        random.shuffle(documents);
        for (size_t i = 0; i < documents.size(); ++i) {
            documents[i].insert(0, cat("Document ", i + 1, ":\n"));
        }
        constexpr std::string_view kTask =
            " documents. Give the answer alone, without any other words.\n\n";
        Sample sample;
        sample.context = cat("Answer the question from these", kTask, join(documents, "\n\n"),
                             "\n\nAnswer the question from the above", kTask);
        sample.question = "Question: " + question_.text;
        sample.answer_prefix = " Answer:";
        sample.references = question_.answers;
        sample.n_new = 32;
        const bool repeats = n_other + (n_word > 0 ? 1 : 0) > static_cast<int64_t>(others_.size());
        sample.source =
            cat("RULER-style, generated; ", set_.source, repeats ? ", documents repeated" : "");
        return sample;
    }

    [[nodiscard]] const std::string& other(int64_t i) const {
        return set_.documents[others_[static_cast<size_t>(i) % others_.size()]];
    }

 private:
    const QuestionSet& set_;
    const Question& question_;
    std::vector<size_t> others_;
    Random random_;
};

}  // namespace

Samples document_samples(std::string_view task, const SampleRequest& request) {
    if (!request.sources.ready.empty()) return ready_samples(task, request, 32);
    const bool is_squad = task == "qa_1";
    const std::string& path = is_squad ? request.sources.squad : request.sources.hotpotqa;
    require_named(path, task, is_squad ? "SQuAD's questions" : "HotpotQA's questions",
                  is_squad ? "--squad FILE (its JSON)" : "--hotpotqa FILE (its JSON)");
    const QuestionSet set = is_squad ? read_squad(path) : read_hotpotqa(path);
    if (set.questions.empty()) throw Error(ErrorCode::kCorrupt, path + ": it holds no questions");
    SampleRequest fewer = request;
    fewer.n = std::min(request.n, static_cast<int64_t>(set.questions.size()));
    size_t next = 0;
    return make_samples(task, fewer, [&](Random random) {
        const DocumentSample parts(set, set.questions[next++], random);
        const auto whole = [&](int64_t n) { return parts.with(n, 0); };
        const UnitRange range = {.least = 0, .most = parts.most_others()};
        const int64_t n = most_units(task, request, whole, range);
        Sample sample = whole(n);
        if (range.most == 0 || !is_short(request, sample)) return sample;
        const auto filled = [&](int64_t n_word) { return parts.with(n, n_word); };
        const auto n_piece = static_cast<int64_t>(cut_points(parts.other(n)).size()) - 1;
        return filled(most_units(task, request, filled, {.least = 0, .most = n_piece}));
    });
}

}  // namespace palimpsest
