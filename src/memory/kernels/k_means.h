#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/graph.h"

namespace palimpsest {

struct KMeansOptions {
    int64_t k = 0;
    uint64_t seed = 1;
    int max_rounds = 20;
    double converged = 0.001;   // done when a smaller share of the points changes its cluster
    bool is_spherical = false;  // centroids of length 1: for points of length 1, cosine decides
    int64_t most_points = 0;    // centroids are found on so many of the points; 0: on all
};

struct Clustering {
    std::vector<float> centroids;  // [k][d]; k is at most the number of distinct points
    std::vector<int32_t> nearest;  // [n]: which centroid
    int rounds = 0;
};

/// Lloyd's k-means (1982) from distinct points picked by the seed, squared Euclidean distance, on
/// all of the backend's threads; a cluster that loses its last point moves to the point that is
/// farthest from its own. `points` is [n][d], n >= 1. The same bits for any number of threads.
Clustering k_means(const Backend& backend, std::span<const float> points, int64_t d,
                   const KMeansOptions& options);

}  // namespace palimpsest
