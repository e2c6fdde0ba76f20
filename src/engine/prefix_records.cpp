#include "engine/prefix_records.h"

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

/// Takes one trace's values apart, by codebook, row and block.
void take_apart(const PrefixLayout& at, std::span<const float> from, int64_t width,
                std::vector<StateRecords>& to, std::vector<float> StateRecords::*part) {
    const int64_t n = std::ssize(from) / (at.n_head * width);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t w = 0; w < at.n_codebooks() * at.rows(); ++w) {
            const int64_t c = w / at.rows();
            std::vector<float>& into = to[static_cast<size_t>(c)].*part;
            for (int64_t b = 0; b < at.blocks(); ++b) {
                const int64_t head = at.head(c, w % at.rows(), b);
                const auto first = from.begin() + (i * at.n_head + head) * width;
                into.insert(into.end(), first, first + width);
            }
        }
    }
}

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
    const auto n = static_cast<size_t>(lengths_[static_cast<size_t>(n_done_)] * shape_.n_head);
    for (int64_t i = 0; i < shape_.n_layer; ++i) {
        const TracedLayer& l = layers[static_cast<size_t>(i)];
        check(l.lse.size() == n, "a trace of the announced length");
        std::ofstream out(file(i), std::ios::binary | std::ios::app);
        write(out, halves(l.keys));
        write(out, halves(l.outputs));
        write(out, l.lse);
        out.close();
        if (!out) throw Error(ErrorCode::kExhausted, cat("'", folder_.string(), "': disk full?"));
    }
    ++n_done_;
}

std::vector<StateRecords> PrefixRecords::read(int64_t layer, const PrefixLayout& at) const {
    std::vector<StateRecords> records(static_cast<size_t>(at.n_codebooks()),
                                      {.n_block = at.blocks(), .d_head = at.d_head});
    std::ifstream in(file(layer), std::ios::binary);
    for (int64_t t = 0; t < n_done_; ++t) {
        const auto rows = static_cast<size_t>(lengths_[static_cast<size_t>(t)] * shape_.n_head);
        const size_t n = rows * static_cast<size_t>(shape_.d_head);
        std::vector<ggml_fp16_t> half(n);
        std::vector<float> values(n);
        for (const auto part : {&StateRecords::keys, &StateRecords::outputs}) {
            read_all(in, half);
            ggml_fp16_to_fp32_row(half.data(), values.data(), static_cast<int64_t>(n));
            take_apart(at, values, at.d_head, records, part);
        }
        std::vector<float> lse(rows);
        read_all(in, lse);
        take_apart(at, lse, 1, records, &StateRecords::lse);
    }
    return records;
}

}  // namespace palimpsest
