#include "train/torch/torch_adapter.h"

#include <cmath>

#include "train/torch/torch_decoder.h"

namespace palimpsest {

TorchAdapter::TorchAdapter(int64_t n_in, int64_t n_out, const torch::Tensor& table) {
    const auto uniform = [](int64_t out, int64_t in) {
        const double most = 1.0 / std::sqrt(static_cast<double>(in));
        return torch::rand({out, in}) * 2 * most - most;
    };
    norm_ = torch::ones({n_in});
    w1_ = uniform(n_out, n_in);
    b1_ = torch::zeros({n_out});
    w2_ = uniform(n_out, n_out);
    b2_ = torch::zeros({n_out});
    const torch::Tensor mean = table.mean(0);
    start_ = mean + 0.02 * torch::randn({n_out});
    end_ = mean + 0.02 * torch::randn({n_out});
}

torch::Tensor TorchAdapter::operator()(const torch::Tensor& x) const {
    const torch::Tensor y = x * torch::rsqrt(x.pow(2).mean(-1, true) + 1e-6) * norm_;
    return torch::linear(torch::gelu(torch::linear(y, w1_, b1_)), w2_, b2_);
}

std::vector<std::pair<const char*, torch::Tensor>> TorchAdapter::named() const {
    return {{"lclm.adapter.norm.weight", norm_},
            {"lclm.adapter.fc1.weight", w1_},
            {"lclm.adapter.fc1.bias", b1_},
            {"lclm.adapter.fc2.weight", w2_},
            {"lclm.adapter.fc2.bias", b2_},
            {"lclm.tag.start", start_},
            {"lclm.tag.end", end_}};
}

std::vector<torch::Tensor> TorchAdapter::parameters() const {
    std::vector<torch::Tensor> all;
    for (const auto& [name, tensor] : named()) all.push_back(tensor);
    return all;
}

void TorchAdapter::write(GgufWriter& to, ggml_type type) const {
    for (const auto& [name, tensor] : named()) add_tensor(to, name, tensor, type);
}

void TorchAdapter::start_from(const GgufFile& from) {
    const torch::NoGradGuard no_grad;
    for (auto [name, tensor] : named()) tensor.copy_(read_tensor(from, name));
}

}  // namespace palimpsest
