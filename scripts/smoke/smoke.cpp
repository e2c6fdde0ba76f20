// Does this build of ggml and libllama compute? Set-up runs it before it trusts them.
//
//   smoke                  matrix products in every weight type and every CPU buffer type
//   smoke MODEL TEXT NEXT  and one greedy token of the model after TEXT, which must be NEXT
//
// A bad build fails with a message, or dies of a signal in its first product.

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <llama-cpp.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int64_t kSize = 256;           // rows, and values a row: large enough for tiled kernels
constexpr int64_t kColumns[] = {64, 1};  // a prompt, and one token
constexpr ggml_type kTypes[] = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                                GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K};
constexpr double kTolerance = 0.02;  // activations are rounded to 8 bits: about 0.005

void require(bool ok, const std::string& what) {
    if (!ok) throw std::runtime_error(what);
}

std::vector<float> random_values(int64_t n, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = normal(generator);
    return values;
}

// The CPU's default buffer type, and every repacked one it offers.
std::vector<ggml_backend_buffer_type_t> buffer_types(ggml_backend_dev_t device) {
    std::vector<ggml_backend_buffer_type_t> types{ggml_backend_dev_buffer_type(device)};
    auto extra =
        reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    if (extra == nullptr) return types;
    for (auto* t = extra(device); t != nullptr && *t != nullptr; ++t) types.push_back(*t);
    return types;
}

struct Weights {
    ggml_type type;
    std::vector<uint8_t> packed;  // kSize rows as ggml stores them
    std::vector<float> values;    // the same rows, unpacked again
};

Weights make_weights(ggml_type type) {
    const std::vector<float> source = random_values(kSize * kSize, 1);
    Weights w{type, std::vector<uint8_t>(ggml_row_size(type, kSize) * kSize), source};
    ggml_quantize_chunk(type, source.data(), w.packed.data(), 0, kSize, kSize, nullptr);
    if (type != GGML_TYPE_F32) {
        ggml_get_type_traits(type)->to_float(w.packed.data(), w.values.data(), kSize * kSize);
    }
    return w;
}

std::vector<double> plain_product(std::span<const float> weights, std::span<const float> input,
                                  int64_t columns) {
    std::vector<double> out;
    for (int64_t c = 0; c < columns; ++c) {
        for (int64_t r = 0; r < kSize; ++r) {
            double sum = 0;
            for (int64_t i = 0; i < kSize; ++i) {
                sum += double{weights[static_cast<size_t>(r * kSize + i)]} *
                       double{input[static_cast<size_t>(c * kSize + i)]};
            }
            out.push_back(sum);
        }
    }
    return out;
}

// Empty if this buffer type does not take the product.
std::vector<float> ggml_product(ggml_backend_t cpu, ggml_backend_buffer_type_t place,
                                const Weights& weights, std::span<const float> input,
                                int64_t columns) {
    const ggml_init_params params{ggml_tensor_overhead() * 16 + ggml_graph_overhead(), nullptr,
                                  true};
    const ggml_context_ptr weight_ctx(ggml_init(params));
    const ggml_context_ptr ctx(ggml_init(params));
    ggml_tensor* w = ggml_new_tensor_2d(weight_ctx.get(), weights.type, kSize, kSize);
    ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, kSize, columns);
    ggml_tensor* y = ggml_mul_mat(ctx.get(), w, x);

    const ggml_backend_buffer_ptr weight_buffer(
        ggml_backend_alloc_ctx_tensors_from_buft(weight_ctx.get(), place));
    require(weight_buffer != nullptr, "no memory for the weights");
    if (!ggml_backend_supports_op(cpu, y)) return {};
    ggml_backend_buffer_set_usage(weight_buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu));
    require(buffer != nullptr, "no memory for the product");

    ggml_backend_tensor_set(w, weights.packed.data(), 0, weights.packed.size());
    ggml_backend_tensor_set(x, input.data(), 0, input.size_bytes());
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, y);
    require(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS, "the product failed");
    std::vector<float> out(static_cast<size_t>(kSize * columns));
    ggml_backend_tensor_get(y, out.data(), 0, out.size() * sizeof(float));
    return out;
}

double relative_error(std::span<const float> got, std::span<const double> want) {
    double difference = 0;
    double size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        difference += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
        size += want[i] * want[i];
    }
    return std::sqrt(difference / size);
}

void check_product(ggml_backend_t cpu, ggml_backend_buffer_type_t place, const Weights& weights,
                   int64_t columns) {
    const std::string what = std::string(ggml_type_name(weights.type)) + " weights in " +
                             ggml_backend_buft_name(place) + ", " + std::to_string(columns) +
                             " columns";
    std::printf("smoke: %s: ", what.c_str());
    const std::vector<float> input = random_values(kSize * columns, 2);
    const std::vector<float> got = ggml_product(cpu, place, weights, input, columns);
    if (got.empty()) {
        std::puts("not taken");
        return;
    }
    const double error = relative_error(got, plain_product(weights.values, input, columns));
    std::printf("error %.5f\n", error);
    require(error < kTolerance, "wrong product: " + what);  // also false for NaN
}

void check_products() {
    const ggml_backend_ptr cpu(ggml_backend_cpu_init());
    require(cpu != nullptr, "no CPU backend");
    ggml_backend_cpu_set_n_threads(cpu.get(), 2);
    for (ggml_backend_buffer_type_t place : buffer_types(ggml_backend_get_device(cpu.get()))) {
        for (const ggml_type type : kTypes) {
            const Weights weights = make_weights(type);
            for (const int64_t columns : kColumns)
                check_product(cpu.get(), place, weights, columns);
        }
    }
}

std::string next_token(const char* model_file, const std::string& text) {
    const llama_model_ptr model(
        llama_model_load_from_file(model_file, llama_model_default_params()));
    require(model != nullptr, std::string("cannot load ") + model_file);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    const llama_context_ptr context(llama_init_from_model(model.get(), params));
    require(context != nullptr, "cannot create a context");

    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    std::vector<llama_token> tokens(text.size() + 2);
    const int32_t n =
        llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                       static_cast<int32_t>(tokens.size()), true, false);
    require(n > 0, "cannot tokenize");
    require(llama_decode(context.get(), llama_batch_get_one(tokens.data(), n)) == 0,
            "the model's pass failed");

    const std::span<const float> logits(llama_get_logits_ith(context.get(), -1),
                                        static_cast<size_t>(llama_vocab_n_tokens(vocab)));
    const auto best = static_cast<llama_token>(std::ranges::max_element(logits) - logits.begin());
    char piece[64];
    const int32_t length = llama_token_to_piece(vocab, best, piece, sizeof piece, 0, false);
    return {piece, static_cast<size_t>(std::max(length, 0))};
}

void check_model(const char* model_file, const std::string& text, const std::string& expected) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    std::printf("smoke: \"%s\" goes on with: ", text.c_str());
    const std::string got = next_token(model_file, text);
    std::printf("\"%s\"\n", got.c_str());
    require(got == expected, "wrong token: expected \"" + expected + "\"");
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IONBF, 0);  // the last line says where a build died
    try {
        require(argc == 1 || argc == 4, "usage: smoke [MODEL TEXT NEXT]");
        check_products();
        if (argc == 4) check_model(argv[1], argv[2], argv[3]);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "smoke: %s\n", e.what());
        return 1;
    }
    return 0;
}
