#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_set>
#include <utility>
#include <vector>

namespace palimpsest {

/// Random numbers that a seed fixes on every platform, which the standard library's distributions
/// and its shuffle do not. SplitMix64 (Steele, Lea and Flood, 2014). A copy goes on by itself.
class Random {
 public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next() {
        state_ += 0x9e3779b97f4a7c15ULL;
        uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }

    /// 0 to n - 1, each as likely; n is at least 1.
    int64_t below(int64_t n) {
        const auto range = static_cast<uint64_t>(std::max<int64_t>(1, n));
        const uint64_t surplus = (0 - range) % range;  // 2^64 modulo n: would favour low numbers
        uint64_t x = next();
        while (x < surplus) x = next();
        return static_cast<int64_t>(x % range);
    }

    /// 0 to 1, without 1.
    double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

    template <typename T>
    void shuffle(std::vector<T>& items) {
        for (size_t i = items.size(); i > 1; --i) {
            std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
        }
    }

    /// k different numbers from 0 to n - 1, in random order; k is at most n.
    std::vector<int64_t> sample(int64_t n, int64_t k) {
        std::vector<int64_t> chosen;
        if (k > n / 2) {
            for (int64_t i = 0; i < n; ++i) chosen.push_back(i);
            shuffle(chosen);
            chosen.resize(static_cast<size_t>(k));
            return chosen;
        }
        std::unordered_set<int64_t> seen;
        while (static_cast<int64_t>(chosen.size()) < k) {
            const int64_t x = below(n);
            if (seen.insert(x).second) chosen.push_back(x);
        }
        return chosen;
    }

 private:
    uint64_t state_;
};

}  // namespace palimpsest
