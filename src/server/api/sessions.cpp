// Conversations that the server remembers, and what their memories kept.

#include "core/error.h"
#include "server/api/answer_form.h"
#include "server/api/routes.h"
#include "server/service.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

constexpr size_t kMostTitle = 200;

Json to_json(const Remembered& r) {
    const bool is_here = r.sequence != nullptr || !r.checkpoints.empty();
    const size_t bytes = r.sequence != nullptr
                             ? r.sequence->memory().usage().bytes + r.checkpoint_bytes()
                             : r.checkpoint_bytes();
    return {{"id", r.head.key.empty() ? r.head.id : r.head.key},
            {"object", "session"},
            {"title", r.head.title},
            {"created", r.head.created},
            {"last_used", r.head.used},
            {"tokens", r.head.tokens.size()},
            {"bytes", is_here ? static_cast<int64_t>(bytes) : r.head.bytes},
            {"where", is_here && r.is_stored ? "both"
                      : is_here              ? "memory"
                                             : "disk"},
            {"busy", r.is_in_use}};
}

/// Answers with what `what` makes of the conversation that the path names.
template <typename Do>
void with_session(Service& service, const Call& call, Do what) {
    const std::string id = call.params.front();
    call.answer(service.ask(
        [&](SequenceTable& table) -> Json { return what(table, table.find(call.owner, id)); }));
}

}  // namespace

void handle_sessions(Service& service, const Call& call) {
    call.answer(service.ask([&](SequenceTable& table) -> Json {
        Json all = Json::array();
        for (const Remembered* r : table.of_owner(call.owner)) all.push_back(to_json(*r));
        return {{"object", "list"}, {"data", std::move(all)}};
    }));
}

void handle_session(Service& service, const Call& call) {
    with_session(service, call, [](SequenceTable& table, Remembered& r) {
        Json json = to_json(r);
        json["messages"] = parse_json<Json>(table.messages_of(r));
        if (json["messages"].is_discarded()) json["messages"] = Json::array();
        return json;
    });
}

void handle_session_change(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    const auto title = f.text("title");
    if (!title) f.refuse("title", "is missing");
    if (title->size() > kMostTitle) f.refuse("title", cat("has more than ", kMostTitle, " bytes"));
    with_session(service, call, [&](SequenceTable& table, Remembered& r) {
        table.rename(r, *title);
        return to_json(r);
    });
}

void handle_session_delete(Service& service, const Call& call) {
    with_session(service, call, [](SequenceTable& table, Remembered& r) {
        const Json json = {{"id", r.head.key.empty() ? r.head.id : r.head.key}, {"deleted", true}};
        table.remove(r);
        return json;
    });
}

void handle_session_fork(Service& service, const Call& call) {
    with_session(service, call,
                 [](SequenceTable& table, Remembered& r) { return to_json(table.fork(r)); });
}

void handle_session_export(Service& service, const Call& call) {
    const std::string id = call.params.front();
    std::string file = service.ask(
        [&](SequenceTable& table) { return table.exported(table.find(call.owner, id)); });
    call.exchange->answer(
        {.body = std::move(file),
         .content_type = "application/octet-stream",
         .headers = {{"Content-Disposition", "attachment; filename=\"conversation.palimpsest\""}}});
}

void handle_session_import(Service& service, const Call& call) {
    try {
        call.answer(service.ask([&](SequenceTable& table) -> Json {
            return to_json(table.import(call.owner, call.request().body));
        }));
    } catch (const Error& e) {
        throw ApiError(400, e.what());
    }
}

void handle_memory(Service& service, const Call& call) {
    with_session(service, call, [&call](SequenceTable& table, Remembered& r) {
        const std::string& id = call.params.front();
        const bool is_session = id == r.head.id || id == r.head.key;
        if (!is_session && id != r.head.responses.back().id) {
            throw ApiError(404,
                           "this conversation has been gone on with; ask for it by its own id");
        }
        Json json = parse_json<Json>(table.report_of(r));
        if (!json.is_object()) throw ApiError(404, "nothing has been answered here yet");
        return json;
    });
}

}  // namespace palimpsest
