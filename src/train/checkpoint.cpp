#include "train/checkpoint.h"

#include <cmath>
#include <cstring>
#include <span>

#include "core/digest.h"
#include "core/error.h"
#include "core/gguf_writer.h"

namespace palimpsest {

namespace {

constexpr const char* kKind = "palimpsest-training";
constexpr const char* kSum = "training.check_sum";
constexpr int64_t kMostSteps = int64_t{1} << 40;

std::string sum_of(const Parameters& parameters, const Optimizer& optimizer) {
    Digest sum;
    sum.add(cat(optimizer.n_done));
    for (size_t i = 0; i < parameters.size(); ++i) {
        for (const auto* of : {&parameters[i].value, &optimizer.first[i], &optimizer.second[i]}) {
            sum.add(std::as_bytes(std::span(*of)));
        }
    }
    return sum.hex();
}

std::vector<float> values(const GgufFile& file, const std::string& path, const std::string& name,
                          const Shape& shape) {
    const GgufTensor* t = file.find_tensor(name);
    if (t == nullptr || t->type != GGML_TYPE_F32 || t->shape != shape) {
        throw Error(ErrorCode::kCorrupt, cat("the checkpoint '", path, "' has no tensor '", name,
                                             "' of shape ", to_string(shape)));
    }
    std::vector<float> out(t->data.size() / sizeof(float));
    std::memcpy(out.data(), t->data.data(), t->data.size());
    for (const float x : out) {
        if (!std::isfinite(x)) {
            throw Error(
                ErrorCode::kCorrupt,
                cat("the checkpoint '", path, "' has numbers that are not finite in '", name, "'"));
        }
    }
    return out;
}

}  // namespace

void write_checkpoint(const std::string& path, const Parameters& parameters,
                      const Optimizer& optimizer, const std::string& settings) {
    GgufWriter file;
    file.set_text("general.architecture", kKind);
    file.set_text("training.settings", settings);
    file.set_integer("training.steps_done", optimizer.n_done);
    file.set_text(kSum, sum_of(parameters, optimizer));
    for (size_t i = 0; i < parameters.size(); ++i) {
        const Parameter& p = parameters[i];
        file.add(p.name, p.shape, p.value);
        file.add(p.name + ".first", p.shape, optimizer.first[i]);
        file.add(p.name + ".second", p.shape, optimizer.second[i]);
    }
    file.write(path);
}

void read_checkpoint(const std::string& path, Parameters& parameters, Optimizer& optimizer,
                     const std::string& settings) {
    const GgufFile file = GgufFile::open(path);
    const int64_t done = file.integer("training.steps_done").value_or(-1);
    if (file.text("general.architecture") != kKind || done < 0 || done > kMostSteps) {
        // Not damaged, but another file: it must not be replaced.
        throw Error(ErrorCode::kInvalidArgument,
                    cat("'", path, "' is no checkpoint of a training"));
    }
    const std::string_view written = file.text("training.settings").value_or("");
    require(written == settings, "the checkpoint '", path, "' was written with other settings:\n  ",
            written, "\nand these are:\n  ", settings,
            "\nGive the same ones to go on, or leave --resume out to begin anew");
    Parameters read = parameters;
    Optimizer moments = optimizer;
    for (size_t i = 0; i < read.size(); ++i) {
        Parameter& p = read[i];
        p.value = values(file, path, p.name, p.shape);
        moments.first[i] = values(file, path, p.name + ".first", p.shape);
        moments.second[i] = values(file, path, p.name + ".second", p.shape);
    }
    moments.n_done = done;
    if (file.text(kSum).value_or("") != sum_of(read, moments)) {
        throw Error(ErrorCode::kCorrupt, cat("the checkpoint '", path, "' is damaged"));
    }
    parameters = std::move(read);
    optimizer = std::move(moments);
}

}  // namespace palimpsest
