#include "core/gguf_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/whole_file.h"

namespace palimpsest {

namespace {

gguf_context* made(gguf_context* context) {
    if (context == nullptr) throw Error(ErrorCode::kExhausted, "no memory for a GGUF file");
    return context;
}

const char* key_name(const std::string& key) {
    require(!key.empty() && key.find('\0') == std::string::npos, "a key of a GGUF file has a name");
    return key.c_str();
}

size_t elements(const Shape& shape) {
    size_t n = 1;
    for (const int64_t d : shape) {
        require(d > 0, "a tensor of shape ", to_string(shape));
        n *= static_cast<size_t>(d);
    }
    return n;
}

}  // namespace

GgufWriter::GgufWriter() : keys_(made(gguf_init_empty())) {}

void GgufWriter::set_text(const std::string& key, std::string_view value) {
    require(value.find('\0') == std::string_view::npos, "'", key,
            "' would be cut at a byte 0 that is in it");
    gguf_set_val_str(keys_.get(), key_name(key), std::string(value).c_str());
}
void GgufWriter::set_integer(const std::string& key, int64_t value) {
    gguf_set_val_i64(keys_.get(), key_name(key), value);
}
void GgufWriter::set_count(const std::string& key, uint32_t value) {
    gguf_set_val_u32(keys_.get(), key_name(key), value);
}
void GgufWriter::set_number(const std::string& key, float value) {
    gguf_set_val_f32(keys_.get(), key_name(key), value);
}
void GgufWriter::set_boolean(const std::string& key, bool value) {
    gguf_set_val_bool(keys_.get(), key_name(key), value);
}

void GgufWriter::set_copy(const std::string& key, const GgufValue& value) {
    const auto read = [&]<typename T>(T to) {
        check(value.bytes.size() >= sizeof to, "a checked value has all its bytes");
        std::memcpy(&to, value.bytes.data(), sizeof to);
        return to;
    };
    gguf_context* k = keys_.get();
    const char* name = key_name(key);
    switch (value.type) {
        case GGUF_TYPE_UINT8:
            return gguf_set_val_u8(k, name, read(uint8_t{}));
        case GGUF_TYPE_INT8:
            return gguf_set_val_i8(k, name, read(int8_t{}));
        case GGUF_TYPE_UINT16:
            return gguf_set_val_u16(k, name, read(uint16_t{}));
        case GGUF_TYPE_INT16:
            return gguf_set_val_i16(k, name, read(int16_t{}));
        case GGUF_TYPE_UINT32:
            return gguf_set_val_u32(k, name, read(uint32_t{}));
        case GGUF_TYPE_INT32:
            return gguf_set_val_i32(k, name, read(int32_t{}));
        case GGUF_TYPE_FLOAT32:
            return gguf_set_val_f32(k, name, read(float{}));
        case GGUF_TYPE_BOOL:
            return gguf_set_val_bool(k, name, read(uint8_t{}) != 0);
        case GGUF_TYPE_UINT64:
            return gguf_set_val_u64(k, name, read(uint64_t{}));
        case GGUF_TYPE_INT64:
            return gguf_set_val_i64(k, name, read(int64_t{}));
        case GGUF_TYPE_FLOAT64:
            return gguf_set_val_f64(k, name, read(double{}));
        case GGUF_TYPE_ARRAY:
            if (value.element_type == GGUF_TYPE_STRING || value.element_type == GGUF_TYPE_ARRAY) {
                throw Error(ErrorCode::kUnsupported,
                            cat("copying the key '", key, "', an array of texts or arrays"));
            }
            return gguf_set_arr_data(k, name, value.element_type, value.bytes.data(), value.count);
        default:
            throw Error(ErrorCode::kUnsupported, cat("copying the key '", key, "'"));
    }
}

void GgufWriter::check_name(const std::string& name) const {
    require(!name.empty() && name.size() < GGML_MAX_NAME, "a tensor's name has 1 to ",
            GGML_MAX_NAME - 1, " bytes; this one is '", name, "'");
    require(std::ranges::none_of(tensors_, [&](const Entry& e) { return e.name == name; }),
            "two tensors named '", name, "'");
}

void GgufWriter::add(const std::string& name, const Shape& shape, std::span<const float> values,
                     ggml_type type) {
    check_name(name);
    require(elements(shape) == values.size(), values.size(), " values for '", name, "' of shape ",
            to_string(shape));
    if (type != GGML_TYPE_F32 && type != GGML_TYPE_F16) {
        throw Error(ErrorCode::kUnsupported, cat("writing '", name, "' as ", ggml_type_name(type)));
    }
    Entry e = {.name = name, .type = type, .shape = shape, .data = {}};
    const bool is_f32 = type == GGML_TYPE_F32;
    e.data.resize(values.size() * (is_f32 ? sizeof(float) : sizeof(ggml_fp16_t)));
    for (size_t i = 0; i < values.size(); ++i) {
        const ggml_fp16_t half = ggml_fp32_to_fp16(values[i]);
        require(std::isfinite(is_f32 ? values[i] : ggml_fp16_to_fp32(half)), "number ", i, " of '",
                name, "' is ", values[i]);
        if (is_f32) {
            std::memcpy(e.data.data() + i * sizeof(float), &values[i], sizeof(float));
        } else {
            std::memcpy(e.data.data() + i * sizeof half, &half, sizeof half);
        }
    }
    tensors_.push_back(std::move(e));
}

void GgufWriter::add_copy(const GgufTensor& tensor) {
    const std::string name(tensor.name);
    check_name(name);
    tensors_.push_back({.name = name,
                        .type = tensor.type,
                        .shape = tensor.shape,
                        .data = {tensor.data.begin(), tensor.data.end()}});
}

void GgufWriter::write(const std::string& path) const {
    const gguf_context_ptr file(made(gguf_init_empty()));
    gguf_set_kv(file.get(), keys_.get());
    const ggml_context_ptr shapes(
        ggml_init({.mem_size = (tensors_.size() + 1) * ggml_tensor_overhead(),
                   .mem_buffer = nullptr,
                   .no_alloc = true}));
    if (shapes == nullptr) throw Error(ErrorCode::kExhausted, "no memory for a GGUF file");
    for (const Entry& e : tensors_) {
        ggml_tensor* t = ggml_new_tensor(shapes.get(), e.type, GGML_MAX_DIMS, e.shape.data());
        check(ggml_nbytes(t) == e.data.size(), "a tensor's data have its size");
        ggml_set_name(t, e.name.c_str());
        gguf_add_tensor(file.get(), t);
    }
    std::vector<std::byte> header(gguf_get_meta_size(file.get()));
    gguf_get_meta_data(file.get(), header.data());
    const size_t alignment = gguf_get_alignment(file.get());
    const std::vector<std::byte> zeros(alignment);
    std::vector<std::span<const std::byte>> parts = {header};
    for (const Entry& e : tensors_) {
        parts.emplace_back(e.data);
        const size_t past = e.data.size() % alignment;
        if (past > 0) parts.push_back(std::span(zeros).first(alignment - past));
    }
    write_whole_file(path, parts);
}

}  // namespace palimpsest
