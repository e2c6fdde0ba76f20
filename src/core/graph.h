#pragma once

#include <ggml-cpp.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// Never owns. The owner is a Graph (gone when the Graph is), a Storage or the weights.
using Tensor = ggml_tensor*;

/// Devices, and the scheduler that spreads a graph over them. Not thread-safe: one graph at a time.
class Backend {
 public:
    /// Throws kInvalidArgument unless 1 <= n_threads <= 512.
    explicit Backend(int n_threads);

    [[nodiscard]] ggml_backend_t main() const { return cpu_.get(); }
    [[nodiscard]] ggml_backend_sched_t sched() const { return sched_.get(); }
    [[nodiscard]] int n_threads() const { return n_threads_; }

    /// The buffer type in which a matrix of this type and shape is multiplied fastest; nullptr: the
    /// plain one, in which it can stay where it is.
    [[nodiscard]] ggml_backend_buffer_type_t packed_type(ggml_type type, const Shape& shape) const;

    /// Counts the graphs that took the activation memory: a graph computes again without a new
    /// allocation only while no other one has taken it.
    [[nodiscard]] uint64_t allocations() const { return allocations_; }
    /// Takes the activation memory for a graph, whatever its size; the graph that had it must take
    /// it again. Throws kExhausted. Returns the new count.
    uint64_t allocate(ggml_cgraph* graph);

    /// Calls `work` from all threads at once, outside any graph, and waits. Rethrows what one of
    /// them threw.
    void on_all_threads(const std::function<void(int thread, int n_threads)>& work) const;

    /// Calls `work` for every i in [0, n), each by whichever thread is free.
    void share_out(int64_t n, const std::function<void(int64_t i, int thread)>& work) const;

    /// Processors this process may use.
    [[nodiscard]] static int available_threads();

 private:
    struct PoolDeleter {
        void operator()(ggml_threadpool* pool) const;
    };

    int n_threads_;
    uint64_t allocations_ = 0;
    void make_scheduler(size_t n_nodes);

    /// Of its own: ggml makes another one for every graph otherwise, and uses it even if there was
    /// no memory for it.
    std::unique_ptr<ggml_threadpool, PoolDeleter> pool_;
    ggml_backend_ptr cpu_;
    ggml_backend_sched_ptr sched_;
    size_t most_nodes_ = 0;  // nodes and leaves that the scheduler can take
};

/// Tensors that outlive a graph, in memory of the backend's choice: recurrent state, small tables.
class Storage {
 public:
    /// Declares at most `max_tensors` tensors; no memory yet.
    explicit Storage(size_t max_tensors);
    Tensor add(ggml_type type, const Shape& shape);
    /// Allocates everything added so far, zeroed. Throws kExhausted.
    void commit(const Backend& backend);
    [[nodiscard]] size_t bytes() const;

 private:
    ggml_context_ptr ctx_;
    ggml_backend_buffer_ptr buffer_;
};

/// Tensors over memory that somebody else owns and that outlives this object.
class BorrowedStorage {
 public:
    /// `bytes` must start at a multiple of 32. Throws kExhausted if ggml refuses it.
    BorrowedStorage(std::span<std::byte> bytes, size_t max_tensors);
    /// A tensor at `offset`; it must end inside the bytes.
    Tensor add(ggml_type type, const Shape& shape, size_t offset);

 private:
    std::span<std::byte> bytes_;
    ggml_context_ptr ctx_;
    ggml_backend_buffer_ptr buffer_;
};

/// A computation of ours inside a graph. run() is called by all threads of the backend at once;
/// each does its share. It reads `dst->src`, writes `dst`, and may not throw.
class CustomOp {
 public:
    CustomOp() = default;
    virtual ~CustomOp() = default;
    CustomOp(const CustomOp&) = delete;
    CustomOp& operator=(const CustomOp&) = delete;
    virtual void run(ggml_tensor* dst, int thread, int n_threads) noexcept = 0;
};

/// Hands out numbers to threads that come and go; ready for the next run when all have gone.
class WorkList {
 public:
    /// The next piece of work, or one past the end.
    int64_t take() noexcept { return next_.fetch_add(1, std::memory_order_relaxed); }
    /// To be called by every thread once it has seen the end.
    void leave(int n_threads) noexcept {
        if (gone_.fetch_add(1, std::memory_order_acq_rel) + 1 < n_threads) return;
        next_.store(0, std::memory_order_relaxed);
        gone_.store(0, std::memory_order_release);
    }

 private:
    std::atomic<int64_t> next_ = 0;
    std::atomic<int> gone_ = 0;
};

/// Pieces of work [begin, end).
struct WorkRange {
    int64_t begin = 0, end = 0;
};

/// Work over memory that is read once: most of it in one range a thread, since memory is read
/// fastest in order, and the rest in small ones for whoever is done first.
class WorkRanges {
 public:
    WorkRanges(int64_t n_pieces, int n_threads) : n_(n_pieces), n_threads_(n_threads) {}
    /// How many ranges there are; some may be empty.
    [[nodiscard]] int64_t count() const { return (1 + kSmall) * n_threads_; }
    /// Range i, after all ranges before it.
    [[nodiscard]] WorkRange operator[](int64_t i) const { return {start(i), start(i + 1)}; }

 private:
    static constexpr int64_t kSmall = 4;  // ranges a thread, of the last quarter
    [[nodiscard]] int64_t start(int64_t i) const {
        const int64_t most = n_ - n_ / 4;
        if (i <= n_threads_) return most * i / n_threads_;
        return most + (n_ - most) * (i - n_threads_) / (kSmall * n_threads_);
    }

    int64_t n_;
    int64_t n_threads_;
};

/// Bytes, made whole cache lines.
constexpr size_t whole_lines(size_t bytes) {
    constexpr size_t kLine = 64;
    return (bytes + kLine - 1) / kLine * kLine;
}

/// Memory that each thread of a running graph works in. All nodes use the same, one after another.
class ThreadMemory {
 public:
    /// Starts at a multiple of 64 bytes. Only while the graph runs.
    [[nodiscard]] std::byte* of(int thread) const {
        return start_ + static_cast<size_t>(thread) * bytes_;
    }

 private:
    friend class Graph;
    void prepare(int n_threads);  // throws kExhausted
    size_t bytes_ = 0;            // of a thread, a multiple of 64
    std::unique_ptr<std::byte[]> memory_;
    size_t size_ = 0;
    std::byte* start_ = nullptr;
};

/// One forward pass: build, compute (as often as its topology holds), read.
class Graph {
 public:
    explicit Graph(size_t max_nodes);

    [[nodiscard]] ggml_context* ctx() const { return ctx_.get(); }

    /// A leaf fed from the host. `fill` writes its bytes before every compute.
    Tensor input(ggml_type type, const Shape& shape,
                 std::function<void(std::span<std::byte>)> fill);

    /// A node computed by `op`, after `sources` (at most 9). The graph owns `op`.
    Tensor custom(const Shape& shape, std::span<const Tensor> sources, std::unique_ptr<CustomOp> op,
                  ggml_type type = GGML_TYPE_F32);

    /// Memory of at least so many bytes a thread, which nodes of ours share.
    const ThreadMemory& thread_memory(size_t bytes);

    /// Evaluates `t` at this point of the program, even if nothing reads it.
    Tensor keep(Tensor t);

    /// keep(), and its value stays readable after compute().
    Tensor output(Tensor t);

    /// Throws kExhausted if buffers do not fit, kInternal if a node fails, or if another graph has
    /// been computed since this one was first (then build it anew).
    void compute(Backend& backend);

    /// Was computed on `backend`, and can be again.
    [[nodiscard]] bool is_current(const Backend& backend) const {
        return allocation_ != 0 && allocation_ == backend.allocations();
    }

    /// Copies an output of f32, or of f16, to the host.
    static std::vector<float> read(const ggml_tensor* t);

 private:
    struct Input {
        Tensor tensor;
        std::function<void(std::span<std::byte>)> fill;
    };
    ggml_context_ptr ctx_;
    ggml_cgraph* graph_ = nullptr;
    std::vector<Input> inputs_;
    std::vector<std::unique_ptr<CustomOp>> ops_;
    ThreadMemory thread_memory_;
    uint64_t allocation_ = 0;  // which of the backend's; 0: none yet
};

}  // namespace palimpsest
