#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/types.h"
#include "server/sessions/object_store.h"

namespace palimpsest {

/// An answer that was given in a conversation.
struct Responded {
    std::string id = {};
    int64_t n_messages = 0;  // the conversation had, with it
};

/// What is known of a saved conversation without reading its state.
struct SessionHead {
    std::string id = {};
    std::string owner = {};   // whose it is
    std::string key = {};     // what its client calls it
    std::string model = {};   // fingerprint
    std::string memory = {};  // how its memory was chosen
    std::string title = {};
    int64_t created = 0, used = 0;  // seconds since 1970
    std::vector<TokenId> tokens = {};
    std::vector<Responded> responses = {};  // the last ones
    int64_t entries = 0;  // a head, of a budget that is a share of what came first
    std::vector<std::pair<int64_t, int64_t>> kept = {};  // positions [begin, end) that must stay
    std::string messages = {};                           // JSON; only when it is saved
    std::string report = {};                             // of its memory, JSON; the same
    int64_t bytes = 0;                                   // of all of it
};

/// Where conversations outlive the program. Thread-safe.
class SessionStore {
 public:
    SessionStore() = default;
    virtual ~SessionStore() = default;
    SessionStore(const SessionStore&) = delete;
    SessionStore& operator=(const SessionStore&) = delete;

    /// May other servers write to it meanwhile? If so, a conversation that its client has a name
    /// for has the same id on each of them.
    [[nodiscard]] virtual bool is_shared() const = 0;
    /// All that are there and whole as far as a look at their manifests tells, without messages;
    /// `refused` gets a sentence on each of the others, which are left as they are.
    [[nodiscard]] virtual std::vector<SessionHead> list(std::vector<std::string>& refused) = 0;
    /// In place of what was there by that id: afterwards there is the old one or the new one,
    /// whatever happens. Throws kUnwritable, and ObjectConflict if another server wrote it since
    /// this one saw it last.
    virtual void save(const SessionHead& head, const std::string& state) = 0;
    /// One of "state", "messages" and "report". Throws kNotFound, and kCorrupt, with the reason.
    [[nodiscard]] virtual std::string part(const std::string& id, std::string_view name) = 0;
    /// What is not there is removed already.
    virtual void remove(const std::string& id) = 0;

    /// Reads it, if it is there and another server wrote it. May take its time; throws as part().
    virtual void look_up(const std::string& id) = 0;
    /// What look_up() found, once; from now on this is what this server saw last.
    [[nodiscard]] virtual std::optional<SessionHead> newer(const std::string& id) = 0;
};

/// Conversations as one text, to be taken elsewhere: what export gives, and import takes.
[[nodiscard]] std::string packed(const SessionHead& head, const std::string& state);
/// Throws kCorrupt.
[[nodiscard]] SessionHead unpacked(std::string_view file, std::string& state);

/// A folder or "s3://BUCKET/PREFIX" (object_store.h, whose errors it throws). In it, for each
/// conversation, a folder (docs/formats.md): segments that never change, each named by the check
/// sum of its content, and a manifest that is replaced at once.
[[nodiscard]] std::unique_ptr<SessionStore> open_sessions(const std::string& where);
[[nodiscard]] std::unique_ptr<SessionStore> sessions_in(std::unique_ptr<ObjectStore> objects);

}  // namespace palimpsest
