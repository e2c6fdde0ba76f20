#include "core/graph.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <unordered_set>
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include "core/error.h"

namespace palimpsest {

namespace {

/// ggml tells standard error about every weight it repacks, and a library must not.
void quieten() {
    static std::once_flag once;
    const auto discard = [](ggml_log_level /*level*/, const char* /*text*/, void* /*unused*/) {};
    std::call_once(once, [&] { ggml_log_set(discard, nullptr); });
}

ggml_context_ptr make_context(size_t bytes) {
    ggml_context_ptr ctx(ggml_init({.mem_size = bytes, .mem_buffer = nullptr, .no_alloc = true}));
    if (!ctx) throw Error(ErrorCode::kExhausted, "no memory for a graph's description");
    return ctx;
}

/// The layouts that ggml's CPU device offers beside the plain one.
std::vector<ggml_backend_buffer_type_t> extra_types(ggml_backend_dev_t device) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    auto list = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    std::vector<ggml_backend_buffer_type_t> types;
    if (list == nullptr) return types;
    for (ggml_backend_buffer_type_t* t = list(device); t != nullptr && *t != nullptr; ++t) {
        types.push_back(*t);
    }
    return types;
}

/// Does the device multiply a matrix that lies in a buffer of `type`? Asked with an empty buffer.
bool multiplies(ggml_backend_dev_t device, ggml_backend_buffer_type_t type, ggml_type weights,
                const Shape& shape) {
    const ggml_context_ptr ctx = make_context(8 * ggml_tensor_overhead());
    Tensor w = ggml_new_tensor(ctx.get(), weights, 4, shape.data());
    Tensor x = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F32, shape[0], 512, shape[2], shape[3]);
    Tensor product = ggml_mul_mat(ctx.get(), w, x);
    const ggml_backend_buffer_ptr empty(ggml_backend_buft_alloc_buffer(type, 0));
    w->buffer = empty.get();
    return ggml_backend_dev_supports_op(device, product);
}

// ggml's threads wait for each other after every node, and for the last at a graph's end. They do
// so in OpenMP's library, where ThreadSanitizer does not look; so it is told: what was done before
// a thread arrives is seen by those that depart after it.
#if defined(__SANITIZE_THREAD__)
char meeting_point = 0;
void arrive() { __tsan_release(&meeting_point); }
void depart() { __tsan_acquire(&meeting_point); }
#else
void arrive() {}
void depart() {}
#endif

void run_custom(ggml_tensor* dst, int thread, int n_threads, void* op) noexcept {
    depart();
    static_cast<CustomOp*>(op)->run(dst, thread, n_threads);
    arrive();
}

/// Nodes of a graph, and leaves: what they read that no node computes.
size_t count_tensors(ggml_cgraph* graph) {
    std::unordered_set<const ggml_tensor*> all;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        all.insert(node);
        for (const ggml_tensor* source : node->src) {
            if (source != nullptr) all.insert(source);
        }
    }
    return all.size();
}

/// `owner` owns what `make` gives. ggml's constructors go on without memory that they did not get,
/// and what they made fails much later.
template <typename Owner, typename Make>
void own_whole(Owner& owner, Make make) {
    errno = 0;
    owner.reset(make());
    if (owner == nullptr || errno == ENOMEM) throw std::bad_alloc();
}

}  // namespace

Backend::Backend(int n_threads) : n_threads_(n_threads) {
    require(n_threads >= 1 && n_threads <= GGML_MAX_N_THREADS, "number of threads is ", n_threads,
            "; it must be 1 to ", GGML_MAX_N_THREADS);
    quieten();
    cpu_.reset(ggml_backend_cpu_init());
    if (!cpu_) throw Error(ErrorCode::kUnsupported, "ggml has no CPU backend here");
    ggml_backend_cpu_set_n_threads(cpu_.get(), n_threads);
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = 0;  // threads of ggml's own, where it has no OpenMP, sleep while they wait
    own_whole(pool_, [&] { return ggml_threadpool_new(&params); });
    ggml_backend_cpu_set_threadpool(cpu_.get(), pool_.get());
    make_scheduler(GGML_DEFAULT_GRAPH_SIZE);
}

void Backend::PoolDeleter::operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }

void Backend::make_scheduler(size_t n_nodes) {
    ggml_backend_t backends[] = {cpu_.get()};
    own_whole(sched_,
              [&] { return ggml_backend_sched_new(backends, nullptr, 1, n_nodes, false, false); });
    most_nodes_ = n_nodes;
}

uint64_t Backend::allocate(ggml_cgraph* graph) {
    // It asserts that a graph's nodes and leaves fit, and asks for 22 KB for each.
    if (const size_t n = count_tensors(graph); n > most_nodes_) make_scheduler(n + n / 2);
    ggml_backend_sched_reset(sched_.get());
    // It would lay a graph out as the one before if both have as many nodes of the same sizes, even
    // if values are needed for longer in this one; reserving makes it plan anew.
    if (!ggml_backend_sched_reserve(sched_.get(), graph) ||
        !ggml_backend_sched_alloc_graph(sched_.get(), graph)) {
        throw Error(ErrorCode::kExhausted, "no memory for activations");
    }
    return ++allocations_;
}

int Backend::available_threads() {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        return std::clamp(CPU_COUNT(&allowed), 1, GGML_MAX_N_THREADS);
    }
#endif
    return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, GGML_MAX_N_THREADS);
}

ggml_backend_buffer_type_t Backend::packed_type(ggml_type type, const Shape& shape) const {
    ggml_backend_dev_t device = ggml_backend_get_device(cpu_.get());
    for (ggml_backend_buffer_type_t candidate : extra_types(device)) {
        if (multiplies(device, candidate, type, shape)) return candidate;
    }
    return nullptr;
}

void Backend::on_all_threads(const std::function<void(int thread, int n_threads)>& work) const {
    if (n_threads_ == 1) return work(0, 1);
    // A graph of one node of ours: ggml's threads are there already, and wait cheaply.
    class Call final : public CustomOp {
     public:
        explicit Call(const std::function<void(int, int)>& to_call) : work_(to_call) {}
        void run(ggml_tensor* /*dst*/, int thread, int n_threads) noexcept override {
            try {
                work_(thread, n_threads);
            } catch (...) {
                const std::lock_guard lock(mutex_);
                thrown_ = std::current_exception();
            }
        }
        void rethrow() const {
            if (thrown_) std::rethrow_exception(thrown_);
        }

     private:
        const std::function<void(int, int)>& work_;
        std::mutex mutex_;
        std::exception_ptr thrown_;
    };
    Call call(work);
    const ggml_context_ptr ctx(
        ggml_init({.mem_size = 4 * ggml_tensor_overhead() + ggml_graph_overhead_custom(4, false),
                   .mem_buffer = nullptr,
                   .no_alloc = false}));
    if (!ctx) throw Error(ErrorCode::kExhausted, "no memory for a graph's description");
    Tensor node = ggml_custom_4d(ctx.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0, run_custom,
                                 GGML_N_TASKS_MAX, &call);
    ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), 4, false);
    ggml_build_forward_expand(graph, node);
    arrive();
    const ggml_status status = ggml_backend_graph_compute(cpu_.get(), graph);
    depart();
    check(status == GGML_STATUS_SUCCESS, ggml_status_to_string(status));
    call.rethrow();
}

void Backend::share_out(int64_t n, const std::function<void(int64_t i, int thread)>& work) const {
    std::atomic<int64_t> next = 0;
    on_all_threads([&](int thread, int /*n_threads*/) {
        for (int64_t i = next++; i < n; i = next++) work(i, thread);
    });
}

Storage::Storage(size_t max_tensors) : ctx_(make_context(max_tensors * ggml_tensor_overhead())) {}

Tensor Storage::add(ggml_type type, const Shape& shape) {
    return ggml_new_tensor(ctx_.get(), type, 4, shape.data());
}

void Storage::commit(const Backend& backend) {
    buffer_.reset(ggml_backend_alloc_ctx_tensors(ctx_.get(), backend.main()));
    if (!buffer_) throw Error(ErrorCode::kExhausted, "no memory for stored tensors");
    ggml_backend_buffer_clear(buffer_.get(), 0);
}

size_t Storage::bytes() const { return buffer_ ? ggml_backend_buffer_get_size(buffer_.get()) : 0; }

BorrowedStorage::BorrowedStorage(std::span<std::byte> bytes, size_t max_tensors)
    : bytes_(bytes),
      ctx_(make_context(max_tensors * ggml_tensor_overhead())),
      buffer_(ggml_backend_cpu_buffer_from_ptr(bytes.data(), bytes.size())) {
    if (!buffer_) throw Error(ErrorCode::kExhausted, "ggml refuses the memory it was lent");
}

Tensor BorrowedStorage::add(ggml_type type, const Shape& shape, size_t offset) {
    Tensor t = ggml_new_tensor(ctx_.get(), type, 4, shape.data());
    check(offset <= bytes_.size() && ggml_nbytes(t) <= bytes_.size() - offset,
          "a borrowed tensor must lie inside its bytes");
    const ggml_status status = ggml_backend_tensor_alloc(buffer_.get(), t, bytes_.data() + offset);
    check(status == GGML_STATUS_SUCCESS, "ggml refuses a borrowed tensor");
    return t;
}

Graph::Graph(size_t max_nodes)
    : ctx_(make_context(2 * max_nodes * ggml_tensor_overhead() +
                        ggml_graph_overhead_custom(max_nodes, false))),
      graph_(ggml_new_graph_custom(ctx_.get(), max_nodes, false)) {}

Tensor Graph::input(ggml_type type, const Shape& shape,
                    std::function<void(std::span<std::byte>)> fill) {
    Tensor t = ggml_new_tensor(ctx_.get(), type, 4, shape.data());
    ggml_set_input(t);
    inputs_.push_back({t, std::move(fill)});
    return t;
}

Tensor Graph::custom(const Shape& shape, std::span<const Tensor> sources,
                     std::unique_ptr<CustomOp> op, ggml_type type) {
    check(sources.size() < GGML_MAX_SRC, "a custom node has too many sources");
    std::array<Tensor, GGML_MAX_SRC> args{};
    std::ranges::copy(sources, args.begin());
    ops_.push_back(std::move(op));
    return ggml_custom_4d(ctx_.get(), type, shape[0], shape[1], shape[2], shape[3], args.data(),
                          static_cast<int>(sources.size()), run_custom, GGML_N_TASKS_MAX,
                          ops_.back().get());
}

const ThreadMemory& Graph::thread_memory(size_t bytes) {
    thread_memory_.bytes_ = std::max(thread_memory_.bytes_, whole_lines(bytes));
    return thread_memory_;
}

void ThreadMemory::prepare(int n_threads) {
    constexpr size_t kLine = 64;
    const size_t size = bytes_ * static_cast<size_t>(n_threads) + kLine;
    if (bytes_ == 0 || size <= size_) return;
    try {
        // Not touched before its thread writes there.
        memory_ = std::make_unique_for_overwrite<std::byte[]>(size);
    } catch (const std::bad_alloc&) {
        throw Error(
            ErrorCode::kExhausted,
            cat("no memory for ", size, " bytes to work in; fewer threads (--threads) need less"));
    }
    size_ = size;
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    start_ = memory_.get() + (kLine - address % kLine) % kLine;
}

Tensor Graph::keep(Tensor t) {
    ggml_build_forward_expand(graph_, t);
    return t;
}

Tensor Graph::output(Tensor t) {
    ggml_set_output(t);
    return keep(t);
}

void Graph::compute(Backend& backend) {
    if (allocation_ == 0) allocation_ = backend.allocate(graph_);
    check(is_current(backend), "a graph whose memory another one took");
    for (const Input& in : inputs_) {
        if (in.tensor->buffer == nullptr) continue;  // nothing reads this input
        check(ggml_backend_buffer_is_host(in.tensor->buffer), "an input lies outside the host");
        in.fill({static_cast<std::byte*>(in.tensor->data), ggml_nbytes(in.tensor)});
    }
    thread_memory_.prepare(backend.n_threads());
    arrive();
    const ggml_status status = ggml_backend_sched_graph_compute(backend.sched(), graph_);
    depart();
    check(status == GGML_STATUS_SUCCESS, ggml_status_to_string(status));
}

std::vector<float> Graph::read(const ggml_tensor* t) {
    std::vector<float> out(static_cast<size_t>(ggml_nelements(t)));
    if (t->type == GGML_TYPE_F16) {
        std::vector<ggml_fp16_t> halves(out.size());
        ggml_backend_tensor_get(t, halves.data(), 0, halves.size() * sizeof(ggml_fp16_t));
        ggml_fp16_to_fp32_row(halves.data(), out.data(), std::ssize(halves));
        return out;
    }
    ggml_backend_tensor_get(t, out.data(), 0, out.size() * sizeof(float));
    return out;
}

}  // namespace palimpsest
