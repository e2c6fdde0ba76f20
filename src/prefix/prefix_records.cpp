#include "prefix/prefix_records.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPurpose = "purpose";
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
void write(std::ofstream& out, const std::vector<T>& values) {
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(T)));
}

template <typename T>
void read_all(std::ifstream& in, std::vector<T>& values) {
    in.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(T)));
    if (!in) throw Error(ErrorCode::kCorrupt, "the recorded traces end too early");
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
    if (content(folder / kPurpose) != purpose) fs::remove_all(folder, failed);
    fs::create_directories(folder, failed);
    std::ofstream(folder / kPurpose, std::ios::binary) << purpose;
    require(content(folder / kPurpose) == purpose, "cannot write to '", folder.string(), "'");
}

PrefixRecords::PrefixRecords(fs::path folder, const std::string& purpose, const MemoryShape& shape,
                             std::vector<int64_t> lengths)
    : folder_(std::move(folder)), shape_(shape), lengths_(std::move(lengths)) {
    claim_folder(folder_, purpose);
    n_done_ = n_traces();
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        const auto size = fs::exists(file(layer)) ? fs::file_size(file(layer)) : 0;
        while (n_done_ > 0 && bytes(n_done_) > size) --n_done_;
    }
    // A trace that not all layers have is recorded again.
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (!fs::exists(file(layer))) std::ofstream(file(layer), std::ios::binary);
        fs::resize_file(file(layer), bytes(n_done_));
    }
}

fs::path PrefixRecords::file(int64_t layer) const {
    return folder_ / cat("layer_", layer, ".records");
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
        std::ofstream out(file(i), std::ios::binary | std::ios::app);
        write(out, halves(l.keys));
        write(out, halves(l.outputs));
        write(out, l.lse);
        out.close();
        if (!out) throw Error(ErrorCode::kExhausted, cat("'", folder_.string(), "': disk full?"));
    }
    n_begun_ += n;
    if (n_begun_ < length) return;
    ++n_done_;
    n_begun_ = 0;
}

StateRecords PrefixRecords::read(int64_t layer, const PrefixLayout& at, int64_t codebook) const {
    StateRecords records = {.n_block = at.blocks(), .d_head = at.d_head};
    std::ifstream in(file(layer), std::ios::binary);
    std::vector<ggml_fp16_t> half;
    std::vector<float> values;
    const auto read_some = [&](int64_t n_tokens) {
        const auto rows = static_cast<size_t>(n_tokens * shape_.n_head);
        half.resize(rows * static_cast<size_t>(shape_.d_head));
        values.resize(half.size());
        for (const auto part : {&StateRecords::keys, &StateRecords::outputs}) {
            read_all(in, half);
            ggml_fp16_to_fp32_row(half.data(), values.data(), std::ssize(half));
            take_out(at, codebook, values, at.d_head, records.*part);
        }
        values.resize(rows);
        read_all(in, values);
        take_out(at, codebook, values, 1, records.lse);
    };
    for (int64_t t = 0; t < n_done_; ++t) {
        const int64_t length = lengths_[static_cast<size_t>(t)];
        for (int64_t i = 0; i < length; i += kMostAtOnce) read_some(next_of(length - i));
    }
    return records;
}

}  // namespace palimpsest
