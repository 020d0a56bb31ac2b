// Attention of one new token of a row over the row's key/value cache, summed in float32: what decoding asks for.
//
// A row reads the columns that it sees and no others, in an order that goes by their positions alone: its numbers depend
// neither on how wide the cache is nor on the other rows.

#pragma once

#include <algorithm>
#include <vector>

#include "scratch.h"
#include "vectors.h"

namespace raft {

// Columns of a row and KV head: keys `[depth][width]`, values `[width][depth]`; `begin` to `end` of them are seen.
template <class T>
struct Stretch {
  const typename T::Element *k, *v;
  int64_t width, begin, end;
};

constexpr int HEADS = 3;  // that share a KV head and are computed at one time

inline __mmask16 lanes_of(int64_t count) {
  return static_cast<__mmask16>(count >= LANES ? 0xffff : (1u << std::max<int64_t>(count, 0)) - 1);
}

// scores[g][c] = q[g] . key c, unscaled, for the columns seen of a stretch
template <class T, int G>
void score(const float* q, const Stretch<T>& s, int64_t depth, float* scores, int64_t room) {
  for (int64_t c = s.begin; c < s.end; c += 4 * LANES) {
    const int64_t left = s.end - c;
    __mmask16 lanes[4];
    for (int n = 0; n < 4; ++n) lanes[n] = lanes_of(left - n * LANES);
    __m512 sums[G][4] = {};
    for (int64_t d = 0; d < depth; ++d) {
      const auto* keys = s.k + d * s.width + c;
      __m512 key[4];
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) key[n] = T::read(keys + n * LANES, lanes[n]);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const __m512 x = _mm512_set1_ps(q[g * depth + d]);
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sums[g][n] = _mm512_fmadd_ps(x, key[n], sums[g][n]);
      }
    }
    for (int g = 0; g < G; ++g)
      for (int n = 0; n < 4; ++n) _mm512_mask_storeu_ps(scores + g * room + c - s.begin + n * LANES, lanes[n], sums[g][n]);
  }
}

// out[g] += weights[g][c] * value c over the columns seen of a stretch; 64 channels at one time
template <class T, int G>
void mix(const float* weights, const Stretch<T>& s, int64_t depth, float* out, int64_t room) {
  for (int64_t d = 0; d < depth; d += 4 * LANES) {
    __mmask16 lanes[4];
    for (int n = 0; n < 4; ++n) lanes[n] = lanes_of(depth - d - n * LANES);
    __m512 sums[G][4];
    for (int g = 0; g < G; ++g)
      for (int n = 0; n < 4; ++n) sums[g][n] = _mm512_maskz_loadu_ps(lanes[n], out + g * depth + d + n * LANES);
    for (int64_t c = s.begin; c < s.end; ++c) {
      const auto* values = s.v + c * depth + d;
      __m512 value[4];
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) value[n] = T::read(values + n * LANES, lanes[n]);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const __m512 weight = _mm512_set1_ps(weights[g * room + c - s.begin]);
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sums[g][n] = _mm512_fmadd_ps(weight, value[n], sums[g][n]);
      }
    }
    for (int g = 0; g < G; ++g)
      for (int n = 0; n < 4; ++n) _mm512_mask_storeu_ps(out + g * depth + d + n * LANES, lanes[n], sums[g][n]);
  }
}

// scores -> weights, their sum; 2 ^ (score * outer - most), or with a cap of its tanh
inline float weigh(float* scores, int64_t count, float outer, float inner) {
  __m512 most = _mm512_set1_ps(-1e30f);
  for (int64_t c = 0; c < count; c += LANES) {
    const __mmask16 lanes = lanes_of(count - c);
    __m512 x = _mm512_maskz_loadu_ps(lanes, scores + c);
    if (inner > 0) x = tangent(_mm512_mul_ps(x, _mm512_set1_ps(inner)));
    x = _mm512_mul_ps(x, _mm512_set1_ps(outer));
    _mm512_mask_storeu_ps(scores + c, lanes, x);
    most = _mm512_mask_max_ps(most, lanes, most, x);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 total = _mm512_setzero_ps();
  for (int64_t c = 0; c < count; c += LANES) {
    const __mmask16 lanes = lanes_of(count - c);
    const __m512 w = _mm512_maskz_mov_ps(lanes, power(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, scores + c), top)));
    _mm512_mask_storeu_ps(scores + c, lanes, w);
    total = _mm512_add_ps(total, w);
  }
  return _mm512_reduce_add_ps(total);
}

// out [group][depth] of q [group][depth], the heads of one KV head, over stretches in the order of their positions
template <class T>
void reply(const float* q, const std::vector<Stretch<T>>& stretches, int64_t group, int64_t depth, float scale,
                  float cap, float* out) {
  int64_t room = 0;
  for (const Stretch<T>& s : stretches) room += std::max<int64_t>(s.end - s.begin, 0);
  Scratch memory(sizeof(float) * HEADS * (room + LANES) + 64);
  float* scores = memory.take<float>(HEADS * room);
  std::fill(out, out + group * depth, 0.0f);
  for (int64_t g = 0; g < group; g += HEADS) {
    with_count(static_cast<int>(std::min<int64_t>(HEADS, group - g)), [&](auto count) {
      constexpr int G = decltype(count)::value;
      float* place = scores;
      for (const Stretch<T>& s : stretches) {
        score<T, G>(q + g * depth, s, depth, place, room);
        place += std::max<int64_t>(s.end - s.begin, 0);
      }
      for (int i = 0; i < G; ++i) {
        float* own = scores + i * room;
        const float total = std::max(weigh(own, room, (cap > 0 ? cap : scale) * LOG2_E, cap > 0 ? scale / cap : 0), 1e-30f);
        for (int64_t c = 0; c < room; ++c) own[c] /= total;
      }
      place = scores;
      for (const Stretch<T>& s : stretches) {
        mix<T, G>(place, s, depth, out + g * depth, room);
        place += std::max<int64_t>(s.end - s.begin, 0);
      }
    });
  }
}

}  // namespace raft
