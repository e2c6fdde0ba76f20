#include "compress/convert/safetensors.h"

#include <ggml.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/gguf.h"
#include "text/input_files.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMostHeader = 100'000'000;  // as the format has it
constexpr size_t kMostDimensions = 4;

[[noreturn]] void damaged(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::kCorrupt, cat("'", path, "' ", why));
}

size_t bytes_of(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }

FloatType float_type(const std::string& name, const std::string& tensor, const std::string& path) {
    constexpr std::array<std::pair<std::string_view, FloatType>, 3> kTypes = {
        {{"F32", FloatType::kF32}, {"F16", FloatType::kF16}, {"BF16", FloatType::kBf16}}};
    for (const auto& [known, type] : kTypes) {
        if (known == name) return type;
    }
    throw Error(ErrorCode::kUnsupported, cat("tensor '", tensor, "' of '", path, "' is of type '",
                                             name, "'; F32, F16 and BF16 can be read"));
}

/// The header's JSON, and where the data begin.
std::pair<json, size_t> read_header(const MappedFile& file, const std::string& path) {
    const auto bytes = file.bytes();
    uint64_t n = 0;
    if (bytes.size() < sizeof n) damaged(path, "is too short for a safetensors file");
    std::memcpy(&n, bytes.data(), sizeof n);
    if (n > kMostHeader || n > bytes.size() - sizeof n) {
        damaged(path, cat("says that its header has ", n, " bytes, and it has ", bytes.size()));
    }
    const auto* text = reinterpret_cast<const char*>(bytes.data() + sizeof n);
    json header = parse_json({text, static_cast<size_t>(n)});
    if (!header.is_object()) damaged(path, "has a header that is no JSON object");
    return {std::move(header), sizeof n + static_cast<size_t>(n)};
}

std::vector<int64_t> numbers(const json& list) {
    std::vector<int64_t> all;
    if (!list.is_array()) return {};
    for (const json& n : list) {
        if (!n.is_number_unsigned() || n > uint64_t{1} << 48U) return {-1};
        all.push_back(n.get<int64_t>());
    }
    return all;
}

CheckpointTensor read_tensor(const json& entry, const std::string& name, const std::string& path,
                             std::span<const std::byte> data) {
    const auto refuse = [&](const std::string& why) {
        damaged(path, cat("says of tensor '", name, "' ", why));
    };
    const bool is_whole = entry.is_object() && entry.contains("dtype") &&
                          entry["dtype"].is_string() && entry.contains("shape") &&
                          entry.contains("data_offsets");
    if (!is_whole) refuse("neither type, shape nor place");
    CheckpointTensor t = {.type = float_type(entry["dtype"].get<std::string>(), name, path),
                          .shape = numbers(entry["shape"]),
                          .data = {}};
    const std::vector<int64_t> place = numbers(entry["data_offsets"]);
    const bool has_shape = !t.shape.empty() && t.shape.size() <= kMostDimensions &&
                           std::ranges::all_of(t.shape, [](int64_t d) { return d > 0; });
    if (!has_shape) refuse(cat("that its shape is ", brief_json(entry["shape"])));
    if (place.size() != 2 || place[0] < 0 || place[1] < place[0] || place[1] > std::ssize(data)) {
        refuse(cat("that it lies at ", brief_json(entry["data_offsets"]), " of ", data.size(),
                   " bytes"));
    }
    uint64_t bytes = bytes_of(t.type);
    for (const int64_t d : t.shape) {
        if (bytes > data.size() / static_cast<uint64_t>(d))
            refuse("that it is larger than the file");
        bytes *= static_cast<uint64_t>(d);
    }
    if (bytes != static_cast<uint64_t>(place[1] - place[0])) {
        refuse(cat("that it has ", place[1] - place[0], " bytes; its shape needs ", bytes));
    }
    t.data = data.subspan(static_cast<size_t>(place[0]), static_cast<size_t>(bytes));
    return t;
}

/// The files of an index, each once.
std::set<std::string> files_of(const std::string& index) {
    const json all = read_json_file(index);
    if (!all.is_object() || !all.contains("weight_map") || !all["weight_map"].is_object()) {
        damaged(index, "has no 'weight_map'");
    }
    std::set<std::string> files;
    for (const auto& [tensor, name] : all["weight_map"].items()) {
        // A name, not a way out of the folder.
        const bool is_plain = name.is_string() && fs::path(name.get<std::string>()).filename() ==
                                                      name.get<std::string>();
        if (!is_plain) damaged(index, cat("names ", brief_json(name), " as a file"));
        files.insert(name.get<std::string>());
    }
    if (files.empty()) damaged(index, "names no files");
    return files;
}

}  // namespace

int64_t CheckpointTensor::size() const {
    return std::ssize(data) / static_cast<int64_t>(bytes_of(type));
}

void CheckpointTensor::read(int64_t first, std::span<float> to) const {
    const size_t width = bytes_of(type);
    const auto from = data.subspan(static_cast<size_t>(first) * width, to.size() * width);
    if (type == FloatType::kF32) {
        std::memcpy(to.data(), from.data(), from.size());
        return;
    }
    for (size_t i = 0; i < to.size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, from.data() + i * width, sizeof half);
        to[i] = type == FloatType::kF16 ? ggml_fp16_to_fp32(half)
                                        : std::bit_cast<float>(static_cast<uint32_t>(half) << 16U);
    }
}

Checkpoint::Checkpoint(const std::string& path) : name_(path) { add_file(path); }

Checkpoint::Checkpoint(const std::string& folder, const std::string& name) : name_(folder) {
    const std::string whole = (fs::path(folder) / (name + ".safetensors")).string();
    const std::string index = whole + ".index.json";
    std::error_code error;
    if (fs::exists(whole, error)) {
        add_file(whole);
        return;
    }
    if (!fs::exists(index, error)) {
        throw Error(ErrorCode::kNotFound,
                    cat("'", folder, "' has neither ", name, ".safetensors nor its index"));
    }
    for (const std::string& file : files_of(index)) add_file((fs::path(folder) / file).string());
}

void Checkpoint::add_file(const std::string& path) {
    files_.push_back(std::make_unique<MappedFile>(path));
    const MappedFile& file = *files_.back();
    const auto [header, begin] = read_header(file, path);
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__") continue;
        CheckpointTensor t = read_tensor(entry, name, path, file.bytes().subspan(begin));
        t.file = &file;
        if (!tensors_.emplace(name, std::move(t)).second) {
            damaged(path, cat("has tensor '", name, "', which another file has too"));
        }
    }
}

const CheckpointTensor& Checkpoint::tensor(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    throw Error(ErrorCode::kNotFound, cat("'", name_, "' has no tensor '", name, "'"));
}

}  // namespace palimpsest
