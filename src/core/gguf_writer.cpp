#include "core/gguf_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/output_file.h"
#include "core/sha256.h"

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

ggml_type matrix_type(std::string_view name) {
    constexpr auto kTypes = std::to_array<std::pair<std::string_view, ggml_type>>(
        {{"f32", GGML_TYPE_F32}, {"f16", GGML_TYPE_F16}, {"q8_0", GGML_TYPE_Q8_0}});
    for (const auto& [known, type] : kTypes) {
        if (known == name) return type;
    }
    throw Error(ErrorCode::kInvalidArgument, cat("type '", name, "'; there are f32, f16 and q8_0"));
}

ggml_type stored_type(ggml_type type, const Shape& shape) {
    if (shape[1] == 1) return GGML_TYPE_F32;
    return shape[0] % ggml_blck_size(type) == 0 ? type : GGML_TYPE_F16;
}

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

void GgufWriter::set_texts(const std::string& key, const std::vector<std::string>& values) {
    std::vector<const char*> texts;
    for (const std::string& v : values) {
        require(v.find('\0') == std::string::npos, "'", key, "' would be cut at a byte 0 in '", v,
                "'");
        texts.push_back(v.c_str());
    }
    gguf_set_arr_str(keys_.get(), key_name(key), texts.data(), texts.size());
}

void GgufWriter::set_integers(const std::string& key, const std::vector<int32_t>& values) {
    gguf_set_arr_data(keys_.get(), key_name(key), GGUF_TYPE_INT32, values.data(), values.size());
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

void GgufWriter::copy_keys(const GgufFile& from) {
    for (const std::string_view key : from.keys()) {
        const GgufValue& value = *from.find(key);
        const std::string name(key);
        if (key == "general.alignment" || key == "general.file_type") continue;
        if (key.starts_with("split.")) continue;
        if (value.type == GGUF_TYPE_ARRAY && value.element_type == GGUF_TYPE_STRING) {
            const auto texts = *from.texts(key);
            set_texts(name, {texts.begin(), texts.end()});
        } else if (value.type == GGUF_TYPE_STRING) {
            set_text(name, *from.text(key));
        } else {
            set_copy(name, value);
        }
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

void GgufWriter::add_made(const std::string& name, const Shape& shape, ggml_type type,
                          std::function<void(const Put&)> make) {
    check_name(name);
    require(elements(shape) % static_cast<size_t>(ggml_blck_size(type)) == 0 &&
                shape[0] % ggml_blck_size(type) == 0,
            "rows of '", name, "', ", to_string(shape), ", are no whole blocks of ",
            ggml_type_name(type));
    tensors_.push_back({.name = name, .type = type, .shape = shape, .make = std::move(make)});
}

std::string GgufWriter::write(const std::string& path) const {
    const gguf_context_ptr file(made(gguf_init_empty()));
    gguf_set_kv(file.get(), keys_.get());
    const ggml_context_ptr shapes(
        ggml_init({.mem_size = (tensors_.size() + 1) * ggml_tensor_overhead(),
                   .mem_buffer = nullptr,
                   .no_alloc = true}));
    if (shapes == nullptr) throw Error(ErrorCode::kExhausted, "no memory for a GGUF file");
    std::vector<size_t> sizes;
    for (const Entry& e : tensors_) {
        ggml_tensor* t = ggml_new_tensor(shapes.get(), e.type, GGML_MAX_DIMS, e.shape.data());
        sizes.push_back(ggml_nbytes(t));
        check(e.make || sizes.back() == e.data.size(), "a tensor's data have its size");
        ggml_set_name(t, e.name.c_str());
        gguf_add_tensor(file.get(), t);
    }
    std::vector<std::byte> header(gguf_get_meta_size(file.get()));
    gguf_get_meta_data(file.get(), header.data());
    const size_t alignment = gguf_get_alignment(file.get());
    const std::vector<std::byte> zeros(alignment);

    OutputFile out(path);
    Sha256 sum;
    size_t n = 0;
    const Put put = [&](std::span<const std::byte> bytes) {
        out.add(bytes);
        sum.add(bytes);
        n += bytes.size();
    };
    put(header);
    for (size_t i = 0; i < tensors_.size(); ++i) {
        n = 0;
        tensors_[i].make ? tensors_[i].make(put) : put(tensors_[i].data);
        check(n == sizes[i], "what a tensor is made of has its size");
        if (const size_t past = n % alignment; past > 0) {
            put(std::span(zeros).first(alignment - past));
        }
    }
    out.finish();
    return sum.hex();
}

}  // namespace palimpsest
