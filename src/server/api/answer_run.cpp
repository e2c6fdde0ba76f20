#include "server/api/answer_run.h"

#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr double kTick = 1.0;  // seconds

std::string_view after(const std::string& text, size_t n) {
    return std::string_view(text).substr(std::min(n, text.size()));
}

}  // namespace

AnswerDelta AnswerReader::add(const std::string& text) {
    text_ += text;
    if (protocol_ == nullptr) {
        parsed_.content = text_;
        AnswerDelta delta;
        delta.content = text;
        n_told_content_ = text_.size();
        return delta;
    }
    try {
        return change(protocol_->parse(text_, true), false);
    } catch (const Error&) {
        return {};  // more of it may make sense of it
    }
}

AnswerDelta AnswerReader::finish() {
    if (protocol_ == nullptr) return {};
    try {
        return change(protocol_->parse(text_, false), true);
    } catch (const Error&) {
        // Cut short, or not of the template's form: what can be made of it.
        try {
            return change(protocol_->parse(text_, true), true);
        } catch (const Error&) {
            return change({.content = text_, .reasoning = {}, .calls = {}}, true);
        }
    }
}

/// What was told stays as it was; a partial answer may seem to say less, later.
AnswerDelta AnswerReader::change(ParsedAnswer now, bool is_over) {
    AnswerDelta delta;
    const auto grow = [](std::string& have, std::string& more, size_t& n_told, std::string& to) {
        const std::string told = have.substr(0, n_told);
        if (!more.starts_with(told)) more = have;
        to = after(more, n_told);
        n_told = more.size();
        have = std::move(more);
    };
    grow(parsed_.content, now.content, n_told_content_, delta.content);
    grow(parsed_.reasoning, now.reasoning, n_told_reasoning_, delta.reasoning);
    for (size_t i = 0; i < now.calls.size(); ++i) {
        ToolCall& call = now.calls[i];
        if (call.name.empty()) break;
        AnswerDelta::Call said = {.index = i};
        bool is_new = false;
        if (i == parsed_.calls.size()) {
            parsed_.calls.push_back({.name = call.name,
                                     .arguments = {},
                                     .id = call.id.empty() ? new_id("call_") : call.id});
            told_.push_back(false);
            said.id = parsed_.calls.back().id;
            said.name = call.name;
            is_new = true;
        }
        // Arguments that are still being written may yet be read otherwise.
        if (!told_[i] && (is_over || i + 1 < now.calls.size())) {
            parsed_.calls[i].arguments = call.arguments;
            said.arguments = call.arguments;
            told_[i] = true;
            is_new = true;
        }
        if (is_new) delta.calls.push_back(std::move(said));
    }
    return delta;
}

AnswerRun::AnswerRun(Service& service, const Call& call, std::unique_ptr<AnswerForm> form,
                     std::shared_ptr<const ToolProtocol> protocol, size_t n_answers,
                     bool is_streamed)
    : service_(service),
      call_(call),
      form_(std::move(form)),
      readers_(n_answers, AnswerReader(protocol)),
      likelihoods_(n_answers),
      is_streamed_(is_streamed) {}

template <typename Do>
void AnswerRun::post(Do what) {
    service_.http().post([self = shared_from_this(), what = std::move(what)]() mutable {
        if (self->is_over_) return;
        try {
            what(*self);
        } catch (...) {
            self->failed(current_api_error());
        }
    });
}

void AnswerRun::watch(uint64_t work_id) {
    call_.exchange->on_gone([self = weak_from_this(), work_id, &service = service_] {
        service.scheduler().cancel(work_id);
        if (const auto run = self.lock()) run->is_over_ = true;
    });
    if (is_streamed_) post([](AnswerRun& self) { self.tick(); });
}

/// Real chunks, so that clients and what stands between know that it is alive.
void AnswerRun::tick() {
    service_.http().post_after(kTick, [weak = weak_from_this()] {
        const auto self = weak.lock();
        if (self == nullptr || self->is_over_) return;
        if (!self->told_) {
            self->begin();
            self->call_.exchange->write(self->form_->progress(self->progress_));
        }
        self->told_ = false;
        self->tick();
    });
}

void AnswerRun::begin() {
    if (is_begun_) return;
    is_begun_ = true;
    call_.exchange->begin(form_->content_type());
    call_.exchange->write(form_->opening());
}

void AnswerRun::tell(const AnswerDelta& delta) {
    if (delta.is_empty()) return;
    begin();
    told_ = true;
    call_.exchange->write(form_->delta(delta));
}

void AnswerRun::on_progress(const WorkProgress& progress) {
    if (!is_streamed_) return;
    post([progress](AnswerRun& self) { self.progress_ = progress; });
}

void AnswerRun::on_piece(WorkPiece piece) {
    post([piece = std::move(piece)](AnswerRun& self) mutable {
        self.is_writing_ = true;
        auto& all = self.likelihoods_[piece.choice];
        all.insert(all.end(), piece.likelihoods.begin(), piece.likelihoods.end());
        if (!self.is_streamed_) {
            static_cast<void>(self.readers_[piece.choice].add(piece.text));
            return;
        }
        AnswerDelta delta = self.readers_[piece.choice].add(piece.text);
        delta.choice = piece.choice;
        delta.likelihoods = std::move(piece.likelihoods);
        self.tell(delta);
    });
}

void AnswerRun::on_done(WorkResult result) {
    post([result = std::move(result)](AnswerRun& self) mutable { self.done(std::move(result)); });
}

void AnswerRun::on_failed(const ApiError& error) {
    post([error](AnswerRun& self) { self.failed(error); });
}

void AnswerRun::done(WorkResult result) {
    try {
        FinishedWork work;
        for (size_t i = 0; i < readers_.size(); ++i) {
            AnswerDelta delta = readers_[i].finish();
            delta.choice = i;
            if (is_streamed_) tell(delta);
            const GenerateResult& r = result.answers[i];
            work.answers.push_back({.parsed = readers_[i].parsed(),
                                    .reason = r.reason,
                                    .stop_text = r.stop_text,
                                    .likelihoods = std::move(likelihoods_[i]),
                                    .n_tokens = r.n_generated});
        }
        work.result = std::move(result);
        is_over_ = true;
        if (is_streamed_) {
            begin();
            call_.exchange->write(form_->closing(work));
            call_.exchange->finish();
        } else {
            call_.exchange->answer({.body = form_->whole(work)});
        }
    } catch (...) {
        failed(current_api_error());
    }
}

void AnswerRun::failed(const ApiError& error) {
    is_over_ = true;
    if (!is_begun_) return call_.fail(error);
    call_.exchange->write(form_->failure(error));
    call_.exchange->finish();
}

}  // namespace palimpsest
