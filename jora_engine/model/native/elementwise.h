// RMSNorm and SwiGLU, forward and backward: one pass over memory each, float32 inside, rounded once.

#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace raft {

inline __mmask16 rest(int64_t count) { return static_cast<__mmask16>(count < LANES ? (1u << count) - 1 : 0xffff); }

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, power(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)))));
}

template <class T>
void swiglu(int64_t count, const typename T::Element* gate, const typename T::Element* up, typename T::Element* out) {
  for (int64_t i = 0; i < count; i += LANES) {
    const __mmask16 lanes = rest(count - i);
    const __m512 x = T::read(gate + i, lanes);
    T::write(out + i, lanes, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid(x)), T::read(up + i, lanes)));
  }
}

template <class T>
void swiglu_backward(int64_t count, const typename T::Element* gate, const typename T::Element* up,
                     const typename T::Element* g, typename T::Element* d_gate, typename T::Element* d_up) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < count; i += LANES) {
    const __mmask16 lanes = rest(count - i);
    const __m512 x = T::read(gate + i, lanes), y = T::read(g + i, lanes), s = sigmoid(x);
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));
    T::write(d_gate + i, lanes, _mm512_mul_ps(_mm512_mul_ps(y, T::read(up + i, lanes)), slope));
    T::write(d_up + i, lanes, _mm512_mul_ps(y, _mm512_mul_ps(x, s)));
  }
}

template <class T>
float norm_scale(int64_t width, const typename T::Element* x, float eps) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t c = 0; c < width; c += LANES) {
    const __m512 f = T::read(x + c, rest(width - c));
    sum = _mm512_fmadd_ps(f, f, sum);
  }
  return 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / static_cast<float>(width) + eps);
}

// weight * x / rms(x), the weight as it is
template <class T>
void rms_norm(int64_t rows, int64_t width, float eps, const typename T::Element* x, const typename T::Element* weight,
              typename T::Element* out) {
  for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
    const __m512 scale = _mm512_set1_ps(norm_scale<T>(width, x, eps));
    for (int64_t c = 0; c < width; c += LANES) {
      const __mmask16 lanes = rest(width - c);
      const __m512 normed = _mm512_mul_ps(T::read(x + c, lanes), scale);
      T::write(out + c, lanes, _mm512_mul_ps(T::read(weight + c, lanes), normed));
    }
  }
}

// the gradient of x alone: g w / rms - x (g w . x) / (n rms^3)
template <class T>
void rms_norm_backward(int64_t rows, int64_t width, float eps, const typename T::Element* x,
                       const typename T::Element* weight, const typename T::Element* g, typename T::Element* dx) {
  for (int64_t r = 0; r < rows; ++r, x += width, g += width, dx += width) {
    const float scale = norm_scale<T>(width, x, eps);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < width; c += LANES) {
      const __mmask16 lanes = rest(width - c);
      const __m512 gw = _mm512_mul_ps(T::read(g + c, lanes), T::read(weight + c, lanes));
      sum = _mm512_fmadd_ps(gw, T::read(x + c, lanes), sum);
    }
    const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(width);
    const __m512 along = _mm512_set1_ps(mean * scale * scale * scale), over = _mm512_set1_ps(scale);
    for (int64_t c = 0; c < width; c += LANES) {
      const __mmask16 lanes = rest(width - c);
      const __m512 gw = _mm512_mul_ps(T::read(g + c, lanes), T::read(weight + c, lanes));
      T::write(dx + c, lanes, _mm512_fnmadd_ps(T::read(x + c, lanes), along, _mm512_mul_ps(gw, over)));
    }
  }
}

}  // namespace raft
