#include "compress/convert/thin_additions.h"

#include <ggml.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/fingerprint.h"
#include "core/finite.h"
#include "core/gguf_writer.h"
#include "core/tensor_values.h"

namespace palimpsest {

namespace {

/// A matrix and the thin ones that are added to it.
struct Sum {
    GgufTensor whole, down, up;

    [[nodiscard]] int64_t rank() const { return down.shape[1]; }

    void check_shapes() const {
        const bool fits = down.shape[0] == whole.shape[0] && up.shape[0] == whole.shape[1] &&
                          up.shape[1] == rank();
        if (fits) return;
        throw Error(ErrorCode::kCorrupt, cat("additions '", down.name, "' ", to_string(down.shape),
                                             " and '", up.name, "' ", to_string(up.shape),
                                             " do not fit a matrix of ", to_string(whole.shape)));
    }

    [[nodiscard]] std::vector<float> values() const {
        std::vector<float> w = tensor_values(whole);
        const std::vector<float> d = tensor_values(down);
        const std::vector<float> u = tensor_values(up);
        const auto n_in = static_cast<size_t>(whole.shape[0]);
        const auto n_out = static_cast<size_t>(whole.shape[1]);
        for (size_t r = 0; r < static_cast<size_t>(rank()); ++r) {
            const float* row = &d[r * n_in];
            for (size_t o = 0; o < n_out; ++o) {
                const float by = u[r * n_out + o];
                float* to = &w[o * n_in];
                for (size_t i = 0; i < n_in; ++i) to[i] += by * row[i];
            }
        }
        if (!is_finite(w)) {
            throw Error(ErrorCode::kCorrupt, cat("'", whole.name, "' with '", up.name,
                                                 "' holds a value that is not a number"));
        }
        return w;
    }
};

/// The number of a block from its tensor's name, "blk.7.ffn_up.weight"; -1: it is of none.
int64_t block_of(std::string_view name) {
    if (!name.starts_with("blk.")) return -1;
    int64_t block = 0;
    for (size_t i = 4; i < name.size() && name[i] >= '0' && name[i] <= '9' && block < 1 << 20;
         ++i) {
        block = 10 * block + (name[i] - '0');
    }
    return block;
}

class Merging {
 public:
    Merging(const std::string& additions, const std::string& model, const ConvertOptions& options)
        : additions_(GgufFile::open(additions)),
          model_(GgufFile::open(model)),
          type_(matrix_type(options.type)),
          options_(options) {
        if (additions_.text("general.architecture") != kThinAdditions) {
            throw Error(ErrorCode::kInvalidArgument,
                        cat("'", additions, "' holds no additions to a model"));
        }
        const std::string ours = model_fingerprint(model_);
        const auto theirs = additions_.text(kAdditionsModel);
        if (theirs != ours) {
            throw Error(ErrorCode::kInvalidArgument,
                        cat("'", additions, "' was trained on another model (",
                            theirs.value_or("not named"), ") than '", model, "' (", ours,
                            "); name that one with --model"));
        }
        form_ = read_compression_form(additions_);
        n_layers_ = additions_.integer(kAdditionsLayers).value_or(0);
        architecture_ = std::string(model_.text("general.architecture").value_or(""));
        n_all_layers_ = model_.integer(architecture_ + ".block_count").value_or(0);
        if (n_layers_ < 1 || n_layers_ > n_all_layers_) {
            throw Error(ErrorCode::kCorrupt, cat("an encoder of ", n_layers_,
                                                 " layers from a model of ", n_all_layers_));
        }
    }

    Converted run(const std::string& folder) {
        done_ = converted_in(folder);
        done_.form = form_;
        write_part("encoder", n_layers_, done_.encoder);
        write_part("decoder", n_all_layers_, done_.decoder);
        write_adapter();
        done_.bytes_written = written_bytes(done_);
        return done_;
    }

 private:
    [[nodiscard]] std::string name() const {
        return std::string(model_.text("general.name").value_or("model"));
    }

    /// Of a matrix "blk.0.attn_q.weight" in a part; nullptr if it was not learnt.
    [[nodiscard]] const GgufTensor* addition(const char* part, std::string_view matrix,
                                             const char* which) const {
        constexpr std::string_view kEnd = ".weight";
        if (!matrix.ends_with(kEnd)) return nullptr;
        matrix.remove_suffix(kEnd.size());
        return additions_.find_tensor(cat(part, ".", matrix, which));
    }

    void on_read(size_t n) {
        done_.bytes_read += n;
        const size_t total = 2 * model_.total_bytes();
        const bool goes_on =
            !options_.on_progress || options_.on_progress(std::min(done_.bytes_read, total), total);
        if (!goes_on) throw Error(ErrorCode::kExhausted, "the merging was stopped");
    }

    void write_part(const char* part, int64_t n_layers, const std::string& path) {
        GgufWriter to;
        to.copy_keys(model_);
        to.set_text("general.name", cat(name(), ", ", part, " of latents ", form_.ratio, "x"));
        to.set_count(architecture_ + ".block_count", static_cast<uint32_t>(n_layers));
        size_t n_used = 0;
        for (const GgufTensor& t : model_.tensors()) {
            if (block_of(t.name) >= n_layers) continue;
            const GgufTensor* down = addition(part, t.name, ".down");
            const GgufTensor* up = addition(part, t.name, ".up");
            if (down == nullptr || up == nullptr) {
                to.add_made(std::string(t.name), t.shape, t.type,
                            [&t](const GgufWriter::Put& put) { put(t.data); });
                continue;
            }
            n_used += 2;
            add_sum(to, {.whole = t, .down = *down, .up = *up});
        }
        check_all_used(part, n_used);
        to.write(path);
    }

    void add_sum(GgufWriter& to, const Sum& sum) {
        sum.check_shapes();
        const ggml_type type = stored_type(type_, sum.whole.shape);
        to.add_made(std::string(sum.whole.name), sum.whole.shape, type,
                    [this, sum, type](const GgufWriter::Put& put) {
                        const std::vector<float> values = sum.values();
                        const Shape& shape = sum.whole.shape;
                        std::vector<std::byte> stored(static_cast<size_t>(shape[1]) *
                                                      ggml_row_size(type, shape[0]));
                        ggml_quantize_chunk(type, values.data(), stored.data(), 0, shape[1],
                                            shape[0], nullptr);
                        put(stored);
                        on_read(sum.whole.data.size());
                    });
    }

    void check_all_used(std::string_view part, size_t n_used) const {
        const auto n = static_cast<size_t>(std::ranges::count_if(
            additions_.tensors(),
            [part](const GgufTensor& t) { return t.name.starts_with(cat(part, ".")); }));
        if (n == n_used) return;
        throw Error(ErrorCode::kCorrupt, cat("of ", n, " additions to the ", part, " only ", n_used,
                                             " belong to matrices of the model"));
    }

    void write_adapter() {
        GgufWriter to;
        to.set_text("general.architecture", "lclm");
        to.set_text("general.name", cat(name(), ", adapter ", form_.ratio, "x"));
        describe(form_, to);
        to.set_text("lclm.encoder.fingerprint", model_fingerprint(GgufFile::open(done_.encoder)));
        to.set_text("lclm.decoder.fingerprint", model_fingerprint(GgufFile::open(done_.decoder)));
        for (const GgufTensor& t : additions_.tensors()) {
            if (t.name.starts_with("lclm.")) to.add_copy(t);
        }
        to.write(done_.adapter);
    }

    GgufFile additions_, model_;
    ggml_type type_;
    const ConvertOptions& options_;
    CompressionForm form_;
    std::string architecture_;
    int64_t n_layers_ = 0, n_all_layers_ = 0;
    Converted done_;
};

}  // namespace

Converted merge_additions(const std::string& additions, const std::string& model,
                          const std::string& folder, const ConvertOptions& options) {
    return Merging(additions, model, options).run(folder);
}

}  // namespace palimpsest
