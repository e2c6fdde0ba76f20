#include <filesystem>

#include "core/digest.h"
#include "core/file_lock.h"
#include "core/sealed_file.h"
#include "server/sessions/object_store.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

/// One process has it, so nothing changes behind its back: versions are of no use.
class ObjectFolder final : public ObjectStore {
 public:
    explicit ObjectFolder(const std::string& path) : root_(path), lock_(path) {}

    [[nodiscard]] bool is_shared() const override { return false; }

    [[nodiscard]] std::vector<std::string> list(const std::string& folder) override {
        std::vector<std::string> names;
        std::error_code error;
        const auto add = [&](const fs::path& of) {
            for (const fs::directory_entry& file : fs::directory_iterator(of, error)) {
                names.push_back((of.filename() / file.path().filename()).string());
            }
        };
        if (!folder.empty()) {
            add(root_ / folder);
            return names;
        }
        for (const fs::directory_entry& entry : fs::directory_iterator(root_, error)) {
            if (entry.is_directory(error)) add(entry.path());
        }
        return names;
    }

    [[nodiscard]] std::optional<Object> read(const std::string& name) override {
        auto content = read_sealed((root_ / name).string());
        if (!content) return std::nullopt;
        return Object{.content = *std::move(content)};
    }

    [[nodiscard]] std::optional<int64_t> size(const std::string& name) override {
        std::error_code error;
        const auto n = static_cast<int64_t>(fs::file_size(root_ / name, error));
        if (error) return std::nullopt;
        return n - std::ssize(digest_of(""));
    }

    std::string write(const std::string& name, std::string_view content,
                      const std::optional<std::string>& /*replaces*/) override {
        std::error_code error;
        fs::create_directories((root_ / name).parent_path(), error);
        write_sealed((root_ / name).string(), content);
        return "";
    }

    void remove(const std::string& name) override {
        std::error_code error;
        fs::remove(root_ / name, error);
        fs::remove((root_ / name).parent_path(), error);  // if nothing is in it any more
    }

 private:
    fs::path root_;
    FolderLock lock_;
};

}  // namespace

std::unique_ptr<ObjectStore> open_object_folder(const std::string& path) {
    return std::make_unique<ObjectFolder>(path);
}

}  // namespace palimpsest
