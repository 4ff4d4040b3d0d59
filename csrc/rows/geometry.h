// Exact integer predicates on the plane.
//
// Coordinates are at most 2^20 in size: a difference needs 22 bits, a product of two 44, a sum of two products 45. All
// of it is exact in int64, and in double too.
#pragma once

#include "base/random.h"

namespace worldfast {

struct Point {
    int32_t x, y;
};

constexpr int32_t max_coordinate = 1 << 20;

WF_HD bool in_bounds(Point p) {
    return p.x <= max_coordinate && p.x >= -max_coordinate && p.y <= max_coordinate && p.y >= -max_coordinate;
}

// Of coordinates: 22 bits. A GPU multiplies two numbers of 32 bits in one instruction and of 64 in four; a CPU does not
// care, but would have to widen them.
#ifdef __CUDA_ARCH__
using Difference = int32_t;
#else
using Difference = int64_t;
#endif

struct Vector {
    Difference x, y;
};

WF_HD Vector operator-(Point a, Point b) { return {Difference{a.x} - b.x, Difference{a.y} - b.y}; }
WF_HD int64_t dot(Vector a, Vector b) { return int64_t{a.x} * b.x + int64_t{a.y} * b.y; }
WF_HD int64_t cross(Vector a, Vector b) { return int64_t{a.x} * b.y - int64_t{a.y} * b.x; }

// Is r strictly to the left of the line from p to q?
WF_HD bool left(Point p, Point q, Point r) { return cross(q - p, r - p) > 0; }

// Is t in the closed convex hull of h[0..K)? A hull without area holds nothing.
//
// t is outside exactly when the arms from t to all points fit in an open half-plane, that is, when one arm has every
// other within [0, 180) degrees counter-clockwise of itself.
template <int K>
WF_HD bool in_hull(Point t, const Point* h) {
    int32_t east = -1, west = -1, north = -1, south = -1;  // negative: all points so far lie on that side of t
    for (int i = 0; i < K; ++i) {
        east &= t.x - h[i].x;
        west &= h[i].x - t.x;
        north &= t.y - h[i].y;
        south &= h[i].y - t.y;
    }
    if ((east | west | north | south) < 0) return false;  // not in the bounding box: most rows end here
    bool first[K], aligned = false;
    for (int i = 0; i < K; ++i) first[i] = true;
    for (int i = 0; i < K; ++i)
        for (int j = i + 1; j < K; ++j) {
            const int64_t turn = cross(h[i] - t, h[j] - t);
            first[i] &= turn > 0;
            first[j] &= turn < 0;
            aligned |= turn == 0;
        }
    if (aligned)  // rare: two points in one line with t, or on it
        for (int i = 0; i < K; ++i) {
            first[i] = true;
            for (int j = 0; j < K; ++j) {
                const Vector a = h[i] - t, b = h[j] - t;
                first[i] &= j == i || cross(a, b) > 0 || (cross(a, b) == 0 && dot(a, b) > 0);
            }
        }
    bool outside = false;
    for (int i = 0; i < K; ++i) outside |= first[i];
    if (outside) return false;
    for (int i = 2; i < K; ++i)
        for (int j = 1; j < i; ++j)
            if (cross(h[j] - h[0], h[i] - h[0]) != 0) return true;
    return false;
}

}  // namespace worldfast
