#include "memory/recurrent/recurrent_memory.h"

#include <algorithm>
#include <array>
#include <istream>
#include <ostream>
#include <sstream>

#include "core/error.h"
#include "core/finite.h"
#include "memory/binary_stream.h"
#include "memory/recurrent/state_kernel.h"
#include "memory/recurrent/step_inputs.h"

namespace palimpsest {

namespace {

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'S', 'T', '0', '0', '1'};

/// All tokens of a step through a layer's states. Sources: q, k, v, and decay and write where there
/// are some.
class RecurOp final : public CustomOp {
 public:
    RecurOp(const RecurrentLayer& shape, Tensor states, bool has_decay, bool has_write)
        : shape_(shape),
          rule_(state_rule_named(shape.kind)),
          states_(states),
          has_decay_(has_decay),
          has_write_(has_write) {}

    void run(ggml_tensor* dst, int /*thread*/, int n_threads) noexcept override {
        const int64_t n_parts = (shape_.n_columns + kPartColumns - 1) / kPartColumns;
        const int64_t n = shape_.n_head * n_parts;
        for (int64_t i = work_.take(); i < n; i = work_.take()) {
            run_part(dst, i / n_parts, i % n_parts);
        }
        work_.leave(n_threads);
    }

 private:
    void run_part(ggml_tensor* dst, int64_t head, int64_t part) const {
        const StateRun run = step_inputs(dst, shape_, head, has_decay_, has_write_);
        const int64_t first = part * kPartColumns;
        auto* state =
            static_cast<float*>(states_->data) + head * shape_.n_rows * shape_.n_columns + first;
        run_state(rule_,
                  {.state = state,
                   .n_rows = shape_.n_rows,
                   .row_step = shape_.n_columns,
                   .first = first,
                   .n_columns = std::min(kPartColumns, shape_.n_columns - first)},
                  run);
    }

    RecurrentLayer shape_;
    StateRule rule_;
    Tensor states_;
    bool has_decay_, has_write_;
    WorkList work_;
};

std::span<float> values_of(Tensor t) {
    return {static_cast<float*>(t->data), static_cast<size_t>(ggml_nelements(t))};
}

}  // namespace

std::string attending_layer(const MemoryShape& shape) {
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.attends(i)) return cat("layer ", i, " attends, it is not recurrent");
    }
    return {};
}

RecurrentMemory::RecurrentMemory(const Backend& backend, const MemoryShape& shape,
                                 const std::optional<BankOptions>& bank)
    : storage_(std::make_unique<Storage>(2 * static_cast<size_t>(shape.n_layer))) {
    const std::string misfit = attending_layer(shape);
    if (!misfit.empty()) throw Error(ErrorCode::kUnsupported, misfit);
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const auto of = std::get<RecurrentLayer>(shape.layer(i));
        static_cast<void>(state_rule_named(of.kind));
        Layer layer = {.shape = of};
        if (bank) {
            layer.bank = std::make_unique<LayerBank>(of, *bank);
        } else {
            layer.states = storage_->add(GGML_TYPE_F32, {of.n_columns, of.n_rows, of.n_head, 1});
        }
        if (of.n_before > 0) {
            layer.before = storage_->add(GGML_TYPE_F32, {of.n_channels, of.n_before, 1, 1});
        }
        layers_.push_back(std::move(layer));
    }
    storage_->commit(backend);
}

const RecurrentMemory::Layer& RecurrentMemory::layer(int64_t i) const {
    check(i >= 0 && i < std::ssize(layers_), "a recurrent layer that is not there");
    return layers_[static_cast<size_t>(i)];
}

std::vector<std::span<float>> RecurrentMemory::values() const {
    std::vector<std::span<float>> all;
    for (const Layer& l : layers_) {
        if (l.states != nullptr) all.push_back(values_of(l.states));
        if (l.before != nullptr) all.push_back(values_of(l.before));
    }
    return all;
}

std::span<const float> RecurrentMemory::states(int64_t i) const {
    const Layer& l = layer(i);
    return l.bank == nullptr ? std::span<const float>(values_of(l.states)) : l.bank->sums();
}

std::span<const float> RecurrentMemory::before(int64_t i) const {
    return layer(i).before == nullptr ? std::span<float>() : values_of(layer(i).before);
}

uint64_t RecurrentMemory::plan(const Step& step) {
    const bool rehearses = step.kind == StepKind::kRehearsal;
    if (!rehearses && !kept_.empty()) {  // one that was given up
        put_back();
        kept_.clear();
    }
    if (rehearses && kept_.empty()) keep();
    return static_cast<uint64_t>(step.n);
}

Tensor RecurrentMemory::attend(Graph& /*g*/, const AttentionInputs& in) {
    throw Error(ErrorCode::kUnsupported,
                cat("this memory has states only, and layer ", in.layer, " attends"));
}

Tensor RecurrentMemory::recur(Graph& g, const RecurrenceInputs& in) {
    const Layer& l = layer(in.layer);
    check_inputs(l.shape, in);
    if (l.bank != nullptr) return l.bank->recur(g, in);
    return g.custom(
        {l.shape.n_columns * l.shape.n_head, in.v->ne[2], 1, 1}, sources_of(in),
        std::make_unique<RecurOp>(l.shape, l.states, in.decay != nullptr, in.write != nullptr));
}

Tensor RecurrentMemory::with_before(Graph& g, int64_t i, Tensor channels) {
    const Layer& l = layer(i);
    check(l.before != nullptr && channels->ne[0] == l.shape.n_channels,
          "a convolution's inputs are of its layer's shape");
    ggml_context* c = g.ctx();
    Tensor all = ggml_concat(c, l.before, channels, 1);
    Tensor last = ggml_view_2d(c, all, all->ne[0], l.shape.n_before, all->nb[1],
                               static_cast<size_t>(channels->ne[1]) * all->nb[1]);
    g.keep(ggml_cpy(c, last, l.before));
    return all;
}

void RecurrentMemory::keep() {
    std::vector<std::vector<float>> copies = {{}};  // one more: never empty
    std::vector<std::string> banks;
    for (const std::span<float> v : values()) copies.emplace_back(v.begin(), v.end());
    for (const Layer& l : layers_) {
        if (l.bank == nullptr) continue;
        std::ostringstream out;
        out.exceptions(std::ios::badbit);
        l.bank->save(out);
        banks.push_back(std::move(out).str());
    }
    kept_ = std::move(copies);
    kept_banks_ = std::move(banks);
}

void RecurrentMemory::put_back() {
    const std::vector<std::span<float>> all = values();
    for (size_t i = 0; i < all.size(); ++i) std::ranges::copy(kept_[i + 1], all[i].begin());
    auto saved = kept_banks_.begin();
    for (const Layer& l : layers_) {
        if (l.bank == nullptr) continue;
        std::istringstream in(*saved++);
        l.bank->load(in);
    }
}

int64_t RecurrentMemory::n_opened(int64_t i) const {
    return layer(i).bank == nullptr ? 0 : layer(i).bank->n_opened();
}

void RecurrentMemory::settle(const Step& step) {
    if (step.kind != StepKind::kRehearsal) {
        n_seen_ += step.n;
        return;
    }
    if (step.rehearsal.ends_piece || step.rehearsal.ends_rehearsal) put_back();
    if (step.rehearsal.ends_rehearsal) kept_.clear();
}

void RecurrentMemory::reset() {
    for (const std::span<float> v : values()) std::ranges::fill(v, 0.0F);
    for (const Layer& l : layers_) {
        if (l.bank != nullptr) l.bank->reset();
    }
    kept_.clear();
    n_seen_ = 0;
}

MemoryUsage RecurrentMemory::usage() const {
    size_t bytes = storage_->bytes();
    for (const auto& copy : kept_) bytes += copy.size() * sizeof(float);
    for (const std::string& copy : kept_banks_) bytes += kept_.empty() ? 0 : copy.size();
    for (const Layer& l : layers_) bytes += l.bank == nullptr ? 0 : l.bank->bytes();
    return {.positions_seen = n_seen_, .entries_held = 0, .bytes = bytes};
}

MemoryReport RecurrentMemory::report() const {
    MemoryReport r;
    r.entries = "f32";
    r.positions_seen = n_seen_;
    for (const Layer& l : layers_) {
        size_t bytes = l.bank != nullptr ? l.bank->bytes() : ggml_nbytes(l.states);
        if (l.before != nullptr) bytes += ggml_nbytes(l.before);
        r.layers.push_back({.bytes = bytes});
    }
    r.bytes.states = usage().bytes;
    r.peak_bytes = r.bytes.total();
    return r;
}

void RecurrentMemory::save(std::ostream& out) const {
    check(kept_.empty(), "states are saved between two steps of reading");
    out.write(kMagic.data(), kMagic.size());
    put(out, n_seen_);
    for (const std::span<float> v : values()) {
        put_all(out, std::vector<float>(v.begin(), v.end()));
    }
    for (const Layer& l : layers_) {
        put(out, static_cast<uint8_t>(l.bank != nullptr ? 1 : 0));
        if (l.bank != nullptr) l.bank->save(out);
    }
}

void RecurrentMemory::load(std::istream& in) {
    const auto refuse = [](const std::string& why) {
        throw Error(ErrorCode::kCorrupt, cat("the saved memory does not fit: ", why));
    };
    if (take<std::array<char, 8>>(in) != kMagic) refuse("it is not of recurrent states");
    reset();
    const auto n = take<int64_t>(in);
    if (n < 0) refuse(cat("it is of ", n, " positions"));
    std::vector<std::vector<float>> saved = {{}};
    for (const std::span<float> v : values()) {
        saved.push_back(take_all<float>(in, std::ssize(v)));
        if (saved.back().size() != v.size()) {
            refuse(cat("a layer's states have ", saved.back().size(), " values, not ", v.size()));
        }
        if (!is_finite(saved.back())) refuse("a state holds what is not a number");
    }
    try {
        for (const Layer& l : layers_) {
            const bool has_bank = take<uint8_t>(in) != 0;
            if (has_bank != (l.bank != nullptr)) refuse("it has another bank of states");
            if (has_bank) l.bank->load(in);
        }
    } catch (...) {
        reset();
        throw;
    }
    const std::vector<std::span<float>> all = values();
    for (size_t i = 0; i < all.size(); ++i) std::ranges::copy(saved[i + 1], all[i].begin());
    n_seen_ = n;
}

}  // namespace palimpsest
