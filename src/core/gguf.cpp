#include "core/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/gguf_split.h"

namespace palimpsest {

namespace {

constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 16;

static_assert(std::endian::native == std::endian::little, "GGUF is read in place, little-endian");

[[noreturn]] void corrupt(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, "not a valid GGUF file: " + what);
}

/// Bytes of one scalar; 0 for strings, arrays and unknown types.
size_t scalar_bytes(gguf_type type) {
    switch (type) {
        case GGUF_TYPE_UINT8:
        case GGUF_TYPE_INT8:
        case GGUF_TYPE_BOOL:
            return 1;
        case GGUF_TYPE_UINT16:
        case GGUF_TYPE_INT16:
            return 2;
        case GGUF_TYPE_UINT32:
        case GGUF_TYPE_INT32:
        case GGUF_TYPE_FLOAT32:
            return 4;
        case GGUF_TYPE_UINT64:
        case GGUF_TYPE_INT64:
        case GGUF_TYPE_FLOAT64:
            return 8;
        default:
            return 0;
    }
}

template <typename T>
T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

/// A place in the file that only moves forward and never past the end.
class Cursor {
 public:
    explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] size_t position() const { return at_; }
    [[nodiscard]] uint64_t left() const { return bytes_.size() - at_; }

    std::span<const std::byte> take(uint64_t n, std::string_view what) {
        if (n > left()) {
            corrupt(cat(what, " needs ", n, " bytes at offset ", at_, ", the file has ", left(),
                        " left"));
        }
        const auto part = bytes_.subspan(at_, static_cast<size_t>(n));
        at_ += static_cast<size_t>(n);
        return part;
    }

    template <typename T>
    T scalar(std::string_view what) {
        return load<T>(take(sizeof(T), what).data());
    }

    std::string_view string(std::string_view what) {
        const auto n = scalar<uint64_t>(what);
        const auto part = take(n, what);
        return {reinterpret_cast<const char*>(part.data()), part.size()};
    }

    /// A count of things that take at least `least_bytes` each.
    uint64_t count(uint64_t least_bytes, std::string_view what) {
        const auto n = scalar<uint64_t>(what);
        if (n > left() / least_bytes) {
            corrupt(cat("it claims ", n, " ", what, ", too many for its size"));
        }
        return n;
    }

 private:
    std::span<const std::byte> bytes_;
    size_t at_ = 0;
};

void check_header(Cursor& in) {
    const auto magic = in.take(4, "the magic");
    if (std::memcmp(magic.data(), GGUF_MAGIC, 4) != 0) {
        corrupt("it does not start with 'GGUF'");
    }
    const auto version = in.scalar<uint32_t>("the version");
    if (version == 2 || version == 3) return;
    throw Error(ErrorCode::kUnsupported,
                (version & 0xFFFFU) == 0 && version != 0
                    ? std::string("GGUF file is big-endian; only little-endian ones are read")
                    : cat("GGUF version ", version, "; only 2 and 3 are read"));
}

/// A value's type. The number is checked first: an enumerator that is none must not exist.
gguf_type read_type(Cursor& in, std::string_view key) {
    const auto type = in.scalar<uint32_t>(key);
    if (type >= GGUF_TYPE_COUNT) corrupt(cat("key '", key, "' has value type ", type));
    return static_cast<gguf_type>(type);
}

GgufValue read_value(Cursor& in, std::string_view key) {
    GgufValue value;
    value.type = read_type(in, key);
    if (value.type == GGUF_TYPE_ARRAY) {
        value.element_type = read_type(in, key);
        const size_t size = scalar_bytes(value.element_type);
        if (size == 0 && value.element_type != GGUF_TYPE_STRING) {
            corrupt(cat("array '", key, "' has element type ", value.element_type));
        }
        value.count = in.count(size == 0 ? sizeof(uint64_t) : size, cat("elements of '", key, "'"));
        if (size != 0) {
            value.bytes = in.take(value.count * size, key);
            return value;
        }
        Cursor begin = in;
        for (uint64_t i = 0; i < value.count; ++i) in.string(key);
        value.bytes = begin.take(in.position() - begin.position(), key);
        return value;
    }
    if (value.type == GGUF_TYPE_STRING) {
        const std::string_view s = in.string(key);
        value.bytes = std::as_bytes(std::span(s));
        return value;
    }
    value.bytes = in.take(scalar_bytes(value.type), key);
    return value;
}

/// Multiplies, or throws if the product leaves the positive range of int64_t.
int64_t checked_product(int64_t a, int64_t b, std::string_view name) {
    int64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) {
        corrupt(cat("tensor '", name, "' has more elements than can be counted"));
    }
    return product;
}

struct TensorEntry {
    GgufTensor tensor;
    uint64_t offset = 0;
    uint64_t size = 0;
};

void check_type(TensorEntry& entry, uint32_t type) {
    const GgufTensor& t = entry.tensor;
    if (type >= GGML_TYPE_COUNT || ggml_blck_size(static_cast<ggml_type>(type)) <= 0 ||
        ggml_type_size(static_cast<ggml_type>(type)) == 0) {
        throw Error(ErrorCode::kUnsupported, cat("tensor '", t.name, "' has type number ", type,
                                                 ", which this build of ggml does not know"));
    }
    entry.tensor.type = static_cast<ggml_type>(type);
    const int64_t block = ggml_blck_size(t.type);
    if (t.shape[0] % block != 0) {
        corrupt(cat("tensor '", t.name, "' has rows of ", t.shape[0], " values, not a multiple of ",
                    ggml_type_name(t.type), "'s block of ", block));
    }
    int64_t elements = 1;
    for (const int64_t n : t.shape) elements = checked_product(elements, n, t.name);
    entry.size = static_cast<uint64_t>(
        checked_product(elements / block, static_cast<int64_t>(ggml_type_size(t.type)), t.name));
}

TensorEntry read_tensor(Cursor& in) {
    TensorEntry entry;
    GgufTensor& t = entry.tensor;
    t.name = in.string("a tensor's name");
    if (t.name.empty() || t.name.size() >= GGML_MAX_NAME) {
        corrupt(cat("a tensor's name has ", t.name.size(), " bytes; 1 to ", GGML_MAX_NAME - 1,
                    " are allowed"));
    }
    const auto n_dims = in.scalar<uint32_t>(t.name);
    if (n_dims == 0 || n_dims > t.shape.size()) {
        corrupt(cat("tensor '", t.name, "' has ", n_dims, " dimensions; 1 to 4 are allowed"));
    }
    for (uint32_t i = 0; i < n_dims; ++i) {
        const auto n = in.scalar<uint64_t>(t.name);
        if (n == 0 || n > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
            corrupt(cat("tensor '", t.name, "' has ", n, " as dimension ", i));
        }
        t.shape.at(i) = static_cast<int64_t>(n);
    }
    check_type(entry, in.scalar<uint32_t>(t.name));
    entry.offset = in.scalar<uint64_t>(t.name);
    return entry;
}

uint64_t alignment_of(const GgufFile& file) {
    const GgufValue* value = file.find(GGUF_KEY_GENERAL_ALIGNMENT);
    if (value == nullptr) return kDefaultAlignment;
    const auto n = file.integer(GGUF_KEY_GENERAL_ALIGNMENT);
    if (!n || *n < 1 || static_cast<uint64_t>(*n) > kMaxAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(*n))) {
        corrupt(cat("alignment ", n.value_or(0), " is not a power of two up to ", kMaxAlignment));
    }
    return static_cast<uint64_t>(*n);
}

/// Points every tensor at its bytes; refuses what lies outside, off alignment or on another's
/// bytes.
void place(std::vector<TensorEntry>& entries, std::span<const std::byte> data, uint64_t alignment) {
    for (TensorEntry& e : entries) {
        if (e.offset % alignment != 0) {
            corrupt(cat("tensor '", e.tensor.name, "' is at offset ", e.offset,
                        ", not a multiple of the alignment ", alignment));
        }
        if (e.offset > data.size() || e.size > data.size() - e.offset) {
            corrupt(cat("tensor '", e.tensor.name, "' ends at byte ", e.offset, " + ", e.size,
                        " of the data, which has ", data.size(), " (is the file truncated?)"));
        }
        e.tensor.data = data.subspan(static_cast<size_t>(e.offset), static_cast<size_t>(e.size));
    }
    std::vector<const TensorEntry*> sorted;
    sorted.reserve(entries.size());
    for (const TensorEntry& e : entries) sorted.push_back(&e);
    std::ranges::sort(sorted, {}, [](const TensorEntry* e) { return e->offset; });
    for (size_t i = 1; i < sorted.size(); ++i) {
        if (sorted[i - 1]->offset + sorted[i - 1]->size > sorted[i]->offset) {
            corrupt(cat("tensors '", sorted[i - 1]->tensor.name, "' and '", sorted[i]->tensor.name,
                        "' overlap"));
        }
    }
}

[[noreturn]] void wrong_type(std::string_view key, std::string_view expected) {
    corrupt(cat("key '", key, "' is not ", expected));
}

int64_t integer_at(const std::byte* at, gguf_type type, std::string_view key) {
    switch (type) {
        case GGUF_TYPE_UINT8:
            return load<uint8_t>(at);
        case GGUF_TYPE_INT8:
            return load<int8_t>(at);
        case GGUF_TYPE_UINT16:
            return load<uint16_t>(at);
        case GGUF_TYPE_INT16:
            return load<int16_t>(at);
        case GGUF_TYPE_UINT32:
            return load<uint32_t>(at);
        case GGUF_TYPE_INT32:
            return load<int32_t>(at);
        case GGUF_TYPE_INT64:
            return load<int64_t>(at);
        case GGUF_TYPE_UINT64: {
            const auto v = load<uint64_t>(at);
            if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
                wrong_type(key, "a number below 2^63");
            }
            return static_cast<int64_t>(v);
        }
        case GGUF_TYPE_BOOL:
            return load<uint8_t>(at) != 0 ? 1 : 0;
        default:
            wrong_type(key, "a whole number");
    }
}

double number_at(const std::byte* at, gguf_type type, std::string_view key) {
    if (type == GGUF_TYPE_FLOAT32) return static_cast<double>(load<float>(at));
    if (type == GGUF_TYPE_FLOAT64) return load<double>(at);
    return static_cast<double>(integer_at(at, type, key));
}

}  // namespace

std::string to_string(const Shape& shape) {
    size_t n = shape.size();
    while (n > 1 && shape.at(n - 1) == 1) --n;
    std::string out = "[";
    for (size_t i = 0; i < n; ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape.at(i));
    return out + "]";
}

namespace {

/// Says of which file an error is.
template <typename Work>
auto in_file(const std::string& path, const Work& work) {
    try {
        return work();
    } catch (const Error& e) {
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
}

}  // namespace

GgufFile GgufFile::open_alone(const std::string& path) {
    MappedFile file(path);
    const auto bytes = file.bytes();
    return in_file(path, [&] { return GgufFile(bytes, std::move(file)); });
}

GgufFile GgufFile::open(const std::string& path) {
    GgufFile file = open_alone(path);
    const std::vector<std::string> names = in_file(path, [&] { return other_parts(file, path); });
    if (names.empty()) return file;
    const int64_t n = std::ssize(names) + 1;
    for (int64_t i = 1; i < n; ++i) {
        const std::string& name = names[static_cast<size_t>(i - 1)];
        GgufFile part = open_alone(name);
        in_file(name, [&] {
            check_part(part, i, n);
            file.take_over(std::move(part));
        });
    }
    return file;
}

void GgufFile::take_over(GgufFile part) {
    for (const GgufTensor& t : part.tensors_) add_tensor(t);
    other_parts_.push_back(std::move(*part.file_));
}

void GgufFile::add_tensor(const GgufTensor& tensor) {
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
        corrupt(cat("tensor '", tensor.name, "' appears twice"));
    }
    tensors_.push_back(tensor);
}

std::vector<const MappedFile*> GgufFile::mappings() const {
    std::vector<const MappedFile*> all;
    if (file_) all.push_back(&*file_);
    for (const MappedFile& part : other_parts_) all.push_back(&part);
    return all;
}

size_t GgufFile::total_bytes() const {
    size_t n = bytes_.size();
    for (const MappedFile& part : other_parts_) n += part.bytes().size();
    return n;
}

GgufFile::GgufFile(std::span<const std::byte> bytes) : GgufFile(bytes, std::nullopt) {}

GgufFile::GgufFile(std::span<const std::byte> bytes, std::optional<MappedFile> file)
    : file_(std::move(file)), bytes_(bytes) {
    Cursor in(bytes_);
    check_header(in);
    // A tensor takes at least a name length, a byte of name, one dimension, type and offset;
    // a key at least its length, a byte, a type and a byte of value.
    const auto n_tensors = in.count(8 + 1 + 4 + 8 + 4 + 8, "tensors");
    const auto n_keys = in.count(8 + 1 + 4 + 1, "keys");
    for (uint64_t i = 0; i < n_keys; ++i) {
        const std::string_view key = in.string("a key");
        if (key.empty() || key.size() > kMaxKeyBytes) {
            corrupt(cat("a key has ", key.size(), " bytes; 1 to ", kMaxKeyBytes, " are allowed"));
        }
        if (!values_.emplace(key, read_value(in, key)).second) {
            corrupt(cat("key '", key, "' appears twice"));
        }
    }
    std::vector<TensorEntry> entries;
    entries.reserve(static_cast<size_t>(n_tensors));
    for (uint64_t i = 0; i < n_tensors; ++i) entries.push_back(read_tensor(in));

    const uint64_t alignment = alignment_of(*this);
    const uint64_t start =
        std::min<uint64_t>((in.position() + alignment - 1) / alignment * alignment, bytes_.size());
    place(entries, bytes_.subspan(static_cast<size_t>(start)), alignment);
    tensors_.reserve(entries.size());
    for (const TensorEntry& e : entries) add_tensor(e.tensor);
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
    const auto it = tensor_index_.find(name);
    return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

std::vector<std::string_view> GgufFile::keys() const {
    std::vector<std::string_view> names;
    names.reserve(values_.size());
    for (const auto& [name, value] : values_) names.push_back(name);
    std::ranges::sort(names);
    return names;
}

const GgufValue* GgufFile::find(std::string_view key) const {
    const auto it = values_.find(key);
    return it == values_.end() ? nullptr : &it->second;
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type == GGUF_TYPE_BOOL) wrong_type(key, "a whole number");
    return integer_at(v->bytes.data(), v->type, key);
}

std::optional<double> GgufFile::number(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type == GGUF_TYPE_BOOL) wrong_type(key, "a number");
    return number_at(v->bytes.data(), v->type, key);
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type != GGUF_TYPE_BOOL) wrong_type(key, "true or false");
    return load<uint8_t>(v->bytes.data()) != 0;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type != GGUF_TYPE_STRING) wrong_type(key, "text");
    return std::string_view(reinterpret_cast<const char*>(v->bytes.data()), v->bytes.size());
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->element_type != GGUF_TYPE_STRING) wrong_type(key, "a list of texts");
    Cursor in(v->bytes);
    std::vector<std::string_view> out;
    out.reserve(static_cast<size_t>(v->count));
    for (uint64_t i = 0; i < v->count; ++i) out.push_back(in.string(key));
    return out;
}

std::optional<std::vector<int64_t>> GgufFile::integers(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type != GGUF_TYPE_ARRAY) wrong_type(key, "a list of whole numbers");
    std::vector<int64_t> out;
    out.reserve(static_cast<size_t>(v->count));
    const size_t size = scalar_bytes(v->element_type);
    for (uint64_t i = 0; i < v->count; ++i) {
        out.push_back(integer_at(v->bytes.data() + i * size, v->element_type, key));
    }
    return out;
}

std::optional<std::vector<float>> GgufFile::floats(std::string_view key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (v->type != GGUF_TYPE_ARRAY) wrong_type(key, "a list of numbers");
    std::vector<float> out;
    out.reserve(static_cast<size_t>(v->count));
    const size_t size = scalar_bytes(v->element_type);
    for (uint64_t i = 0; i < v->count; ++i) {
        out.push_back(
            static_cast<float>(number_at(v->bytes.data() + i * size, v->element_type, key)));
    }
    return out;
}

}  // namespace palimpsest
