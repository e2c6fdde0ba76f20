// The part of SequenceTable that has to do with the store: what is written, read back, shared.

#include <algorithm>
#include <ctime>
#include <utility>

#include "core/error.h"
#include "core/sha256.h"
#include "server/new_id.h"
#include "server/scheduler/sequence_table.h"

namespace palimpsest {

namespace {

int64_t now() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace

/// The same on every server.
std::string SequenceTable::shared_id(const SessionHead& head) const {
    Sha256 sum;
    for (const std::string* text : {&head.owner, &head.key, &head.model, &head.memory}) {
        const std::string part = cat(text->size(), ":", *text);
        sum.add(std::as_bytes(std::span(part)));
    }
    return cat("s-", sum.hex().substr(0, 32));
}

std::string SequenceTable::id_for(const SessionHead& head) const {
    if (!is_shared() || head.key.empty()) return new_id("s-");
    std::string id = shared_id(head);
    const bool is_taken =
        std::ranges::any_of(all_, [&](const Remembered& r) { return r.head.id == id; });
    return is_taken ? new_id("s-") : id;
}

SessionHead SequenceTable::head_for(const Work& work) const {
    return {.owner = work.owner,
            .key = work.session,
            .model = model_,
            .memory = key_of(work.memory),
            .created = now()};
}

void SequenceTable::look_up(const Work& work) const {
    if (!is_shared() || work.session.empty() || work.is_private || !work.is_kept) return;
    try {
        store_->look_up(shared_id(head_for(work)));
    } catch (const std::exception&) {  // then it is read anew
        ++metrics_.sessions_refused;
    }
}

/// What other servers wrote is what there is.
void SequenceTable::refresh(const Work& work) {
    if (!is_shared()) return;
    for (const std::string& id : saver_->take_conflicts()) {
        const auto r =
            std::ranges::find_if(all_, [&](const Remembered& it) { return it.head.id == id; });
        if (r != all_.end() && !r->is_in_use) drop(*r);
    }
    if (work.session.empty()) return;
    const std::string id = shared_id(head_for(work));
    const auto r =
        std::ranges::find_if(all_, [&](const Remembered& it) { return it.head.id == id; });
    const bool is_ours = r != all_.end() && (r->is_in_use || !saver_->has(id));
    if (is_ours) return;
    const std::optional<SessionHead> head = store_->newer(id);
    if (!head || head->owner != work.owner || head->model != model_) return;
    if (r != all_.end()) drop(*r);
    metrics_.bytes_on_disk += head->bytes;
    Remembered& fresh = add(*head);
    fresh.is_stored = true;
}

std::string SequenceTable::stored(Remembered& of, std::string_view part) {
    saver_->flush();
    return store_->part(of.head.id, part);
}

void SequenceTable::store(Remembered& of) {
    if (saver_ == nullptr) return;
    try {
        save(of, state_of(of));
    } catch (const Error&) {  // a memory that cannot be saved
        ++metrics_.save_failures;
    }
}

/// What the store missed while it was down.
void SequenceTable::store_lost() {
    if (saver_ == nullptr) return;
    for (const std::string& id : saver_->take_lost()) {
        const auto r =
            std::ranges::find_if(all_, [&](const Remembered& it) { return it.head.id == id; });
        // Gone, or written when it is answered.
        if (r == all_.end() || r->is_in_use || r->sequence == nullptr) continue;
        r->head.messages = messages_of(*r);
        r->head.report = report_of(*r);
        store(*r);
    }
}

void SequenceTable::save(Remembered& of, std::string state) {
    metrics_.bytes_on_disk -= of.head.bytes;
    of.head.bytes = std::ssize(state) + std::ssize(of.head.messages) + std::ssize(of.head.report) +
                    4 * std::ssize(of.head.tokens);
    metrics_.bytes_on_disk += of.head.bytes;
    saver_->save(of.head, std::move(state));
    of.is_stored = true;
    trim_store(of);
}

/// Those not used for the longest time go, for good.
void SequenceTable::trim_store(const Remembered& spared) {
    while (metrics_.bytes_on_disk > options_.most_stored_bytes) {
        Remembered* oldest = nullptr;
        for (Remembered& r : all_) {
            if (!r.is_in_use && &r != &spared && r.is_stored &&
                (oldest == nullptr || r.head.used < oldest->head.used)) {
                oldest = &r;
            }
        }
        if (oldest == nullptr) return;
        forget(*oldest);
    }
}

/// For good.
void SequenceTable::forget(Remembered& of) {
    if (saver_ != nullptr && of.is_stored) saver_->remove(of.head.id);
    drop(of);
}

std::string SequenceTable::exported(Remembered& of) {
    if (of.is_in_use) throw ApiError(409, "this conversation is being answered; wait until it is");
    SessionHead head = of.head;
    head.messages = messages_of(of);
    head.report = report_of(of);
    return packed(head, state_of(of));
}

Remembered& SequenceTable::import(const std::string& owner, std::string_view file) {
    std::string state;
    SessionHead head = unpacked(file, state);
    if (head.model != model_) {
        throw Error(ErrorCode::kInvalidArgument, cat("the conversation is with another model (",
                                                     head.model, "; this one is ", model_, ")"));
    }
    for (const TokenId t : head.tokens) {
        if (t < 0 || t >= engine_.config().n_vocab) {
            throw Error(ErrorCode::kCorrupt, "it has a token that does not exist");
        }
    }
    head.owner = owner;
    return adopt(std::move(head), std::move(state));
}

/// A conversation of its own, which nobody has gone on with yet.
Remembered& SequenceTable::adopt(SessionHead head, std::string state) {
    head.key = new_id("s-");
    head.id = is_shared() ? id_for(head) : head.key;
    head.created = head.used = now();
    head.responses.clear();
    static_cast<void>(make_room(std::ssize(state)));
    Remembered& r = add(head);
    if (saver_ != nullptr) {
        save(r, std::move(state));
        r.head.messages = {};
        r.head.report = {};
    } else {
        r.checkpoints.push_back({.position = std::ssize(head.tokens),
                                 .state = std::make_shared<const std::string>(std::move(state))});
    }
    note_bytes();
    return r;
}

}  // namespace palimpsest
