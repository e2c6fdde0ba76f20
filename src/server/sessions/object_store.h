#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// Something else stands where an object was to be written.
class ObjectConflict : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

/// Byte strings by name: what sessions are made of. Names are paths of two parts, "folder/file".
/// Thread-safe. Whatever cannot be reached or written: Error, kUnwritable.
class ObjectStore {
 public:
    struct Object {
        std::string content = {};
        std::string version = {};
    };

    ObjectStore() = default;
    virtual ~ObjectStore() = default;
    ObjectStore(const ObjectStore&) = delete;
    ObjectStore& operator=(const ObjectStore&) = delete;

    /// May other processes write to it meanwhile?
    [[nodiscard]] virtual bool is_shared() const = 0;
    /// Names, of a folder or of all.
    [[nodiscard]] virtual std::vector<std::string> list(const std::string& folder = {}) = 0;
    /// nullopt: it is not there. Throws kCorrupt if it is damaged.
    [[nodiscard]] virtual std::optional<Object> read(const std::string& name) = 0;
    /// Of the content, looking no further; nullopt: it is not there.
    [[nodiscard]] virtual std::optional<int64_t> size(const std::string& name) = 0;
    /// Whole or not at all, in place of what was there, and returns its version. `replaces`: only
    /// in place of that version, or of nothing if it is empty; else throws ObjectConflict.
    virtual std::string write(const std::string& name, std::string_view content,
                              const std::optional<std::string>& replaces = {}) = 0;
    /// What is not there is removed already.
    virtual void remove(const std::string& name) = 0;
};

/// A folder, which is locked: throws kInvalidArgument while another process has it. Every file ends
/// with a check sum.
[[nodiscard]] std::unique_ptr<ObjectStore> open_object_folder(const std::string& path);

/// "s3://BUCKET/PREFIX", by the interface of S3. Keys, region and address are in the environment:
/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL.
/// Throws kInvalidArgument if they are not, or the address is none.
[[nodiscard]] std::unique_ptr<ObjectStore> open_bucket(const std::string& address);

}  // namespace palimpsest
