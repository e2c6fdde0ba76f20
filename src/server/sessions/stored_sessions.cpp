#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/digest.h"
#include "core/error.h"
#include "memory/binary_stream.h"
#include "server/sessions/object_store.h"
#include "server/sessions/session_store.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

constexpr std::string_view kFormat = "palimpsest-session 1";
constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kSegment = ".segment";
constexpr std::string_view kPacked = "palimpsest-session-file 1\n";
constexpr int64_t kMostTokens = int64_t{1} << 30;

[[noreturn]] void corrupt(const std::string& why) { throw Error(ErrorCode::kCorrupt, why); }

std::string bytes_of(const std::vector<TokenId>& tokens) {
    std::string text(tokens.size() * sizeof(TokenId), '\0');
    if (!tokens.empty()) std::memcpy(text.data(), tokens.data(), text.size());
    return text;
}

std::vector<TokenId> tokens_of(std::string_view bytes) {
    std::vector<TokenId> tokens(bytes.size() / sizeof(TokenId));
    if (bytes.size() % sizeof(TokenId) != 0 || std::ssize(tokens) > kMostTokens) {
        corrupt("its tokens are damaged");
    }
    if (!tokens.empty()) std::memcpy(tokens.data(), bytes.data(), bytes.size());
    return tokens;
}

nlohmann::json to_json(const SessionHead& head) {
    nlohmann::json responses = nlohmann::json::array();
    for (const Responded& r : head.responses) responses.push_back({r.id, r.n_messages});
    return {{"format", kFormat},      {"id", head.id},           {"owner", head.owner},
            {"key", head.key},        {"model", head.model},     {"memory", head.memory},
            {"title", head.title},    {"created", head.created}, {"used", head.used},
            {"responses", responses}, {"entries", head.entries}, {"kept", head.kept}};
}

SessionHead head_of(const nlohmann::json& j) {
    try {
        if (!j.is_object() || j.at("format") != kFormat) corrupt("it is of another version");
        SessionHead head = {.id = j.at("id"),
                            .owner = j.at("owner"),
                            .key = j.at("key"),
                            .model = j.at("model"),
                            .memory = j.at("memory"),
                            .title = j.at("title"),
                            .created = j.at("created"),
                            .used = j.at("used"),
                            .entries = j.at("entries")};
        for (const auto& r : j.at("responses")) head.responses.push_back({r.at(0), r.at(1)});
        for (const auto& k : j.at("kept")) head.kept.emplace_back(k.at(0), k.at(1));
        return head;
    } catch (const nlohmann::json::exception&) {
        corrupt("its manifest is not of the right form");
    }
}

/// Ids name folders: ours are letters, digits and dashes.
bool is_id(std::string_view id) {
    return !id.empty() && id.size() <= 64 && std::ranges::all_of(id, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
}

struct Part {
    std::string name, file;
    int64_t bytes = 0;
};

std::vector<Part> parts_of(const nlohmann::json& manifest) {
    std::vector<Part> parts;
    try {
        for (const auto& p : manifest.at("segments")) {
            parts.push_back({p.at("name"), p.at("file"), p.at("bytes")});
            const std::string& file = parts.back().file;
            const std::string stem = file.substr(0, file.find('.'));
            if (!is_id(stem) || file != stem + std::string(kSegment)) {
                corrupt("its manifest names a segment that cannot be");
            }
        }
    } catch (const nlohmann::json::exception&) {
        corrupt("its manifest is not of the right form");
    }
    return parts;
}

std::string in_folder(std::string_view id, std::string_view file) { return cat(id, "/", file); }

class StoredSessions final : public SessionStore {
 public:
    explicit StoredSessions(std::unique_ptr<ObjectStore> objects) : objects_(std::move(objects)) {}

    [[nodiscard]] bool is_shared() const override { return objects_->is_shared(); }

    std::vector<SessionHead> list(std::vector<std::string>& refused) override {
        std::vector<SessionHead> all;
        const std::vector<std::string> names = objects_->list();
        const std::set<std::string> there(names.begin(), names.end());
        for (const std::string& name : there) {
            const size_t end = name.find('/');
            const std::string id = name.substr(0, end);
            // One that was never written to its end is none.
            if (end == std::string::npos || !is_id(id) || name.substr(end + 1) != kManifest)
                continue;
            try {
                const auto manifest = manifest_of(id);
                if (!manifest) continue;
                for (const Part& part : parts_of(manifest->json)) {
                    if (!there.contains(in_folder(id, part.file))) corrupt("a segment is missing");
                }
                all.push_back(head_in(id, *manifest));
                know(id, manifest->version);
            } catch (const Error& e) {
                refused.push_back(cat("saved conversation '", id, "': ", e.what()));
            }
        }
        return all;
    }

    void save(const SessionHead& head, const std::string& state) override {
        check(is_id(head.id), "a conversation's id is no name for a folder");
        nlohmann::json manifest = to_json(head);
        std::set<std::string> used;
        const auto add = [&](std::string_view name, std::string_view content) {
            const std::string file = cat(name, "-", digest_of(content), kSegment);
            const std::string at = in_folder(head.id, file);
            used.insert(at);
            manifest["segments"].push_back(
                {{"name", name}, {"file", file}, {"bytes", content.size()}});
            // One by that name has that content, if it is whole.
            if (objects_->size(at) != std::ssize(content)) objects_->write(at, content);
        };
        add("state", state);
        add("tokens", bytes_of(head.tokens));
        add("messages", head.messages);
        add("report", head.report);
        const std::string at = in_folder(head.id, kManifest);
        const std::string before = known(head.id);
        know(head.id, objects_->write(at, json_text(manifest, 1), before));
        used.insert(at);
        for (const std::string& name : objects_->list(head.id)) {
            if (!used.contains(name)) objects_->remove(name);
        }
    }

    std::string part(const std::string& id, std::string_view name) override {
        if (auto state = name == "state" ? take_state(id) : std::nullopt) return *std::move(state);
        const auto manifest = manifest_of(id);
        if (!manifest) throw Error(ErrorCode::kNotFound, "there is no such conversation");
        return segment(id, manifest->json, name);
    }

    void remove(const std::string& id) override {
        if (!is_id(id)) return;
        objects_->remove(in_folder(id, kManifest));  // first: half a conversation is none
        for (const std::string& name : objects_->list(id)) objects_->remove(name);
        const std::scoped_lock guard(mutex_);
        known_.erase(id);
    }

    void look_up(const std::string& id) override {
        const auto manifest = manifest_of(id);
        if (!manifest || manifest->version == known(id)) return;
        Fresh fresh = {.version = manifest->version,
                       .head = head_in(id, *manifest),
                       .state = segment(id, manifest->json, "state")};
        const std::scoped_lock guard(mutex_);
        std::erase_if(fresh_, [&](const Fresh& f) { return f.head.id == id; });
        if (fresh_.size() >= kMostFresh) fresh_.pop_front();
        fresh_.push_back(std::move(fresh));
    }

    std::optional<SessionHead> newer(const std::string& id) override {
        const std::scoped_lock guard(mutex_);
        for (Fresh& f : fresh_) {
            if (f.head.id != id || f.is_taken) continue;
            f.is_taken = true;
            known_[id] = f.version;
            return f.head;
        }
        return std::nullopt;
    }

 private:
    struct Manifest {
        nlohmann::json json;
        std::string version;
    };
    /// What look_up() found, and nobody has gone on with yet.
    struct Fresh {
        std::string version;
        SessionHead head;
        std::string state;
        bool is_taken = false;
    };
    static constexpr size_t kMostFresh = 16;

    [[nodiscard]] std::string known(const std::string& id) {
        const std::scoped_lock guard(mutex_);
        const auto found = known_.find(id);
        return found == known_.end() ? "" : found->second;
    }
    void know(const std::string& id, std::string version) {
        const std::scoped_lock guard(mutex_);
        known_[id] = std::move(version);
    }
    [[nodiscard]] std::optional<std::string> take_state(const std::string& id) {
        const std::scoped_lock guard(mutex_);
        const auto found = std::ranges::find_if(
            fresh_, [&](const Fresh& f) { return f.head.id == id && f.is_taken; });
        if (found == fresh_.end()) return std::nullopt;
        const bool is_newest = known_[id] == found->version;
        std::string state = std::move(found->state);
        fresh_.erase(found);
        if (!is_newest) return std::nullopt;
        return state;
    }

    [[nodiscard]] std::optional<Manifest> manifest_of(const std::string& id) {
        if (!is_id(id)) return std::nullopt;
        auto object = objects_->read(in_folder(id, kManifest));
        if (!object) return std::nullopt;
        return Manifest{.json = parse_json(object->content), .version = std::move(object->version)};
    }

    [[nodiscard]] std::string segment(const std::string& id, const nlohmann::json& manifest,
                                      std::string_view name) {
        for (const Part& part : parts_of(manifest)) {
            if (part.name != name) continue;
            auto object = objects_->read(in_folder(id, part.file));
            if (!object) corrupt(cat("its ", name, " is missing"));
            const std::string& content = object->content;
            const bool is_it = std::ssize(content) == part.bytes &&
                               part.file == cat(name, "-", digest_of(content), kSegment);
            if (!is_it) corrupt(cat("its ", name, " is another's, or damaged"));
            return std::move(object->content);
        }
        corrupt(cat("it has no ", name));
    }

    [[nodiscard]] SessionHead head_in(const std::string& id, const Manifest& manifest) {
        SessionHead head = head_of(manifest.json);
        if (head.id != id) corrupt("it was moved from another place");
        head.tokens = tokens_of(segment(id, manifest.json, "tokens"));
        for (const Part& part : parts_of(manifest.json)) head.bytes += part.bytes;
        return head;
    }

    std::unique_ptr<ObjectStore> objects_;
    std::mutex mutex_;
    std::map<std::string, std::string> known_;  // versions of manifests, as last seen
    std::deque<Fresh> fresh_;
};

}  // namespace

std::unique_ptr<SessionStore> sessions_in(std::unique_ptr<ObjectStore> objects) {
    return std::make_unique<StoredSessions>(std::move(objects));
}

std::unique_ptr<SessionStore> open_sessions(const std::string& where) {
    return sessions_in(where.starts_with("s3://") ? open_bucket(where) : open_object_folder(where));
}

std::string packed(const SessionHead& head, const std::string& state) {
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    SessionHead shown = head;
    shown.owner.clear();  // of a key, whoever gets the file need not know it
    shown.key.clear();
    put_text(out, json_text(to_json(shown)));
    put_all(out, head.tokens);
    put_text(out, head.messages);
    put_text(out, head.report);
    put_text(out, state);
    const std::string content = out.str();
    return cat(kPacked, digest_of(content), "\n", content);
}

SessionHead unpacked(std::string_view file, std::string& state) {
    const size_t n_digest = digest_of("").size();
    if (!file.starts_with(kPacked) || file.size() < kPacked.size() + n_digest + 1) {
        corrupt("this is no exported conversation, or one of another version");
    }
    file.remove_prefix(kPacked.size());
    const std::string_view digest = file.substr(0, n_digest);
    file.remove_prefix(n_digest + 1);
    if (file.data()[-1] != '\n' || digest_of(file) != digest)
        corrupt("the exported conversation is damaged, or cut short");
    std::istringstream in{std::string(file)};
    const auto most = static_cast<int64_t>(file.size());
    const auto text = [&] {
        const std::vector<char> all = take_all<char>(in, most);
        return std::string(all.begin(), all.end());
    };
    const nlohmann::json j = parse_json(text());
    SessionHead head = head_of(j);
    head.tokens = take_all<TokenId>(in, most);
    head.messages = text();
    head.report = text();
    state = text();
    head.bytes = most;
    return head;
}

}  // namespace palimpsest
