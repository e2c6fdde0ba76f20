#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/runtime.h"
#include "server/metrics.h"
#include "server/prefix_shelf.h"
#include "server/scheduler/work.h"
#include "server/sessions/session_saver.h"
#include "server/sessions/session_store.h"

namespace palimpsest {

/// What a sequence was at an earlier position, to go on from otherwise.
struct Checkpoint {
    enum class Kind { kSystem, kDocuments, kPrompt };  // what ended there: one of each is kept
    Kind kind = Kind::kPrompt;
    int64_t position = 0;
    std::shared_ptr<const std::string> state = {};
};

/// A conversation that is remembered: as a sequence, or saved.
struct Remembered {
    SessionHead head = {};
    std::unique_ptr<Sequence> sequence = {};  // nullptr: it is only in the store
    std::vector<Checkpoint> checkpoints = {};
    std::chrono::steady_clock::time_point used = {};
    bool is_in_use = false;
    bool is_stored = false;   // the store has what `head` says, which may be older than `sequence`
    bool is_private = false;  // neither listed nor saved

    [[nodiscard]] size_t checkpoint_bytes() const;
};

/// Where a request begins.
struct Place {
    Remembered* of = nullptr;  // in use until release()
    int64_t n_cached = 0;      // tokens of the prompt that it has read
};

struct TableOptions {
    int64_t most_bytes = 0;         // of all memories together; 0: no limit
    int64_t most_entries = 0;       // a head, whatever share of a prompt is asked for; 0: no limit
    int64_t most_remembered = 256;  // with a sequence
    int64_t most_stored_bytes = int64_t{16} << 30;
    const PrefixShelf* prefixes = nullptr;  // all that choices name; nullptr: they name none
};

/// All conversations there are, those that run and those that wait to be gone on with. A request
/// goes on from whatever shares the longest beginning of tokens with it, exactly; of its owner
/// only. Belongs to the scheduler's thread.
class SequenceTable {
 public:
    /// `store` may be nullptr; what is in it is remembered from the start.
    SequenceTable(const Runtime& engine, const TableOptions& options, SessionStore* store,
                  Metrics& metrics);

    /// Of a store that several servers share, reads what another wrote of the conversation that a
    /// request goes on with. Waits for it, so for other threads than the scheduler's.
    void look_up(const Work& work) const;
    /// And takes what look_up() found. Before at_hand() and place().
    void refresh(const Work& work);
    /// Makes a place for a request, of these tokens. Throws as making and loading a memory does.
    [[nodiscard]] Place place(const Work& work, std::span<const TokenId> tokens);
    /// What place() would go on from, and bytes of a sequence that it takes over: no new ones.
    struct AtHand {
        const Remembered* of = nullptr;
        int64_t bytes = 0;
    };
    [[nodiscard]] AtHand at_hand(const Work& work, std::span<const TokenId> tokens);
    /// After an answer: others may go on from it. `is_good` false: it is what was last stored, or
    /// is gone.
    void release(Remembered& of, bool is_good, const Work& work, const std::string& report);

    /// A new sequence of one choice of a memory, for a prompt of so many tokens.
    /// `entries`: those that a share came to before; 0: it is of `n`.
    [[nodiscard]] std::unique_ptr<Sequence> make_sequence(const MemoryChoice& choice, int64_t n,
                                                          int64_t entries = 0);
    [[nodiscard]] const MemoryPlan& plan(const MemoryChoice& choice);
    /// Bytes that a sequence of `n` positions will take, about.
    [[nodiscard]] int64_t bytes_needed(const MemoryChoice& choice, int64_t n);

    /// Lets idle sequences go, those not used for the longest time first, until all together take
    /// `more` bytes less than the limit; those that the store has are only forgotten here. `spared`
    /// stays. False: it is not enough.
    bool make_room(int64_t more, const Remembered* spared = nullptr);
    /// Puts a state aside, if there is room for it.
    void put_aside(Remembered& of, Checkpoint::Kind kind, int64_t position);
    void note_bytes();

    // For people and programs who look after conversations: by their own name for one, ours, or
    // that of a response.
    [[nodiscard]] std::vector<const Remembered*> of_owner(const std::string& owner) const;
    /// Throws ApiError 404.
    [[nodiscard]] Remembered& find(const std::string& owner, const std::string& id);
    void rename(Remembered& of, const std::string& title);
    /// Throws ApiError 409 while it is in use.
    void remove(Remembered& of);
    Remembered& fork(Remembered& of);
    /// Its messages and its memory's report, which may be in the store alone.
    [[nodiscard]] std::string messages_of(Remembered& of);
    [[nodiscard]] std::string report_of(Remembered& of);
    [[nodiscard]] std::string exported(Remembered& of);
    Remembered& import(const std::string& owner, std::string_view file);

 private:
    [[nodiscard]] bool can_rewind(const MemoryChoice& choice);
    [[nodiscard]] static std::string key_of(const MemoryChoice& choice);
    [[nodiscard]] Remembered& add(const SessionHead& head);
    [[nodiscard]] bool is_shared() const { return store_ != nullptr && store_->is_shared(); }
    [[nodiscard]] std::string shared_id(const SessionHead& head) const;
    [[nodiscard]] std::string id_for(const SessionHead& head) const;
    [[nodiscard]] SessionHead head_for(const Work& work) const;
    [[nodiscard]] Place start_anew(const Work& work, int64_t n_tokens, int64_t entries = 0);
    [[nodiscard]] int64_t entries_of(const MemoryChoice& choice, int64_t n);
    struct Way;
    [[nodiscard]] Way way_of(const Remembered& r, const Work& work,
                             std::span<const TokenId> tokens);
    [[nodiscard]] Way best(const Work& work, std::span<const TokenId> tokens);
    [[nodiscard]] static bool takes_over(const Way& way, const Work& work);
    void revert(Remembered& of);
    void drop(const Remembered& of);
    void let_go(Remembered& of);
    void go_on(Remembered& from, Remembered& to, const Work& work, const Checkpoint* checkpoint);
    void forget(Remembered& of);
    [[nodiscard]] std::string state_of(Remembered& of);
    [[nodiscard]] std::string stored(Remembered& of, std::string_view part);
    void load(Remembered& of, const MemoryChoice& choice, const std::string& state);
    void store(Remembered& of);
    void store_lost();
    void save(Remembered& of, std::string state);
    void trim_store(const Remembered& spared);
    Remembered& adopt(SessionHead head, std::string state);

    const Runtime& engine_;
    TableOptions options_;
    SessionStore* store_;
    std::unique_ptr<SessionSaver> saver_;
    Metrics& metrics_;
    std::list<Remembered> all_;
    std::list<std::pair<std::string, MemoryPlan>> plans_;
    std::string model_;
};

}  // namespace palimpsest
