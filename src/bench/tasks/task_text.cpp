// Windows of any text, to measure how far a memory's predictions of the text's next part are from
// the full cache's. The context is a window's first part; the question is its continuation, 512
// tokens or a quarter of the length if that is less. Windows start at even distances, each moved a
// little by lot, and are cut behind words.
#include <algorithm>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "bench/tasks/text_pieces.h"
#include "core/error.h"
#include "text/input_files.h"

namespace palimpsest {

namespace {

class Windows {
 public:
    Windows(std::string_view task, const SampleRequest& request)
        : task_(task), request_(request), pieces_(request.sources.text) {}

    [[nodiscard]] int64_t n_piece() const { return pieces_.size(); }

    /// The window at a piece of the text.
    [[nodiscard]] Sample at(int64_t start) const {
        const int64_t n_new = std::min<int64_t>(512, request_.length / 4);
        Sample sample;
        sample.source = "text: " + base_name(request_.sources.text);
        sample.has_template = false;
        sample.n_new = n_new;  // leaves room for the continuation
        const int64_t n_left = n_piece() - start;
        const auto context = [&](int64_t n) {
            Sample longer = sample;
            longer.context = pieces_.text(start, n);
            return longer;
        };
        const int64_t n = most_units(task_, request_, context, {.least = 1, .most = n_left});
        sample.context = pieces_.text(start, n);
        sample.n_new = 0;  // nothing is written
        const auto question = [&](int64_t n_next) {
            Sample longer = sample;
            longer.question = pieces_.text(start + n, n_next);
            return longer;
        };
        if (n == n_left) return sample;
        return question(most_units(task_, request_, question, {.least = 1, .most = n_left - n}));
    }

    [[nodiscard]] int64_t length_of(const Sample& window) const {
        return pieces_.count_of(window.context.size() + window.question.size());
    }

 private:
    std::string_view task_;
    const SampleRequest& request_;
    TextPieces pieces_;
};

}  // namespace

Samples text_samples(std::string_view task, const SampleRequest& request) {
    check_request(task, request);
    require_named(request.sources.text, task, "a text", "--text FILE (any long text)");
    const Windows windows(task, request);
    const Sample first = windows.at(0);
    require(!is_short(request, first), "task '", task, "': '", request.sources.text, "' has ",
            request.count_tokens(first), " tokens; windows of ", request.length,
            " are asked for: name a longer text or ask for a shorter length");
    const int64_t n_piece = windows.length_of(first);
    const int64_t n_free = std::max<int64_t>(windows.n_piece() - n_piece, 0);
    int64_t index = 0;
    return make_samples(task, request, [&](Random random) {
        const double share =
            (static_cast<double>(index++) + random.unit()) / static_cast<double>(request.n);
        auto start = static_cast<int64_t>(share * static_cast<double>(n_free));
        Sample sample = windows.at(start);
        // The last windows may reach the text's end, where its words are shorter than at its start.
        while (start > 0 && is_short(request, sample)) {
            start = std::max<int64_t>(start - n_piece / 20 - 1, 0);
            sample = windows.at(start);
        }
        return sample;
    });
}

}  // namespace palimpsest
