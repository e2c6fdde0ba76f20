#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/api/answer_form.h"
#include "server/api/routes.h"
#include "server/service.h"

namespace palimpsest {

/// What an answer says so far, and what is new in it since it was last asked. Thread-bound.
class AnswerReader {
 public:
    /// `protocol` may be nullptr: then all of it is content.
    explicit AnswerReader(std::shared_ptr<const ToolProtocol> protocol)
        : protocol_(std::move(protocol)) {}

    /// More of the answer; of a stream, what of it can be told for good.
    [[nodiscard]] AnswerDelta add(const std::string& text);
    /// It is over: what was not told yet.
    [[nodiscard]] AnswerDelta finish();
    [[nodiscard]] const ParsedAnswer& parsed() const { return parsed_; }

 private:
    [[nodiscard]] AnswerDelta change(ParsedAnswer now, bool is_over);

    std::shared_ptr<const ToolProtocol> protocol_;
    std::string text_;
    ParsedAnswer parsed_;  // calls have ids
    size_t n_told_content_ = 0, n_told_reasoning_ = 0;
    std::vector<bool> told_;  // calls whose arguments have been told
};

/// Takes what the scheduler says of one request to its client, in the form of an API. Lives as
/// long as either knows of it; works on the thread of input and output.
class AnswerRun final : public WorkListener, public std::enable_shared_from_this<AnswerRun> {
 public:
    AnswerRun(Service& service, const Call& call, std::unique_ptr<AnswerForm> form,
              std::shared_ptr<const ToolProtocol> protocol, size_t n_answers, bool is_streamed);

    /// Once it was submitted.
    void watch(uint64_t work_id);

    void on_progress(const WorkProgress& progress) override;
    void on_piece(WorkPiece piece) override;
    void on_done(WorkResult result) override;
    void on_failed(const ApiError& error) override;

 private:
    template <typename Do>
    void post(Do what);
    void tick();
    void begin();
    void tell(const AnswerDelta& delta);
    void done(WorkResult result);
    void failed(const ApiError& error);

    Service& service_;
    Call call_;
    std::unique_ptr<AnswerForm> form_;
    std::vector<AnswerReader> readers_;
    std::vector<std::vector<TokenLikelihood>> likelihoods_;
    bool is_streamed_, is_begun_ = false, is_over_ = false, is_writing_ = false, told_ = false;
    WorkProgress progress_;
};

}  // namespace palimpsest
