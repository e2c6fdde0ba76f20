#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/digest.h"
#include "core/error.h"
#include "core/file_lock.h"
#include "core/sealed_file.h"
#include "memory/binary_stream.h"
#include "server/sessions/session_store.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

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

class SessionFolder final : public SessionStore {
 public:
    explicit SessionFolder(const std::string& path) : root_(path), lock_(path) {}

    std::vector<SessionHead> list(std::vector<std::string>& refused) override {
        const std::scoped_lock guard(mutex_);
        std::vector<SessionHead> all;
        std::error_code error;
        for (const fs::directory_entry& entry : fs::directory_iterator(root_, error)) {
            const std::string id = entry.path().filename().string();
            if (!entry.is_directory(error) || !is_id(id)) continue;
            // One that was never written to its end is none.
            if (!fs::exists(entry.path() / kManifest, error)) continue;
            try {
                all.push_back(read(id));
            } catch (const Error& e) {
                refused.push_back(cat("saved conversation '", id, "': ", e.what()));
            }
        }
        return all;
    }

    void save(const SessionHead& head, const std::string& state) override {
        check(is_id(head.id), "a conversation's id is no name for a folder");
        const std::scoped_lock guard(mutex_);
        const fs::path folder = root_ / head.id;
        std::error_code error;
        fs::create_directories(folder, error);
        nlohmann::json manifest = to_json(head);
        std::set<std::string> used;
        const auto add = [&](std::string_view name, std::string_view content) {
            const std::string file = cat(name, "-", digest_of(content), kSegment);
            used.insert(file);
            manifest["segments"].push_back(
                {{"name", name}, {"file", file}, {"bytes", content.size()}});
            // One by that name has that content, if it is whole.
            const fs::path at = folder / file;
            if (fs::file_size(at, error) == content.size() + 16 && !error) return;
            write_sealed(at.string(), content);
        };
        add("state", state);
        add("tokens", bytes_of(head.tokens));
        add("messages", head.messages);
        add("report", head.report);
        write_sealed((folder / kManifest).string(), json_text(manifest, 1));
        sweep(folder, used);
    }

    std::string part(const std::string& id, std::string_view name) override {
        const std::scoped_lock guard(mutex_);
        return segment(id, manifest(id), name);
    }

    void remove(const std::string& id) override {
        if (!is_id(id)) return;
        const std::scoped_lock guard(mutex_);
        std::error_code error;
        fs::remove(root_ / id / kManifest, error);  // first: half a conversation is none
        fs::remove_all(root_ / id, error);
    }

 private:
    [[nodiscard]] nlohmann::json manifest(const std::string& id) const {
        if (!is_id(id)) throw Error(ErrorCode::kNotFound, "there is no such conversation");
        const auto text = read_sealed((root_ / id / kManifest).string());
        if (!text) throw Error(ErrorCode::kNotFound, "there is no such conversation");
        return parse_json(*text);
    }

    [[nodiscard]] std::string segment(const std::string& id, const nlohmann::json& manifest,
                                      std::string_view name) const {
        for (const Part& part : parts_of(manifest)) {
            if (part.name != name) continue;
            auto text = read_sealed((root_ / id / part.file).string());
            if (!text) corrupt(cat("its ", name, " is missing"));
            if (std::ssize(*text) != part.bytes) corrupt(cat("its ", name, " is another's"));
            return *std::move(text);
        }
        corrupt(cat("it has no ", name));
    }

    [[nodiscard]] SessionHead read(const std::string& id) const {
        const nlohmann::json m = manifest(id);
        SessionHead head = head_of(m);
        if (head.id != id) corrupt("it was moved from another place");
        head.tokens = tokens_of(segment(id, m, "tokens"));
        std::error_code error;
        for (const Part& part : parts_of(m)) {
            head.bytes += part.bytes;
            if (!fs::exists(root_ / id / part.file, error)) corrupt("a segment is missing");
        }
        return head;
    }

    static void sweep(const fs::path& folder, const std::set<std::string>& used) {
        std::error_code error;
        for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
            const std::string name = entry.path().filename().string();
            if (name != kManifest && !used.contains(name)) fs::remove(entry.path(), error);
        }
    }

    fs::path root_;
    FolderLock lock_;
    std::mutex mutex_;
};

}  // namespace

std::unique_ptr<SessionStore> open_session_folder(const std::string& path) {
    return std::make_unique<SessionFolder>(path);
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
