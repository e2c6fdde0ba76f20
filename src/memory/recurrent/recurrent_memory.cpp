#include "memory/recurrent/recurrent_memory.h"

#include <algorithm>
#include <array>
#include <istream>
#include <numeric>
#include <ostream>
#include <sstream>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/recurrent/state_kernel.h"
#include "memory/recurrent/step_inputs.h"

namespace palimpsest {

namespace {

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'S', 'T', '0', '0', '2'};

constexpr size_t kMostChanges = 64;
constexpr int64_t kChangesApart = 8;  // positions; of nearer ones the stronger counts

/// All tokens of a step through a layer's states. Sources: as sources_of() has them.
class RecurOp final : public CustomOp {
 public:
    RecurOp(const RecurrentLayer& shape, Tensor states, InputsThere there)
        : shape_(shape), rule_(state_rule_named(shape.kind)), states_(states), there_(there) {}

    void run(ggml_tensor* dst, int /*thread*/, int n_threads) noexcept override {
        const int64_t columns = dst->ne[1] == 1 ? shape_.n_columns : kPartColumns;
        const int64_t n_parts = (shape_.n_columns + columns - 1) / columns;
        const int64_t n = shape_.n_head * n_parts;
        for (int64_t i = work_.take(); i < n; i = work_.take()) {
            run_part(dst, i / n_parts, (i % n_parts) * columns, columns);
        }
        work_.leave(n_threads);
    }

 private:
    /// Columns [first, first + most), as far as there are some.
    void run_part(ggml_tensor* dst, int64_t head, int64_t first, int64_t most) const {
        const StateRun run = step_inputs(dst, shape_, head, there_);
        auto* state =
            static_cast<float*>(states_->data) + head * shape_.n_rows * shape_.n_columns + first;
        run_state(rule_,
                  {.state = state,
                   .n_rows = shape_.n_rows,
                   .row_step = shape_.n_columns,
                   .first = first,
                   .n_columns = std::min(most, shape_.n_columns - first)},
                  run);
    }

    RecurrentLayer shape_;
    StateRule rule_;
    Tensor states_;
    InputsThere there_;
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
                                 const std::optional<BankOptions>& bank,
                                 std::shared_ptr<const BankReadOut> read_out)
    : bank_(bank),
      read_out_(std::move(read_out)),
      storage_(std::make_unique<Storage>(2 * static_cast<size_t>(shape.n_layer))) {
    const std::string misfit = attending_layer(shape);
    if (!misfit.empty()) throw Error(ErrorCode::kUnsupported, misfit);
    if (read_out_ != nullptr) bank_ = read_out_->bank();
    check(read_out_ == nullptr || std::ssize(read_out_->layers()) == shape.n_layer,
          "a trained bank is of all recurrent layers");
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const auto of = std::get<RecurrentLayer>(shape.layer(i));
        static_cast<void>(state_rule_named(of.kind));
        Layer layer = {.shape = of};
        if (bank_) {
            const BankReadOut::Layer* own =
                read_out_ == nullptr ? nullptr : &read_out_->layers()[static_cast<size_t>(i)];
            layer.bank = std::make_unique<LayerBank>(of, *bank_, openings_, own);
            n_heads_ += of.n_head;
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
    if (rehearses && kept_.empty()) {
        std::ostringstream out;
        out.exceptions(std::ios::badbit);
        write(out);
        kept_ = std::move(out).str();
    }
    if (!rehearses && !kept_.empty()) put_back();  // one was given up
    if (!rehearses) kept_.clear();
    if (bank_) openings_.assign(static_cast<size_t>(step.n), 0);
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
    return g.custom({l.shape.n_columns * l.shape.n_head, in.v->ne[2], 1, 1}, sources_of(in),
                    std::make_unique<RecurOp>(l.shape, l.states, inputs_there(in)));
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

void RecurrentMemory::put_back() {
    std::istringstream in(kept_);
    read(in);
}

/// Keeps the places where most heads opened a state: at most kMostChanges, whatever was read.
void RecurrentMemory::note_change(const MemoryReport::States::Change& change) {
    const bool is_near =
        !changes_.empty() && change.position - changes_.back().position < kChangesApart;
    if (is_near) {
        if (change.share > changes_.back().share) changes_.back() = change;
        return;
    }
    if (changes_.size() == kMostChanges) {
        const auto weakest =
            std::ranges::min_element(changes_, {}, &MemoryReport::States::Change::share);
        if (weakest->share >= change.share) return;
        changes_.erase(weakest);
    }
    changes_.push_back(change);
}

void RecurrentMemory::note_changes(int64_t n) {
    for (int64_t t = 0; t < n; ++t) {
        const auto opened = static_cast<double>(openings_[static_cast<size_t>(t)]);
        if (opened > 0) note_change({n_seen_ + t, opened / static_cast<double>(n_heads_)});
    }
}

void RecurrentMemory::settle(const Step& step) {
    if (step.kind != StepKind::kRehearsal) {
        if (bank_) note_changes(step.n);
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
    changes_.clear();
    n_seen_ = 0;
}

MemoryUsage RecurrentMemory::usage() const {
    size_t bytes = storage_->bytes() + kept_.size();
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
        if (l.bank == nullptr) continue;
        const LayerBank::Tally tally = l.bank->tally();
        r.layers.back().boundary_rate = static_cast<double>(tally.n_opened) /
                                        static_cast<double>(std::max<int64_t>(1, tally.n_tokens));
        l.bank->add_to(r.states);
    }
    if (bank_) {
        MemoryReport::States& s = r.states;
        s.bank = bank_->name;
        s.n_most = bank_->n_states;
        const auto held = std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0});
        s.mean_held =
            static_cast<double>(held) / static_cast<double>(std::max<int64_t>(1, s.n_heads));
        s.changes = changes_;
    }
    r.bytes.states = usage().bytes;
    r.peak_bytes = r.bytes.total();
    return r;
}

void RecurrentMemory::write(std::ostream& out) const {
    put(out, n_seen_);
    put_all(out, changes_);
    for (const std::span<float> v : values()) {
        put_all(out, std::vector<float>(v.begin(), v.end()));
    }
    for (const Layer& l : layers_) {
        if (l.bank != nullptr) l.bank->save(out);
    }
}

void RecurrentMemory::read(std::istream& in) {
    n_seen_ = take<int64_t>(in);
    if (n_seen_ < 0) refuse_states(cat("read ", n_seen_, " positions"));
    load_changes(in);
    for (const std::span<float> v : values()) {
        std::ranges::copy(take_states(in, v.size()), v.begin());
    }
    for (const Layer& l : layers_) {
        if (l.bank != nullptr) l.bank->load(in);
    }
}

void RecurrentMemory::load_changes(std::istream& in) {
    changes_ = take_all<MemoryReport::States::Change>(in, kMostChanges);
    int64_t least = 0;
    for (const auto& c : changes_) {
        const bool fits =
            c.position >= least && c.position < n_seen_ && c.share > 0 && c.share <= 1;
        if (!fits) refuse_states(cat("a change at ", c.position, " of ", n_seen_, " positions"));
        least = c.position + 1;
    }
}

std::string RecurrentMemory::bank_text() const {
    if (!bank_) return "";
    return read_out_ == nullptr ? to_string(*bank_)
                                : cat(to_string(*bank_), ";trained=", read_out_->fingerprint());
}

void RecurrentMemory::save(std::ostream& out) const {
    check(kept_.empty(), "states are saved between two steps of reading");
    out.write(kMagic.data(), kMagic.size());
    put_text(out, bank_text());
    write(out);
}

void RecurrentMemory::load(std::istream& in) {
    reset();
    if (take<std::array<char, 8>>(in) != kMagic) refuse_states("no recurrent states");
    const std::string theirs = take_text(in, 1024);
    if (theirs != bank_text()) {
        refuse_states(cat(theirs.empty() ? "one state a head" : cat("a bank ", theirs), ", not ",
                          bank_ ? bank_text() : "one state a head"));
    }
    try {
        read(in);
    } catch (...) {
        reset();
        throw;
    }
}

}  // namespace palimpsest
