// Sums of matrix products with one rounding at the end: a linear layer with its adapter, and the gradient of its input.
//
// out[r] = round(sum over terms of a[r] . b): a's rows are as they are, b is packed into panels of PANEL result channels,
// units along the summed axis inside. What a panel needs stays in the second cache; sums stay in registers.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "scratch.h"
#include "vectors.h"

namespace raft {

constexpr int PANEL = 64;       // result channels of a panel
constexpr int ROWS = 6;         // rows that are summed at one time
constexpr int ROW_BLOCK = 96;   // rows whose sums wait between two passes
constexpr int PASS = 2048;      // units of a panel in one pass: half a megabyte

// a [rows][stride] units, b [units][PANEL] of the panel in work
struct Term {
  const Unit* a;
  int64_t stride;
  const Unit* b;
  int64_t units;
};

inline int64_t panels(int64_t channels) { return (channels + PANEL - 1) / PANEL; }

inline void transpose(__m512i (&x)[LANES]) {
  __m512i y[LANES];
  for (int i = 0; i < LANES; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < LANES; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
  }
}

// panel `p` of a matrix [channels][depth] whose rows are result channels, [units][PANEL]
template <class T>
void pack_channels(Unit* out, const typename T::Element* w, int64_t channels, int64_t depth, int64_t p) {
  const int64_t units = depth / T::STEP, first = p * PANEL;
  for (int64_t c = 0; c < PANEL; c += LANES) {
    const int count = static_cast<int>(std::clamp<int64_t>(channels - first - c, 0, LANES));
    for (int64_t u = 0; u < units; u += LANES) {
      const int width = static_cast<int>(std::min<int64_t>(LANES, units - u));
      __m512i x[LANES];
      for (int i = 0; i < LANES; ++i)
        x[i] = i < count ? _mm512_maskz_loadu_epi32((1u << width) - 1, w + (first + c + i) * depth + u * T::STEP)
                         : _mm512_setzero_si512();
      transpose(x);
      for (int i = 0; i < width; ++i) _mm512_storeu_si512(out + (u + i) * PANEL + c, x[i]);
    }
  }
}

// panel `p` of a matrix [depth][channels] whose columns are result channels, [units][PANEL]
template <class T>
void pack_columns(Unit* out, const typename T::Element* w, int64_t depth, int64_t channels, int64_t p) {
  const int64_t units = depth / T::STEP, first = p * PANEL;
  const int count = static_cast<int>(std::min<int64_t>(PANEL, channels - first));
  for (int64_t u = 0; u < units; ++u, out += PANEL) {
    const typename T::Element* row = w + u * T::STEP * channels + first;
    T::join(out, row, row + (T::STEP - 1) * channels, count);
    if (count < PANEL) std::memset(out + count, 0, sizeof(Unit) * (PANEL - count));
  }
}

struct Segment {
  const Unit *a, *b;
  int64_t stride;
  int units;
};

template <class T, int M, int N>
inline void tile(const std::vector<Segment>& pass, int64_t row, float* sums, bool begins, bool ends,
                 typename T::Element* out, int64_t width, int channels) {
  __m512 total[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) total[m][n] = begins ? _mm512_setzero_ps() : load(sums + m * PANEL + LANES * n);
  for (const Segment& s : pass) {
    const Unit *a = s.a + row * s.stride, *b = s.b;
    for (int u = 0; u < s.units; ++u, ++a, b += PANEL) {
      __m512i right[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) right[n] = _mm512_loadu_si512(b + LANES * n);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const __m512i left = _mm512_set1_epi32(static_cast<int>(a[m * s.stride]));
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) total[m][n] = T::dot(total[m][n], left, right[n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      if (ends) {
        const int rest = channels - LANES * n;
        T::write(out + m * width + LANES * n, static_cast<__mmask16>(rest < LANES ? (1u << rest) - 1 : 0xffff), total[m][n]);
      } else {
        _mm512_storeu_ps(sums + m * PANEL + LANES * n, total[m][n]);
      }
    }
}

// all rows of the channels of panel `p`
template <class T>
void multiply(const std::vector<Term>& terms, int64_t rows, int64_t p, typename T::Element* out, int64_t width) {
  std::vector<std::vector<Segment>> passes(1);
  int64_t room = PASS;
  for (const Term& t : terms) {
    for (int64_t at = 0; at < t.units;) {
      if (!room) {
        passes.emplace_back();
        room = PASS;
      }
      const int64_t units = std::min(room, t.units - at);
      passes.back().push_back({t.a + at, t.b + at * PANEL, t.stride, static_cast<int>(units)});
      at += units;
      room -= units;
    }
  }
  const int channels = static_cast<int>(std::min<int64_t>(PANEL, width - p * PANEL));
  alignas(64) float sums[ROW_BLOCK * PANEL];
  for (int64_t block = 0; block < rows; block += ROW_BLOCK) {
    const int64_t end = std::min<int64_t>(rows, block + ROW_BLOCK);
    for (size_t i = 0; i < passes.size(); ++i) {
      const bool begins = i == 0, ends = i + 1 == passes.size();
      for (int64_t r = block; r < end;) {
        float* waiting = sums + (r - block) * PANEL;
        typename T::Element* place = out + r * width + p * PANEL;
        const int many = r + ROWS <= end ? ROWS : 1;
        with_count((channels + LANES - 1) / LANES, [&](auto count) {
          constexpr int N = decltype(count)::value;
          if (many == ROWS)
            tile<T, ROWS, N>(passes[i], r, waiting, begins, ends, place, width, channels);
          else
            tile<T, 1, N>(passes[i], r, waiting, begins, ends, place, width, channels);
        });
        r += many;
      }
    }
  }
}

// A matrix that is multiplied from the right, and the rows on its left.
template <class T>
struct Factor {
  const typename T::Element *left, *right;
  int64_t depth;   // of the sum; whole units
  bool by_columns; // right is [depth][width], else [width][depth]
};

// panel `p` of the sum of products, [rows][width]
template <class T>
void linear_panel(const std::vector<Factor<T>>& factors, int64_t rows, int64_t width, int64_t p,
                  typename T::Element* out) {
  size_t bytes = 64;
  for (const auto& f : factors) bytes += sizeof(Unit) * PANEL * (f.depth / T::STEP) + 64;
  Scratch memory(bytes);
  std::vector<Term> terms;
  for (const auto& f : factors) {
    const int64_t units = f.depth / T::STEP;
    Unit* packed = memory.take<Unit>(units * PANEL);
    if (f.by_columns)
      pack_columns<T>(packed, f.right, f.depth, width, p);
    else
      pack_channels<T>(packed, f.right, width, f.depth, p);
    terms.push_back({reinterpret_cast<const Unit*>(f.left), units, packed, units});
  }
  multiply<T>(terms, rows, p, out, width);
}

}  // namespace raft
