#include "memory/recurrent/bank_read_out.h"

#include <cmath>

#include "core/error.h"
#include "core/fingerprint.h"

namespace palimpsest {

namespace {

constexpr const char* kOptions = "palimpsest.bank.options";

/// As to_string() has it: "dla:states=12;threshold=0.6".
BankOptions read_bank(const GgufFile& file, const std::string& path) {
    const std::optional<std::string_view> text = file.text(kOptions);
    if (file.text("general.architecture") != kReadOutArchitecture || !text) {
        throw Error(ErrorCode::kUnsupported, cat("'", path, "' holds no bank of states"));
    }
    OptionMap settings;
    std::string_view left = *text;
    const size_t colon = left.find(':');
    settings["bank"] = left.substr(0, colon);
    left = colon == std::string_view::npos ? "" : left.substr(colon + 1);
    while (!left.empty()) {
        const size_t end = left.find(';');
        add_option(settings, left.substr(0, end));
        left = end == std::string_view::npos ? "" : left.substr(end + 1);
    }
    return read_bank_options(settings);
}

}  // namespace

void describe_bank(const BankOptions& bank, GgufWriter& to) {
    to.set_text(kOptions, to_string(bank));
}

bool is_read_out(std::string_view bank) { return bank.ends_with(".gguf"); }

BankReadOut::BankReadOut(const std::string& path, const Backend& backend, const MemoryShape& shape,
                         const std::string& model)
    : file_(GgufFile::open(path)),
      weights_(file_, backend, [](ggml_type) { return true; }),
      bank_(read_bank(file_, path)),
      fingerprint_(model_fingerprint(file_)) {
    if (file_.text(kReadOutModel) != model) {
        throw Error(ErrorCode::kUnsupported,
                    cat("the bank of states in '", path, "' was trained for another model"));
    }
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.attends(i)) continue;
        const auto of = std::get<RecurrentLayer>(shape.layer(i));
        const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
        Layer layer = {.threshold = bank_.threshold};
        if (weights_.has(name(kBankThreshold))) {
            const Tensor t = weights_.vector(name(kBankThreshold), 1);
            layer.threshold = *static_cast<const float*>(t->data);
        }
        if (weights_.has(name(kBankWeigh))) {
            layer.weigh =
                weights_.matrix(name(kBankWeigh), shape.n_embd, of.n_head * bank_.n_states);
            layer.scale = weights_.values(name(kBankScale), {bank_.n_states, of.n_head, 1, 1});
        }
        layers_.push_back(layer);
    }
    const std::vector<std::string_view> unused = weights_.unused();
    if (!unused.empty()) {
        throw Error(ErrorCode::kCorrupt, cat("'", path, "': tensor '", unused.front(),
                                             "' is of no recurrent layer of the model"));
    }
}

}  // namespace palimpsest
