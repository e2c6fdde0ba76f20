#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// NAME=VALUE settings of a policy, an allocator or a residue, as a user wrote them.
using OptionMap = std::map<std::string, std::string, std::less<>>;

/// "window=32" into its parts. Throws kInvalidArgument if there is no '='.
void add_option(OptionMap& options, std::string_view text);

/// Hands settings to the part they are meant for, and refuses what that part does not know.
class OptionReader {
 public:
    /// `owner` is who they are for, e.g. "policy 'snap-kv'". Both must outlive the reader.
    OptionReader(std::string owner, const OptionMap& options)
        : owner_(std::move(owner)), options_(options) {}

    /// Throw kInvalidArgument for a value that is no number or outside [least, most].
    int64_t integer(std::string_view name, int64_t standard, int64_t least, int64_t most);
    double number(std::string_view name, double standard, double least, double most);
    std::string text(std::string_view name, std::string_view standard);

    /// Throws kInvalidArgument, listing the names there are, if a setting was not asked for.
    void finish() const;

 private:
    const std::string* find(std::string_view name);
    [[noreturn]] void refuse(std::string_view name, const std::string& value,
                             const std::string& wanted) const;

    std::string owner_;
    const OptionMap& options_;
    std::vector<std::string> known_;
};

/// The name in `names` nearest to `name` by edits, for "did you mean"; empty if none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string_view>& names);

/// "no policy is called 'snapkv'; did you mean 'snap-kv'? There are: ..."
std::string unknown_name(std::string_view kind, std::string_view name,
                         const std::vector<std::string_view>& names);

}  // namespace palimpsest
