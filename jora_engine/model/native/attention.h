// Causal attention with segment and window masks, forward and backward, on one thread.
//
// The online softmax of FlashAttention (arXiv 2205.14135) over tiles of BQ queries and BK keys that stay in the first
// cache. Sums are float32; rounded is what the blocked form in attention.py rounds: weights, the scores' gradients and
// the results.
//
// Operands of products are packed into units of one row (`across`: neighbouring channels of a key) for sums over
// channels, into units of neighbouring rows (`along`: one channel of two keys) for sums over keys or queries.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "scratch.h"
#include "vectors.h"

namespace raft {

constexpr int BQ = 96, BK = 64;     // queries and keys of a tile
constexpr int MR = 6;               // queries of a strip, whose products are summed at one time
constexpr float NEGATIVE = -1e30f;  // finite, so that a row that sees nothing stays finite

// sums[m][n] += a[m * row + u * step] . b[u * width + 16 n] over the units u
template <class T, int M, int N>
inline __attribute__((always_inline)) void product(__m512 (&sums)[M][N], const Unit* a, int row, int step,
                                                   const Unit* b, int width, int units) {
  for (int u = 0; u < units; ++u, a += step, b += width) {
    __m512i right[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) right[n] = _mm512_loadu_si512(b + LANES * n);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512i left = _mm512_set1_epi32(static_cast<int>(a[m * row]));
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m][n] = T::dot(sums[m][n], left, right[n]);
    }
  }
}

// out[M rows of `width` floats] = out * shrink + a . b, all channels
template <class T, int M>
inline void add_product(float* out, int width, const float* shrink, const Unit* a, int row, int step, const Unit* b,
                        int units) {
  for (int at = 0; at < width; at += 4 * LANES) {
    with_count(std::min(4, (width - at) / LANES), [&](auto count) {
      constexpr int N = decltype(count)::value;
      __m512 sums[M][N];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          sums[m][n] = load(out + m * width + at + LANES * n);
          if (shrink) sums[m][n] = _mm512_mul_ps(sums[m][n], _mm512_set1_ps(shrink[m]));
        }
      product<T>(sums, a, row, step, b + at, width, units);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) _mm512_storeu_ps(out + m * width + at + LANES * n, sums[m][n]);
    });
  }
}

// the function with the vectors of keys that a strip computes, and whether it masks them: where nothing is masked a tile
// is whole
template <class F>
inline void with_tile(int columns, bool masked, F&& function) {
  if (!masked) return function(std::integral_constant<int, BK / LANES>(), std::false_type());
  with_count(columns, [&](auto count) { function(count, std::true_type()); });
}

struct Shape {
  int64_t batch, queries, heads, depth, keys, kv_heads;
  float scale, cap;
  int64_t group() const { return heads / kv_heads; }
  int width() const { return static_cast<int>((depth + LANES - 1) / LANES * LANES); }  // channels, whole vectors
  int64_t blocks() const { return (keys + BK - 1) / BK; }
};

// `count` rows of a head as they are, units across; rows up to BQ are zero
template <class T>
void copy_rows(Unit* out, const typename T::Element* x, int64_t stride, int count, int depth) {
  const int units = depth / T::STEP;
  for (int r = 0; r < count; ++r) std::memcpy(out + r * units, x + r * stride, sizeof(Unit) * units);
  std::memset(out + count * units, 0, sizeof(Unit) * units * (BQ - count));
}

// units across, transposed: [units][BK], absent rows zero
template <class T>
void pack_across(Unit* out, const typename T::Element* x, int64_t stride, int count, int depth) {
  const int units = depth / T::STEP;
  if (count < BK) std::memset(out, 0, sizeof(Unit) * units * BK);
  for (int r = 0; r < count; ++r) {
    const typename T::Element* row = x + r * stride;
    for (int u = 0; u < units; ++u) std::memcpy(out + u * BK + r, row + u * T::STEP, sizeof(Unit));
  }
}

// units along: [size / STEP][width], absent rows and channels zero
template <class T>
void pack_along(Unit* out, const typename T::Element* x, int64_t stride, int count, int size, int depth, int width) {
  static const typename T::Element nothing[512] = {};
  if (count < size || depth < width) std::memset(out, 0, sizeof(Unit) * size / T::STEP * width);
  for (int r = 0; r < count; r += T::STEP)
    T::join(out + r / T::STEP * width, x + r * stride, r + 1 < count ? x + (r + 1) * stride : nothing, depth);
}

// What the MR queries of a strip see of a block of keys.
struct View {
  int64_t low, high, first_query;  // earliest and latest first key of the queries; number of the first query
  int columns;                     // vectors of keys to compute, 0 for none
  bool masked;                     // whether some query does not see some of them
};

inline View view(const int32_t* first, int64_t query, int rows, int64_t key) {
  View v{first[0], first[0], query, 0, true};
  for (int m = 1; m < rows; ++m) {
    v.low = std::min<int64_t>(v.low, first[m]);
    v.high = std::max<int64_t>(v.high, first[m]);
  }
  const int64_t last = query + rows - 1;
  if (key > last || v.low > std::min(last, key + BK - 1)) return v;
  v.columns = static_cast<int>((std::min<int64_t>(BK, last + 1 - key) + LANES - 1) / LANES);
  v.masked = rows < MR || v.high > key || key + v.columns * LANES - 1 > query;
  return v;
}

// lanes of the keys `key`, key + 1, … that a query sees
inline __mmask16 seen(int64_t first, int64_t query, int64_t key) {
  const int low = static_cast<int>(std::clamp<int64_t>(first - key, 0, LANES));
  const int high = static_cast<int>(std::clamp<int64_t>(query + 1 - key, 0, LANES));
  return low < high ? static_cast<__mmask16>(((1u << high) - 1) & ~((1u << low) - 1)) : 0;
}

template <class T>
size_t forward_bytes(const Shape& s) {
  const size_t units = s.depth / T::STEP, blocks = s.blocks();
  return 4 * (blocks * BK * (units + s.width() / T::STEP) + BQ * units + BQ * s.width() + 3 * BQ * LANES + MR * BK) + 1024;
}

// Keys and values of a row as `[keys][kv_heads][depth]`, packed block by block.
template <class T>
struct Sequence {
  const typename T::Element *k, *v;  // of the row's first key
  void pack(const Shape& s, int64_t kv, int64_t j, Unit* keys, Unit* values) const {
    const int count = static_cast<int>(std::min<int64_t>(BK, s.keys - j * BK)), depth = static_cast<int>(s.depth);
    const int64_t row = s.kv_heads * depth, at = j * BK * row + kv * depth;
    pack_across<T>(keys, k + at, row, count, depth);
    pack_along<T>(values, v + at, row, count, BK, depth, s.width());
  }
};

// The same of a row of a key/value cache, in pieces of whole blocks: keys `[kv_heads][depth][columns]`, values
// `[kv_heads][columns][depth]`.
template <class T>
struct Columns {
  struct Piece {
    const typename T::Element *k, *v;  // of the row
    int64_t columns;
  };
  std::vector<Piece> pieces;
  void pack(const Shape& s, int64_t kv, int64_t j, Unit* keys, Unit* values) const {
    const int depth = static_cast<int>(s.depth);
    int64_t column = j * BK;
    const Piece* piece = pieces.data();
    for (; column >= piece->columns; ++piece) column -= piece->columns;
    const auto* k = piece->k + kv * depth * piece->columns + column;
    for (int c = 0; c < depth; c += T::STEP)
      T::join(keys + c / T::STEP * BK, k + c * piece->columns, k + (c + T::STEP - 1) * piece->columns, BK);
    pack_along<T>(values, piece->v + (kv * piece->columns + column) * depth, depth, BK, BK, depth, s.width());
  }
};

// heads `begin_head` to `end_head` of a row, which share the KV head `kv`; without `lse` that is not written
template <class T, class Source>
void forward(const Shape& s, int64_t b, int64_t kv, int64_t begin_head, int64_t end_head, const typename T::Element* q,
             const Source& source, const int32_t* first, int64_t offset, typename T::Element* out, float* lse) {
  using E = typename T::Element;
  const int depth = static_cast<int>(s.depth), units = depth / T::STEP, width = s.width();
  const int64_t blocks = s.blocks(), row_q = s.heads * depth;
  // weights are powers of 2 of `outer` times the products, or times tanh of `inner` times them
  const float outer_scale = (s.cap > 0 ? s.cap : s.scale) * LOG2_E;
  const __m512 outer = _mm512_set1_ps(outer_scale), inner = _mm512_set1_ps(s.cap > 0 ? s.scale / s.cap : 0);
  const __m512 negative = _mm512_set1_ps(NEGATIVE);
  Scratch memory(forward_bytes<T>(s));
  Unit* keys = memory.take<Unit>(blocks * units * BK);
  Unit* values = memory.take<Unit>(blocks * BK / T::STEP * width);
  Unit* rows = memory.take<Unit>(BQ * units);
  float* sums = memory.take<float>(BQ * width);
  float* totals = memory.take<float>(BQ * LANES);  // a vector a query, summed at the end
  float* top = memory.take<float>(BQ);  // in powers of 2
  E* weights = memory.take<E>(MR * BK);
  for (int64_t j = 0; j < blocks; ++j)
    source.pack(s, kv, j, keys + j * units * BK, values + j * BK / T::STEP * width);
  for (int64_t h = begin_head; h < end_head; ++h) {
    for (int64_t begin = 0; begin < s.queries; begin += BQ) {
      const int count = static_cast<int>(std::min<int64_t>(BQ, s.queries - begin));
      const int64_t query = offset + begin;
      const int32_t* own = first + b * s.keys + query;
      E* place = out + (b * s.queries + begin) * row_q + h * depth;
      copy_rows<T>(rows, q + (b * s.queries + begin) * row_q + h * depth, row_q, count, depth);
      std::memset(sums, 0, sizeof(float) * BQ * width);
      std::memset(totals, 0, sizeof(float) * BQ * LANES);
      std::fill(top, top + BQ, NEGATIVE);
      const int64_t low = *std::min_element(own, own + count), end = query + count;
      for (int64_t j = low / BK; j * BK < end && low < end; ++j) {
        for (int r = 0; r < count; r += MR) {
          const int64_t key = j * BK;
          const View sight = view(own + r, query + r, std::min(MR, count - r), key);
          if (!sight.columns) continue;
          float shrink[MR];
          with_tile(sight.columns, sight.masked, [&](auto columns, auto masked) {
            constexpr int N = decltype(columns)::value;
            constexpr bool MASKED = decltype(masked)::value;
            __m512 scores[MR][N] = {};
            product<T>(scores, rows + r * units, units, 1, keys + j * units * BK, BK, units);
#pragma GCC unroll 8
            for (int m = 0; m < MR; ++m) {
              __mmask16 lanes[N];
              __m512 most = negative;
#pragma GCC unroll 8
              for (int n = 0; n < N; ++n) {
                if (s.cap > 0) scores[m][n] = tangent(_mm512_mul_ps(scores[m][n], inner));
                if (MASKED) {
                  lanes[n] = r + m < count ? seen(own[r + m], query + r + m, key + LANES * n) : 0;
                  scores[m][n] = _mm512_mask_mov_ps(negative, lanes[n], scores[m][n]);
                }
                most = _mm512_max_ps(most, scores[m][n]);
              }
              const float before = top[r + m], now = std::max(before, _mm512_reduce_max_ps(most) * outer_scale);
              const __m512 peak = _mm512_set1_ps(now);
              __m512 total = _mm512_setzero_ps();
#pragma GCC unroll 8
              for (int n = 0; n < N; ++n) {
                __m512 w = power(_mm512_fmsub_ps(scores[m][n], outer, peak));
                if (MASKED) w = _mm512_maskz_mov_ps(lanes[n], w);
                T::write(weights + m * BK + LANES * n, 0xffff, w);
                total = _mm512_add_ps(total, T::round(w));
              }
              const __m512 factor = power(_mm512_set1_ps(before - now));
              float* sum = totals + (r + m) * LANES;
              _mm512_storeu_ps(sum, _mm512_fmadd_ps(load(sum), factor, total));
              shrink[m] = _mm512_cvtss_f32(factor);
              top[r + m] = now;
            }
          });
          add_product<T, MR>(sums + r * width, width, shrink, reinterpret_cast<const Unit*>(weights), BK / T::STEP, 1,
                         values + j * BK / T::STEP * width, sight.columns * LANES / T::STEP);
        }
      }
      for (int r = 0; r < count; ++r) {
        const float total = std::max(_mm512_reduce_add_ps(load(totals + r * LANES)), 1e-30f);
        if (lse) lse[(b * s.heads + h) * s.queries + begin + r] = top[r] * LN_2 + std::log(total);
        for (int c = 0; c < depth; c += LANES) {
          const __mmask16 lanes = static_cast<__mmask16>(depth - c < LANES ? (1u << (depth - c)) - 1 : 0xffff);
          T::write(place + r * row_q + c, lanes, _mm512_div_ps(load(sums + r * width + c), _mm512_set1_ps(total)));
        }
      }
    }
  }
}

template <class T>
size_t backward_bytes(const Shape& s) {
  const size_t units = s.depth / T::STEP, blocks = s.blocks(), width = s.width();
  return 4 * (blocks * BK * (2 * units + width / T::STEP + 2 * width) + 2 * BQ * units + 2 * BQ / T::STEP * width +
              BQ * width + 2 * BQ + BQ * BK + 2 * BQ * BK + MR * BK) + 2048;
}

// the same for the gradients
template <class T>
void backward(const Shape& s, int64_t b, int64_t kv, const typename T::Element* q, const typename T::Element* k, const typename T::Element* v,
              const int32_t* first, int64_t offset, const typename T::Element* out, const float* lse,
              const typename T::Element* g, typename T::Element* dq, typename T::Element* dk, typename T::Element* dv) {
  using E = typename T::Element;
  const int depth = static_cast<int>(s.depth), units = depth / T::STEP, width = s.width();
  const int64_t blocks = s.blocks(), row_q = s.heads * depth, row_k = s.kv_heads * depth;
  const __m512 outer = _mm512_set1_ps((s.cap > 0 ? s.cap : s.scale) * LOG2_E);
  const __m512 inner = _mm512_set1_ps(s.cap > 0 ? s.scale / s.cap : 0);
  const __m512 scale = _mm512_set1_ps(s.scale), one = _mm512_set1_ps(1.0f);
  Scratch memory(backward_bytes<T>(s));
  Unit* keys = memory.take<Unit>(blocks * units * BK);
  Unit* values = memory.take<Unit>(blocks * units * BK);
  Unit* keys_along = memory.take<Unit>(blocks * BK / T::STEP * width);
  float* sums_k = memory.take<float>(blocks * BK * width);
  float* sums_v = memory.take<float>(blocks * BK * width);
  Unit* rows = memory.take<Unit>(BQ * units);
  Unit* grads = memory.take<Unit>(BQ * units);
  Unit* rows_along = memory.take<Unit>(BQ / T::STEP * width);
  Unit* grads_along = memory.take<Unit>(BQ / T::STEP * width);
  float* sums_q = memory.take<float>(BQ * width);
  float* delta = memory.take<float>(BQ);
  float* norm = memory.take<float>(BQ);  // in powers of 2
  E* slopes = memory.take<E>(MR * BK);                     // gradients of a strip's scores, by rows
  Unit* slopes_along = memory.take<Unit>(BQ / T::STEP * BK);  // and of the tile's
  Unit* weights_along = memory.take<Unit>(BQ / T::STEP * BK);
  float* bend = memory.take<float>(MR * BK);  // the cap's own slope
  constexpr int PAIR = 2, SPAN = PAIR / T::STEP * BK;  // two rows of a strip, and their units
  for (int64_t j = 0; j < blocks; ++j) {
    const int count = static_cast<int>(std::min<int64_t>(BK, s.keys - j * BK));
    const int64_t at = (b * s.keys + j * BK) * row_k + kv * depth;
    pack_across<T>(keys + j * units * BK, k + at, row_k, count, depth);
    pack_across<T>(values + j * units * BK, v + at, row_k, count, depth);
    pack_along<T>(keys_along + j * BK / T::STEP * width, k + at, row_k, count, BK, depth, width);
  }
  std::memset(sums_k, 0, sizeof(float) * blocks * BK * width);
  std::memset(sums_v, 0, sizeof(float) * blocks * BK * width);
  for (int64_t h = kv * s.group(); h < (kv + 1) * s.group(); ++h) {
    for (int64_t begin = 0; begin < s.queries; begin += BQ) {
      const int count = static_cast<int>(std::min<int64_t>(BQ, s.queries - begin));
      const int64_t query = offset + begin, at = (b * s.queries + begin) * row_q + h * depth;
      const int32_t* own = first + b * s.keys + query;
      std::memset(sums_q, 0, sizeof(float) * BQ * width);
      const int64_t low = *std::min_element(own, own + count), end = query + count;
      if (low < end) {
        copy_rows<T>(rows, q + at, row_q, count, depth);
        copy_rows<T>(grads, g + at, row_q, count, depth);
        pack_along<T>(rows_along, q + at, row_q, count, BQ, depth, width);
        pack_along<T>(grads_along, g + at, row_q, count, BQ, depth, width);
        std::fill(delta, delta + BQ, 0.0f);
        std::fill(norm, norm + BQ, 0.0f);
        for (int r = 0; r < count; ++r) {
          __m512 sum = _mm512_setzero_ps();
          for (int c = 0; c < depth; c += LANES) {
            const __mmask16 lanes = static_cast<__mmask16>(depth - c < LANES ? (1u << (depth - c)) - 1 : 0xffff);
            const int64_t place = at + r * row_q + c;
            sum = _mm512_fmadd_ps(T::read(g + place, lanes), T::read(out + place, lanes), sum);
          }
          delta[r] = _mm512_reduce_add_ps(sum);
          norm[r] = lse[(b * s.heads + h) * s.queries + begin + r] * LOG2_E;
        }
      }
      for (int64_t j = low / BK; j * BK < end && low < end; ++j) {
        const int64_t key = j * BK;
        int from = BQ, to = 0, most = 0;  // strips that see some of these keys, and how many vectors of keys
        for (int r = 0; r < count; r += MR) {
          Unit* slope_units = slopes_along + r / T::STEP * BK;
          Unit* weight_units = weights_along + r / T::STEP * BK;
          const View sight = view(own + r, query + r, std::min(MR, count - r), key);
          if (sight.columns < BK / LANES) {  // what the products over the tile's queries would read unwritten
            std::memset(slope_units, 0, sizeof(Unit) * MR / T::STEP * BK);
            std::memset(weight_units, 0, sizeof(Unit) * MR / T::STEP * BK);
          }
          if (!sight.columns) continue;
          from = std::min(from, r);
          to = r + MR;
          most = std::max(most, sight.columns);
          with_tile(sight.columns, sight.masked, [&](auto columns, auto masked) {
            constexpr int N = decltype(columns)::value;
            constexpr bool MASKED = decltype(masked)::value;
            {
              __m512 scores[MR][N] = {};
              product<T>(scores, rows + r * units, units, 1, keys + j * units * BK, BK, units);
#pragma GCC unroll 8
              for (int m = 0; m < MR; ++m) {
                const __m512 peak = _mm512_set1_ps(norm[r + m]);
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) {
                  __m512 x = scores[m][n];
                  if (s.cap > 0) {
                    x = tangent(_mm512_mul_ps(x, inner));
                    _mm512_storeu_ps(bend + m * BK + LANES * n, _mm512_fnmadd_ps(x, x, one));
                  }
                  x = power(_mm512_fmsub_ps(x, outer, peak));
                  if (MASKED)
                    x = _mm512_maskz_mov_ps(r + m < count ? seen(own[r + m], query + r + m, key + LANES * n) : 0, x);
                  scores[m][n] = x;
                }
              }
#pragma GCC unroll 8
              for (int m = 0; m < MR; m += PAIR)
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n)
                  T::write_along(weight_units + m / PAIR * SPAN + LANES * n, BK, scores[m][n], scores[m + 1][n]);
            }
            __m512 d[MR][N] = {};
            product<T>(d, grads + r * units, units, 1, values + j * units * BK, BK, units);
#pragma GCC unroll 8
            for (int m = 0; m < MR; m += PAIR)
#pragma GCC unroll 8
              for (int n = 0; n < N; ++n) {
                __m512 w[PAIR];
                T::read_along(weight_units + m / PAIR * SPAN + LANES * n, BK, w[0], w[1]);
#pragma GCC unroll 8
                for (int p = 0; p < PAIR; ++p) {
                  w[p] = _mm512_mul_ps(w[p], _mm512_sub_ps(d[m + p][n], _mm512_set1_ps(delta[r + m + p])));
                  w[p] = _mm512_mul_ps(w[p], scale);
                  if (s.cap > 0) w[p] = _mm512_mul_ps(w[p], load(bend + (m + p) * BK + LANES * n));
                }
                T::write_rows(slopes + m * BK + LANES * n, BK, w[0], w[1]);
                T::write_along(slope_units + m / PAIR * SPAN + LANES * n, BK, w[0], w[1]);
              }
          });
          add_product<T, MR>(sums_q + r * width, width, nullptr, reinterpret_cast<const Unit*>(slopes), BK / T::STEP, 1,
                         keys_along + j * BK / T::STEP * width, sight.columns * LANES / T::STEP);
        }
        const int over = (to - from) / T::STEP;
        const auto add_keys = [&](int c, auto several) {
          constexpr int M = decltype(several)::value;
          const int64_t place = (key + c) * width;
          add_product<T, M>(sums_k + place, width, nullptr, slopes_along + from / T::STEP * BK + c, 1, BK,
                            rows_along + from / T::STEP * width, over);
          add_product<T, M>(sums_v + place, width, nullptr, weights_along + from / T::STEP * BK + c, 1, BK,
                            grads_along + from / T::STEP * width, over);
        };
        int c = 0;
        for (; c + MR <= most * LANES; c += MR) add_keys(c, std::integral_constant<int, MR>());
        for (; c < most * LANES; c += 2) add_keys(c, std::integral_constant<int, 2>());  // LANES is no multiple of MR
      }
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < depth; c += LANES) {
          const __mmask16 lanes = static_cast<__mmask16>(depth - c < LANES ? (1u << (depth - c)) - 1 : 0xffff);
          T::write(dq + at + r * row_q + c, lanes, load(sums_q + r * width + c));
        }
    }
  }
  for (int64_t t = 0; t < s.keys; ++t)
    for (int c = 0; c < depth; c += LANES) {
      const __mmask16 lanes = static_cast<__mmask16>(depth - c < LANES ? (1u << (depth - c)) - 1 : 0xffff);
      const int64_t place = (b * s.keys + t) * row_k + kv * depth + c;
      T::write(dk + place, lanes, load(sums_k + t * width + c));
      T::write(dv + place, lanes, load(sums_v + t * width + c));
    }
}

}  // namespace raft
