#include "model/int8_kernel.h"

#include "core/error.h"
#include "model/int8_kernels.h"

namespace palimpsest {

namespace {

/// The fastest the processor has; nullptr: none.
const Int8Kernels* kernels() {
    static const Int8Kernels* const fastest = []() -> const Int8Kernels* {
        for (const Int8Kernels* k : all_int8_kernels()) {
            if (processor_has(k->needs)) return k;
        }
        return nullptr;
    }();
    return fastest;
}

const Int8Kernels& the_kernels() {
    const Int8Kernels* k = kernels();
    check(k != nullptr, "int8 products were asked whether there is an obstacle");
    return *k;
}

const Int8TypeKernels& kernels_of(ggml_type type) {
    const Int8TypeKernels* found = the_kernels().find(type);
    check(found != nullptr, "int8 products were asked whether they know the type");
    return *found;
}

const std::byte* feature(const ggml_tensor* w, int64_t i) {
    return static_cast<const std::byte*>(w->data) + static_cast<size_t>(i) * w->nb[1];
}

}  // namespace

std::span<const Int8Kernels* const> all_int8_kernels() {
#ifdef PALIMPSEST_INT8
    static constexpr std::array<const Int8Kernels*, 3> kAll = {&kInt8Avx512, &kInt8AvxVnni,
                                                               &kInt8Avx2};
    return kAll;
#else
    return {};
#endif
}

const Int8TypeKernels* Int8Kernels::find(ggml_type type) const {
    const auto found = std::ranges::find(types, type, &Int8TypeKernels::type);
    return found == types.end() ? nullptr : &*found;
}

std::string int8_obstacle() {
    if (kernels() != nullptr) return "";
    return all_int8_kernels().empty() ? "this build has no integer products for its processor"
                                      : "this processor lacks AVX2, or its use was forbidden";
}

std::string_view int8_instructions() {
    return kernels() == nullptr ? "" : name_of(kernels()->needs);
}

bool int8_knows(ggml_type type) { return kernels() != nullptr && kernels()->find(type) != nullptr; }

int64_t int8_row_bytes(int64_t inner) {
    constexpr int64_t kPair = 64;
    const int64_t numbers = (inner + kPair - 1) / kPair * kPair;
    return numbers + numbers / 16 * 12 + numbers / 32 * 4;  // RowLayout
}

void round_to_int8(const float* x, int64_t first, int64_t count, int64_t inner, RowGroups groups,
                   std::byte* row) {
    the_kernels().round(x, first, count, inner, groups, row);
}

void rms_norm_row(const float* x, const float* weight, int64_t n, float epsilon, float* to) {
    the_kernels().rms_norm_row(x, weight, n, epsilon, to);
}

size_t int8_few_bytes(int64_t n, int64_t inner) {
    return static_cast<size_t>(the_kernels().few_bytes(n, inner));
}

Int8FewRows int8_order_few(const Int8Rows& rows, std::byte* memory) {
    the_kernels().order_few(rows, memory);
    return {.data = memory, .n = rows.n, .inner = rows.inner};
}

void int8_multiply_few(const ggml_tensor* w, int64_t first, int64_t count, const Int8FewRows& rows,
                       const F32Rows& out) {
    kernels_of(w->type).few(feature(w, first), static_cast<int64_t>(w->nb[1]), count, rows, out);
}

size_t Int8Tile::bytes(int64_t features, int64_t inner) {
    const int64_t steps = (features + kStep - 1) / kStep;
    int64_t most = 0;
    for (const Int8TypeKernels& k : the_kernels().types) {
        most = std::max(most, k.step_bytes(inner));
    }
    return static_cast<size_t>(steps * most);
}

Int8Tile::Int8Tile(const ggml_tensor* w, int64_t first, int64_t count, std::byte* memory)
    : steps_((count + kStep - 1) / kStep), inner_(w->ne[0]), type_(w->type), memory_(memory) {
    kernels_of(w->type).unpack(feature(w, first), static_cast<int64_t>(w->nb[1]), count, inner_,
                               memory);
}

void Int8Tile::multiply(const Int8Rows& rows, const F32Rows& out) const {
    const Int8TypeKernels& k = kernels_of(type_);
    const int64_t bytes = k.step_bytes(inner_);
    const auto multiply = rows.groups == RowGroups::k16 ? k.multiply_16 : k.multiply_32;
    for (int64_t s = 0; s < steps_; ++s) {
        multiply(memory_ + s * bytes, rows, {.data = out.data + s * kStep, .stride = out.stride});
    }
}

}  // namespace palimpsest
