#include "model/dense_product.h"

#include <exception>

#include "core/error.h"
#include "core/processor.h"

#ifdef PALIMPSEST_HAS_ONEDNN

#include <oneapi/dnnl/dnnl.hpp>

// Of OpenMP's interface; its header belongs to a compiler, and others that look at this lack it.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int n_threads);

namespace palimpsest {

namespace {

using dnnl::memory;

/// Work is shared out by whoever calls; oneDNN plans a primitive for as many threads as OpenMP
/// would start when it is made.
class OneThread {
 public:
    OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

 private:
    int before_;
};

memory::data_type type_of(Numbers numbers) {
    return numbers == Numbers::kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

dnnl::matmul::primitive_desc describe(Numbers numbers, const ProductShape& s,
                                      const dnnl::engine& engine) {
    using Tag = memory::format_tag;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const memory::desc x({s.rows, s.inner}, type_of(numbers), Tag::ab);
    const memory::desc w({s.inner, s.columns}, type_of(numbers), Tag::ba);
    const memory::desc out({s.rows, s.columns}, memory::data_type::f32, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    return {engine, x, w, out, attributes};
#else
    return {{x, w, out}, attributes, engine};
#endif
}

/// What oneDNN may use of what the processor has; to be asked before anything is made.
unsigned instructions() {
    static const bool limited = [] {
        return !may_use(Instructions::kAvx512Bf16) &&
               dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2) == dnnl::status::success;
    }();
    return limited ? static_cast<unsigned>(dnnl::cpu_isa::avx2)
                   : static_cast<unsigned>(dnnl::get_effective_cpu_isa());
}

}  // namespace

struct DenseProduct::Primitive {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::matmul::primitive_desc description;
    dnnl::matmul product;

    Primitive(Numbers numbers, const ProductShape& shape)
        : description(describe(numbers, shape, engine)), product(description) {}

    void run(const void* x, const void* w, float* out, std::byte* scratch) const {
        // oneDNN's handles are not const; what only goes in is only read.
        const auto handle = [&](const memory::desc& d, const void* at) {
            return memory(d, engine, const_cast<void*>(at));
        };
        const auto& d = description;
        dnnl::stream stream(engine);
        product.execute(stream, {{DNNL_ARG_SRC, handle(d.src_desc(), x)},
                                 {DNNL_ARG_WEIGHTS, handle(d.weights_desc(), w)},
                                 {DNNL_ARG_DST, handle(d.dst_desc(), out)},
                                 {DNNL_ARG_SCRATCHPAD, handle(d.scratchpad_desc(), scratch)}});
    }
};

std::string DenseProduct::obstacle(Numbers numbers) {
    // oneDNN multiplies bf16 on any processor with AVX-512, but slowly where it has to convert.
    const unsigned isa = instructions();
    const auto bf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    if (numbers == Numbers::kBf16 && (isa & bf16) != bf16) {
        return "this processor has neither AVX-512's bf16 instructions nor AMX";
    }
    return {};
}

bool DenseProduct::repeats_bits() {
    const unsigned isa = instructions();
    const auto avx512 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
    const auto amx = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
    return (isa & avx512) == avx512 && (isa & amx) != amx;
}

std::string DenseProduct::library() {
    const dnnl_version_t& v = *dnnl_version();
    return cat("oneDNN ", v.major, ".", v.minor, ".", v.patch);
}

DenseProduct::DenseProduct(Numbers numbers, const ProductShape& shape) {
    const OneThread one;
    try {
        primitive_ = std::make_unique<Primitive>(numbers, shape);
    } catch (const dnnl::error& e) {
        throw Error(ErrorCode::kUnsupported,
                    cat("oneDNN has no product of ", shape.rows, " x ", shape.inner, " x ",
                        shape.columns, ": ", e.what()));
    }
}

DenseProduct::~DenseProduct() = default;

size_t DenseProduct::scratch_bytes() const {
    return primitive_->description.scratchpad_desc().get_size();
}

void DenseProduct::run(const void* x, const void* w, float* out,
                       std::byte* scratch) const noexcept {
    try {
        primitive_->run(x, w, out, scratch);
    } catch (...) {
        std::terminate();
    }
}

}  // namespace palimpsest

#else

namespace palimpsest {

struct DenseProduct::Primitive {};

std::string DenseProduct::obstacle(Numbers /*numbers*/) {
    return "this program was built without oneDNN (Debian: libdnnl-dev)";
}

bool DenseProduct::repeats_bits() { return false; }

std::string DenseProduct::library() { return {}; }

DenseProduct::DenseProduct(Numbers numbers, const ProductShape& /*shape*/) {
    throw Error(ErrorCode::kUnsupported, obstacle(numbers));
}

DenseProduct::~DenseProduct() = default;

size_t DenseProduct::scratch_bytes() const { return 0; }

void DenseProduct::run(const void* /*x*/, const void* /*w*/, float* /*out*/,
                       std::byte* /*scratch*/) const noexcept {}

}  // namespace palimpsest

#endif
