// Winograd's algorithm F(4x4, 3x3) for convolutions of stride 1 and padding 1 (Lavin and Gray 2015, arXiv:1509.09308):
// its transforms and the matrix product between them, for vectors of channels.
//
// A tile is 4x4 numbers of the result. The 6x6 numbers of the input that it needs become 36 a channel (V); these go
// through 36 matrix products with the transformed weights (U), and the 36 results (M) become the tile: 36
// multiplications for what takes 144. The points of interpolation are 0, +-11/16, +-3/2 and infinity: less than half of
// the rounding error of the usual 0, +-1, +-2, and exact in float32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace winograd {

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 12;  // of a product: 24 sums, 2 weights, 1 input in 32 registers
#else
constexpr int kLanes = 8, kRows = 6;
#endif
constexpr int kPanel = 32;  // channels that lie together in U, M and Y
constexpr int kPoints = 36, kIn = 6, kOut = 4, kKernel = 3;
constexpr float kA = 0.6875f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB, kAll = kA2 * kB2;
constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));

typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Indices __attribute__((vector_size(kLanes * 4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline int64_t whole(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// The transforms work along one axis, from vectors `step` apart to vectors `to` apart. Names are those of the paper.

inline void input(const Vector* d, int step, Vector* out, int to) {  // B^T: six to six
  const Vector d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Vector even_a = d4 - kB2 * d2, odd_a = kA * (d3 - kB2 * d1);
  const Vector even_b = d4 - kA2 * d2, odd_b = kB * (d3 - kA2 * d1);
  out[0] = kAll * d0 - (kA2 + kB2) * d2 + d4;
  out[to] = even_a + odd_a;
  out[2 * to] = even_a - odd_a;
  out[3 * to] = even_b + odd_b;
  out[4 * to] = even_b - odd_b;
  out[5 * to] = kAll * d1 - (kA2 + kB2) * d3 + d5;
}

inline void result(const Vector* m, int step, Vector* out, int to) {  // A^T: six to four
  const Vector sum_a = m[step] + m[2 * step], difference_a = kA * (m[step] - m[2 * step]);
  const Vector sum_b = m[3 * step] + m[4 * step], difference_b = kB * (m[3 * step] - m[4 * step]);
  out[0] = m[0] + sum_a + sum_b;
  out[to] = difference_a + difference_b;
  out[2 * to] = kA2 * sum_a + kB2 * sum_b;
  out[3 * to] = kA2 * difference_a + kB2 * difference_b + m[5 * step];
}

inline void of_result(const Vector* y, int step, Vector* out, int to) {  // A: four to six, for a gradient
  const Vector even_a = y[0] + kA2 * y[2 * step], odd_a = kA * (y[step] + kA2 * y[3 * step]);
  const Vector even_b = y[0] + kB2 * y[2 * step], odd_b = kB * (y[step] + kB2 * y[3 * step]);
  out[0] = y[0];
  out[to] = even_a + odd_a;
  out[2 * to] = even_a - odd_a;
  out[3 * to] = even_b + odd_b;
  out[4 * to] = even_b - odd_b;
  out[5 * to] = y[3 * step];
}

inline void weights(const Vector* g, int step, Vector* out, int to) {  // G: three to six
  const Vector even_a = kScaleA * (g[0] + kA2 * g[2 * step]), odd_a = kScaleA * kA * g[step];
  const Vector even_b = kScaleB * (g[0] + kB2 * g[2 * step]), odd_b = kScaleB * kB * g[step];
  out[0] = 1 / kAll * g[0];
  out[to] = even_a + odd_a;
  out[2 * to] = even_a - odd_a;
  out[3 * to] = even_b + odd_b;
  out[4 * to] = even_b - odd_b;
  out[5 * to] = g[2 * step];
}

inline void of_weights(const Vector* m, int step, Vector* out, int to) {  // G^T: six to three, for a gradient
  const Vector sum_a = kScaleA * (m[step] + m[2 * step]), difference_a = kScaleA * kA * (m[step] - m[2 * step]);
  const Vector sum_b = kScaleB * (m[3 * step] + m[4 * step]), difference_b = kScaleB * kB * (m[3 * step] - m[4 * step]);
  out[0] = 1 / kAll * m[0] + sum_a + sum_b;
  out[to] = difference_a + difference_b;
  out[2 * to] = kA2 * sum_a + kB2 * sum_b + m[5 * step];
}

using Transform = void (*)(const Vector*, int, Vector*, int);

// Along both axes: a square of kFrom * kFrom vectors to one of kTo * kTo.
template <Transform transform, int kFrom, int kTo>
inline void both(const Vector* in, Vector* out) {
  Vector rows[kFrom * kTo];
  for (int j = 0; j < kFrom; ++j) transform(in + j * kFrom, 1, rows + j * kTo, 1);
  for (int i = 0; i < kTo; ++i) transform(rows + i, kTo, out + i, kTo);
}

// A square of kLanes rows to its columns (Eklundh 1972): squares of half the size change places, again and again.
template <int kHalf = kLanes / 2>
inline void transpose(Vector* rows) {
  Indices low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i & kHalf ? kLanes + i - kHalf : i;
    high[i] = i & kHalf ? kLanes + i : i + kHalf;
  }
  for (int i = 0; i < kLanes; ++i) {
    if (i & kHalf) continue;
    const Vector first = rows[i], second = rows[i + kHalf];
    rows[i] = __builtin_shuffle(first, second, low);
    rows[i + kHalf] = __builtin_shuffle(first, second, high);
  }
  if constexpr (kHalf > 1) transpose<kHalf / 2>(rows);
}

// Copies a line [width] of `count` planes, `stride` apart, to [width][kLanes]; lanes from `count` on stay.
inline void interleave(const float* line, int64_t stride, int64_t count, int64_t width, float* to) {
  int64_t i = 0;
  for (; count == kLanes && i + kLanes <= width; i += kLanes) {
    Vector square[kLanes];
    for (int c = 0; c < kLanes; ++c) square[c] = load(line + c * stride + i);
    transpose(square);
    for (int k = 0; k < kLanes; ++k) store(to + (i + k) * kLanes, square[k]);
  }
  for (; i < width; ++i) {
    for (int64_t c = 0; c < count; ++c) to[i * kLanes + c] = line[c * stride + i];
  }
}

struct Maps {  // [images, channels, height, width], and how it falls into tiles
  const float* data;
  int64_t images, channels, height, width;
  int64_t down() const { return whole(height, kOut); }
  int64_t across() const { return whole(width, kOut); }
  int64_t rows() const { return images * down(); }  // of tiles, in all images
  int64_t lines() const { return kIn * (across() * kOut + 2) * kLanes; }
};

// Transforms one row of tiles, channels first .. first + kLanes: squares of kSize numbers, a tile's own 4x4 or with
// those around it 6x6. Point q of tile t goes to out + q * far + t * apart.
template <Transform transform, int kSize>
void fill(const Maps& maps, int64_t row, int64_t first, float* out, int64_t far, int64_t apart, float* lines) {
  constexpr int64_t kBorder = (kSize - kOut) / 2;
  const int64_t line = maps.across() * kOut + 2 * kBorder, plane = maps.height * maps.width;
  const int64_t count = std::clamp<int64_t>(maps.channels - first, 0, kLanes);
  const float* planes = maps.data + (row / maps.down() * maps.channels + first) * plane;
  std::fill(lines, lines + kSize * line * kLanes, 0.0f);  // [kSize][line][kLanes]
  for (int64_t j = 0; j < kSize; ++j) {
    const int64_t y = row % maps.down() * kOut + j - kBorder;
    if (y < 0 || y >= maps.height) continue;
    interleave(planes + y * maps.width, plane, count, maps.width, lines + (j * line + kBorder) * kLanes);
  }
  for (int64_t t = 0; t < maps.across(); ++t) {
    Vector square[kSize * kSize], found[kPoints];
    for (int j = 0; j < kSize; ++j) {
      for (int i = 0; i < kSize; ++i) square[j * kSize + i] = load(lines + (j * line + t * kOut + i) * kLanes);
    }
    both<transform, kSize, kIn>(square, found);
    for (int q = 0; q < kPoints; ++q) store(out + q * far + t * apart, found[q]);
  }
}

// m[r][0 .. kPanel] = sum over i < length of left[r * row + i * step] * right[i][0 .. kPanel], for kCount rows.
template <int kCount>
void multiply_rows(const float* left, int64_t row, int64_t step, const float* right, int64_t length, float* m) {
  for (int k = 0; k < kPanel; k += 2 * kLanes) {
    Vector sums[kCount][2] = {};
    for (int64_t i = 0; i < length; ++i) {
      const Vector one = load(right + i * kPanel + k), two = load(right + i * kPanel + k + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) {
        sums[r][0] += left[r * row + i * step] * one;
        sums[r][1] += left[r * row + i * step] * two;
      }
    }
    for (int r = 0; r < kCount; ++r) {
      store(m + r * kPanel + k, sums[r][0]);
      store(m + r * kPanel + k + kLanes, sums[r][1]);
    }
  }
}

template <int kCount = kRows>
void multiply_few(int64_t count, const float* left, int64_t row, int64_t step, const float* right, int64_t length,
                  float* m) {
  if (count == kCount) {
    multiply_rows<kCount>(left, row, step, right, length, m);
  } else if constexpr (kCount > 1) {
    multiply_few<kCount - 1>(count, left, row, step, right, length, m);
  }
}

// The same for any number of rows, in parts of nearly equal size.
inline void multiply(int64_t count, const float* left, int64_t row, int64_t step, const float* right, int64_t length,
                     float* m) {
  const int64_t parts = whole(count, kRows);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = part * count / parts, end = (part + 1) * count / parts;
    multiply_few(end - begin, left + begin * row, row, step, right, length, m + begin * kPanel);
  }
}

// Room for `count` numbers that a thread keeps for the next time, from the start of a cache line on.
inline float* room(std::vector<float>& kept, int64_t count) {
  if (static_cast<int64_t>(kept.size()) < count + 16) kept = std::vector<float>(count + 16);
  return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) % 64 / sizeof(float);
}

// Numbers from one point to the next: one cache line more than a page, so that the points of a tile do not all fall
// into the same few places of a cache.
inline int64_t spread(int64_t numbers) { return whole(numbers, 1024) * 1024 + 16; }

}  // namespace winograd
