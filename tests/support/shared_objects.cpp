#include "support/shared_objects.h"

#include "core/error.h"

namespace palimpsest::testing {

std::unique_lock<std::mutex> SharedObjects::reach() const {
    std::unique_lock lock(content_->mutex);
    if (content_->is_down) throw Error(ErrorCode::kUnwritable, "the bucket cannot be reached");
    return lock;
}

std::vector<std::string> SharedObjects::list(const std::string& folder) {
    const auto lock = reach();
    std::vector<std::string> names;
    for (const auto& [name, object] : content_->objects) {
        if (folder.empty() || name.starts_with(folder + "/")) names.push_back(name);
    }
    return names;
}

std::optional<ObjectStore::Object> SharedObjects::read(const std::string& name) {
    const auto lock = reach();
    const auto found = content_->objects.find(name);
    if (found == content_->objects.end()) return std::nullopt;
    return found->second;
}

std::optional<int64_t> SharedObjects::size(const std::string& name) {
    const auto object = read(name);
    if (!object) return std::nullopt;
    return std::ssize(object->content);
}

std::string SharedObjects::write(const std::string& name, std::string_view content,
                                 const std::optional<std::string>& replaces) {
    const auto lock = reach();
    Object& object = content_->objects[name];
    if (replaces && object.version != *replaces) throw ObjectConflict("another wrote it");
    object = {.content = std::string(content), .version = cat("v", ++content_->n_writes)};
    return object.version;
}

void SharedObjects::remove(const std::string& name) {
    const auto lock = reach();
    content_->objects.erase(name);
}

}  // namespace palimpsest::testing
