#include "memory/prefix/whitening.h"

#include <cmath>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr double kRidge = 1e-3;
constexpr int kMostSweeps = 30;

/// A symmetric matrix as V diag(values) V^T.
struct Eigen {
    std::vector<double> values;   // [d]
    std::vector<double> vectors;  // [d][d], vector j in column j
};

/// One rotation of Jacobi's method: makes entry (p, q) zero.
void rotate(std::vector<double>& a, std::vector<double>& v, size_t d, size_t p, size_t q) {
    const double apq = a[p * d + q];
    if (apq == 0) return;
    const double theta = (a[q * d + q] - a[p * d + p]) / (2 * apq);
    const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
    const double c = 1 / std::sqrt(t * t + 1);
    const double s = t * c;
    for (size_t i = 0; i < d; ++i) {
        const double x = a[i * d + p];
        const double y = a[i * d + q];
        a[i * d + p] = c * x - s * y;
        a[i * d + q] = s * x + c * y;
    }
    for (size_t i = 0; i < d; ++i) {
        const double x = a[p * d + i];
        const double y = a[q * d + i];
        a[p * d + i] = c * x - s * y;
        a[q * d + i] = s * x + c * y;
        const double vx = v[i * d + p];
        const double vy = v[i * d + q];
        v[i * d + p] = c * vx - s * vy;
        v[i * d + q] = s * vx + c * vy;
    }
}

Eigen eigen_of(std::vector<double> a, size_t d) {
    Eigen e = {.values = std::vector<double>(d), .vectors = std::vector<double>(d * d)};
    for (size_t i = 0; i < d; ++i) e.vectors[i * d + i] = 1;
    double total = 0;
    for (const double x : a) total += x * x;
    for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
        double off = 0;
        for (size_t p = 0; p < d; ++p) {
            for (size_t q = p + 1; q < d; ++q) off += a[p * d + q] * a[p * d + q];
        }
        if (off <= 1e-24 * total) break;
        for (size_t p = 0; p < d; ++p) {
            for (size_t q = p + 1; q < d; ++q) rotate(a, e.vectors, d, p, q);
        }
    }
    for (size_t i = 0; i < d; ++i) e.values[i] = a[i * d + i];
    return e;
}

std::vector<double> covariance(std::span<const float> rows, size_t stride, size_t at, size_t d) {
    const size_t n = rows.size() / stride;
    std::vector<double> mean(d);
    for (size_t i = 0; i < n; ++i) {
        for (size_t c = 0; c < d; ++c) mean[c] += double{rows[i * stride + at + c]};
    }
    for (double& m : mean) m /= static_cast<double>(n);
    std::vector<double> sum(d * d);
    std::vector<double> x(d);
    for (size_t i = 0; i < n; ++i) {
        for (size_t c = 0; c < d; ++c) x[c] = double{rows[i * stride + at + c]} - mean[c];
        for (size_t a = 0; a < d; ++a) {
            for (size_t b = 0; b < d; ++b) sum[a * d + b] += x[a] * x[b];
        }
    }
    for (double& s : sum) s /= static_cast<double>(n);
    return sum;
}

/// V diag(f(values)) V^T.
template <class Function>
std::vector<float> applied(const Eigen& e, size_t d, const Function& f) {
    std::vector<double> scaled(d * d);
    for (size_t i = 0; i < d; ++i) {
        for (size_t j = 0; j < d; ++j) scaled[i * d + j] = e.vectors[i * d + j] * f(e.values[j]);
    }
    std::vector<float> m(d * d);
    for (size_t a = 0; a < d; ++a) {
        for (size_t b = 0; b <= a; ++b) {
            double sum = 0;
            for (size_t j = 0; j < d; ++j) sum += scaled[a * d + j] * e.vectors[b * d + j];
            m[a * d + b] = static_cast<float>(sum);
            m[b * d + a] = m[a * d + b];
        }
    }
    return m;
}

}  // namespace

Whitening whitening_of(std::span<const float> rows, int64_t stride, int64_t at, int64_t d) {
    check(d > 0 && at + d <= stride && std::ssize(rows) >= stride, "rows to whiten");
    const auto n = static_cast<size_t>(d);
    std::vector<double> c =
        covariance(rows, static_cast<size_t>(stride), static_cast<size_t>(at), n);
    double trace = 0;
    for (size_t i = 0; i < n; ++i) trace += c[i * n + i];
    // Rows that do not vary at all are left as they are.
    const double ridge = trace > 0 ? kRidge * trace / static_cast<double>(n) : 1.0;
    for (size_t i = 0; i < n; ++i) c[i * n + i] += ridge;
    const Eigen e = eigen_of(std::move(c), n);
    const auto positive = [&](double x) { return std::max(x, ridge); };
    return {.d = d, .root = applied(e, n, [&](double x) { return 1 / std::sqrt(positive(x)); })};
}

void multiply(std::span<const float> m, std::span<const float> x, std::span<float> out) {
    for (size_t a = 0; a < out.size(); ++a) {
        float sum = 0;
        for (size_t b = 0; b < x.size(); ++b) sum += m[a * x.size() + b] * x[b];
        out[a] = sum;
    }
}

}  // namespace palimpsest
