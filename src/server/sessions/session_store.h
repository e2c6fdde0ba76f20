#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/types.h"

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

    /// All that are there and whole as far as a look at their manifests tells, without messages;
    /// `refused` gets a sentence on each of the others, which are left as they are.
    [[nodiscard]] virtual std::vector<SessionHead> list(std::vector<std::string>& refused) = 0;
    /// In place of what was there by that id: afterwards there is the old one or the new one,
    /// whatever happens. Throws kUnwritable.
    virtual void save(const SessionHead& head, const std::string& state) = 0;
    /// One of "state", "messages" and "report". Throws kNotFound, and kCorrupt, with the reason.
    [[nodiscard]] virtual std::string part(const std::string& id, std::string_view name) = 0;
    /// What is not there is removed already.
    virtual void remove(const std::string& id) = 0;
};

/// Conversations as one text, to be taken elsewhere: what export gives, and import takes.
[[nodiscard]] std::string packed(const SessionHead& head, const std::string& state);
/// Throws kCorrupt.
[[nodiscard]] SessionHead unpacked(std::string_view file, std::string& state);

/// In folders of one folder (docs/formats.md): for each conversation segments that never change,
/// each with its length and check sum, and a manifest that is replaced at once. Locks the folder:
/// throws kInvalidArgument while another process has it; kUnwritable.
[[nodiscard]] std::unique_ptr<SessionStore> open_session_folder(const std::string& path);

}  // namespace palimpsest
