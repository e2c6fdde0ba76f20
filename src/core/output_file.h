#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest {

/// A result on its way to where a user wants it. Everything that the program writes for good goes
/// through here, so that no file is ever lost:
///
/// * A regular file, or one that is yet to be, is written beside its place and takes it in
///   finish(), once everything is on the disk. What stood there survives every failure, and no
///   temporary stays: until then it has no name, where the file system can do that. The mode of
///   what was there goes on; where a link leads there, the link stays.
/// * A device, a pipe and a descriptor of the process (/dev/stdout) are written to as they are.
/// * A folder and a disk are refused.
///
/// Throws kUnwritable, naming the path, for whatever keeps it from being written.
class OutputFile {
 public:
    explicit OutputFile(const std::string& path);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    void add(std::span<const std::byte> bytes);
    void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
    /// Without it, nothing was written.
    void finish();

 private:
    void open_beside(bool is_there);
    void open_unnamed();
    void open_partial();
    void name_partial();
    void take_place();
    void close_now();
    [[nodiscard]] std::string partial_name(int n) const;
    [[noreturn]] void refuse(int error) const;

    std::string name_;     // as the user said it
    std::string path_;     // where links lead
    std::string partial_;  // beside it; empty: it has no name yet
    int fd_ = -1;
    bool is_through_ = false;  // what is written goes straight to `path_`
};

}  // namespace palimpsest
