#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/sessions/object_store.h"

namespace palimpsest::testing {

/// A bucket in memory, as several servers see it.
struct BucketContent {
    std::mutex mutex;
    std::map<std::string, ObjectStore::Object> objects;
    int n_writes = 0;
    bool is_down = false;
};

class SharedObjects final : public ObjectStore {
 public:
    explicit SharedObjects(std::shared_ptr<BucketContent> content) : content_(std::move(content)) {}

    [[nodiscard]] bool is_shared() const override { return true; }
    [[nodiscard]] std::vector<std::string> list(const std::string& folder) override;
    [[nodiscard]] std::optional<Object> read(const std::string& name) override;
    [[nodiscard]] std::optional<int64_t> size(const std::string& name) override;
    std::string write(const std::string& name, std::string_view content,
                      const std::optional<std::string>& replaces) override;
    void remove(const std::string& name) override;

 private:
    [[nodiscard]] std::unique_lock<std::mutex> reach() const;

    std::shared_ptr<BucketContent> content_;
};

}  // namespace palimpsest::testing
