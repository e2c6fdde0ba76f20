#include "prefix/prefix_records.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "core/append_file.h"
#include "core/error.h"
#include "core/file_lock.h"
#include "core/whole_file.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPurpose = "purpose";
constexpr size_t kSumBytes = 17;    // digits and a line break
constexpr float kMostHalf = 65504;  // the largest f16

std::string content(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

std::vector<ggml_fp16_t> halves(std::span<const float> values) {
    std::vector<ggml_fp16_t> out(values.size());
    for (const float x : values) {
        // Not a number fails this too.
        if (!(std::abs(x) <= kMostHalf)) {
            throw Error(ErrorCode::kUnsupported, cat("an attention state has the value ", x,
                                                     ", which records (f16) cannot hold"));
        }
    }
    ggml_fp32_to_fp16_row(values.data(), out.data(), std::ssize(values));
    return out;
}

template <typename T>
std::string_view bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// A layer's records, read from the front.
class RecordsReader {
 public:
    explicit RecordsReader(const fs::path& path) : path_(path), in_(path, std::ios::binary) {}

    template <typename T>
    void read(std::vector<T>& values) {
        in_.read(reinterpret_cast<char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * sizeof(T)));
        if (in_) return;
        throw Error(ErrorCode::kCorrupt,
                    cat("'", path_.string(), "' ends too early; the same command makes it anew"));
    }

 private:
    fs::path path_;
    std::ifstream in_;
};

/// Names of what builds leave in a folder.
bool is_ours(const std::string& name) {
    for (const std::string_view begins :
         {"purpose", "records", "piece_", "weights_by_", "layer_", "mean_", "books_"}) {
        if (name.starts_with(begins)) return true;
    }
    return name.starts_with(".palimpsest-");
}

/// A folder that a user named by mistake must not lose what is in it.
void require_ours(const fs::path& folder) {
    std::error_code failed;
    if (fs::exists(folder / kPurpose, failed)) return;
    for (const auto& entry : fs::directory_iterator(folder, failed)) {
        const std::string name = entry.path().filename().string();
        require(is_ours(name), "'", folder.string(), "' holds '", name,
                "', which is no work of a build; what is in a work folder is removed, so name ",
                "another one, or an empty one");
    }
}

void clear(const fs::path& folder) {
    std::error_code failed;
    // One by one: the folder itself may be locked, by us.
    for (const auto& entry : fs::directory_iterator(folder, failed)) {
        fs::remove_all(entry.path(), failed);
    }
}

/// Of some tokens' values those of one codebook, by row and block.
void take_out(const PrefixLayout& at, int64_t codebook, std::span<const float> from, int64_t width,
              std::vector<float>& to) {
    const int64_t n = std::ssize(from) / (at.n_head * width);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t row = 0; row < at.rows(); ++row) {
            for (int64_t b = 0; b < at.blocks(); ++b) {
                const int64_t head = at.head(codebook, row, b);
                const auto first = from.begin() + (i * at.n_head + head) * width;
                to.insert(to.end(), first, first + width);
            }
        }
    }
}

/// The next tokens of a trace of which `n_left` are not recorded.
int64_t next_of(int64_t n_left) { return std::min(n_left, PrefixRecords::kMostAtOnce); }

}  // namespace

void claim_folder(const fs::path& folder, const std::string& purpose) {
    std::error_code failed;
    fs::create_directories(folder, failed);
    if (content(folder / kPurpose) == purpose) return;
    require_ours(folder);
    clear(folder);
    write_whole_file((folder / kPurpose).string(), purpose);
}

void forget_folder(const fs::path& folder) {
    std::error_code failed;
    if (!fs::exists(folder / kPurpose, failed)) {
        if (fs::is_empty(folder, failed) && !failed) fs::remove(folder, failed);
        return;
    }
    try {
        const FolderLock lock(folder.string());
        fs::remove_all(folder, failed);
    } catch (const Error&) {
        return;  // somebody else's now
    }
}

PrefixRecords::PrefixRecords(fs::path folder, const std::string& purpose, const MemoryShape& shape,
                             std::vector<int64_t> lengths, const OnNote& note)
    : folder_(std::move(folder)),
      shape_(shape),
      lengths_(std::move(lengths)),
      begun_(static_cast<size_t>(shape.n_layer)) {
    claim_folder(folder_, purpose);
    n_done_ = n_traces();
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        n_done_ = std::min(n_done_, n_whole(layer));
    }
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        const int64_t n = n_unchanged(layer, n_done_);
        if (n < n_done_ && note) {
            note(cat("'", file(layer).string(), "' is damaged from trace ", n + 1,
                     " on; what traces see is recorded again from there"));
        }
        n_done_ = n;
    }
    // A trace that not all layers have is recorded again.
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        AppendFile(file(layer).string()).cut(bytes(n_done_));
        AppendFile(sums(layer).string()).cut(static_cast<size_t>(n_done_) * kSumBytes);
    }
}

/// Traces whose records and check sums a layer has, by the sizes of its files.
int64_t PrefixRecords::n_whole(int64_t layer) const {
    const auto size_of = [](const fs::path& path) {
        std::error_code error;
        const std::uintmax_t size = fs::file_size(path, error);
        return error ? size_t{0} : static_cast<size_t>(size);
    };
    const size_t size = size_of(file(layer));
    int64_t n = std::min(n_traces(), static_cast<int64_t>(size_of(sums(layer)) / kSumBytes));
    while (n > 0 && bytes(n) > size) --n;
    return n;
}

/// Of a layer's first traces, those before the first one that is not as it was written.
int64_t PrefixRecords::n_unchanged(int64_t layer, int64_t n_traces) const {
    const std::string sums_there = content(sums(layer));
    RecordsReader in(file(layer));
    std::vector<ggml_fp16_t> half;
    std::vector<float> lse;
    for (int64_t t = 0; t < n_traces; ++t) {
        Digest sum;
        const int64_t length = lengths_[static_cast<size_t>(t)];
        for (int64_t i = 0; i < length; i += kMostAtOnce) {
            lse.resize(static_cast<size_t>(next_of(length - i) * shape_.n_head));
            half.resize(lse.size() * static_cast<size_t>(shape_.d_head));
            for (int part = 0; part < 2; ++part) {  // keys, outputs
                in.read(half);
                sum.add(bytes_of(half));
            }
            in.read(lse);
            sum.add(bytes_of(lse));
        }
        const size_t at = static_cast<size_t>(t) * kSumBytes;
        if (sums_there.substr(at, kSumBytes) != sum.hex() + "\n") return t;
    }
    return n_traces;
}

fs::path PrefixRecords::file(int64_t layer) const {
    return folder_ / cat("layer_", layer, ".records");
}

fs::path PrefixRecords::sums(int64_t layer) const {
    return folder_ / cat("layer_", layer, ".sums");
}

size_t PrefixRecords::bytes(int64_t n_traces) const {
    int64_t tokens = 0;
    for (int64_t i = 0; i < n_traces; ++i) tokens += lengths_[static_cast<size_t>(i)];
    const auto a_token =
        static_cast<size_t>(shape_.n_head) *
        (2 * static_cast<size_t>(shape_.d_head) * sizeof(ggml_fp16_t) + sizeof(float));
    return static_cast<size_t>(tokens) * a_token;
}

void PrefixRecords::add(std::span<const TracedLayer> layers) {
    check(n_done_ < n_traces() && std::ssize(layers) == shape_.n_layer, "an announced trace");
    const int64_t length = lengths_[static_cast<size_t>(n_done_)];
    const int64_t n = next_of(length - n_begun_);
    for (int64_t i = 0; i < shape_.n_layer; ++i) {
        const TracedLayer& l = layers[static_cast<size_t>(i)];
        check(std::ssize(l.lse) == n * shape_.n_head, "as many tokens as were announced");
        add(i, l);
    }
    n_begun_ += n;
    if (n_begun_ < length) return;
    for (int64_t i = 0; i < shape_.n_layer; ++i) {
        Digest& sum = begun_[static_cast<size_t>(i)];
        AppendFile(sums(i).string()).add(sum.hex() + "\n");
        sum = {};
    }
    ++n_done_;
    n_begun_ = 0;
}

void PrefixRecords::add(int64_t layer, const TracedLayer& of) {
    const std::vector<ggml_fp16_t> keys = halves(of.keys);
    const std::vector<ggml_fp16_t> outputs = halves(of.outputs);
    AppendFile out(file(layer).string());
    for (const std::string_view bytes : {bytes_of(keys), bytes_of(outputs), bytes_of(of.lse)}) {
        out.add(bytes);
        begun_[static_cast<size_t>(layer)].add(bytes);
    }
}

StateRecords PrefixRecords::read(int64_t layer, const PrefixLayout& at, int64_t codebook) const {
    StateRecords records = {.n_block = at.blocks(), .d_head = at.d_head};
    RecordsReader in(file(layer));
    std::vector<ggml_fp16_t> half;
    std::vector<float> values;
    const auto read_some = [&](int64_t n_tokens) {
        const auto rows = static_cast<size_t>(n_tokens * shape_.n_head);
        half.resize(rows * static_cast<size_t>(shape_.d_head));
        values.resize(half.size());
        for (const auto part : {&StateRecords::keys, &StateRecords::outputs}) {
            in.read(half);
            ggml_fp16_to_fp32_row(half.data(), values.data(), std::ssize(half));
            take_out(at, codebook, values, at.d_head, records.*part);
        }
        values.resize(rows);
        in.read(values);
        take_out(at, codebook, values, 1, records.lse);
    };
    for (int64_t t = 0; t < n_done_; ++t) {
        const int64_t length = lengths_[static_cast<size_t>(t)];
        for (int64_t i = 0; i < length; i += kMostAtOnce) read_some(next_of(length - i));
    }
    return records;
}

}  // namespace palimpsest
