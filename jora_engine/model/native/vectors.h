// Vectors of 16 floats on AVX-512: the two element types of the kernels, 2 ^ x and tanh.
//
// Both types go through the same code: an operand of a product is a matrix of 32-bit units along the summed axis, one
// float or a pair of bfloat16.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

namespace raft {

constexpr int LANES = 16;  // floats of a vector

using Unit = uint32_t;

inline __m512 load(const void* p) { return _mm512_loadu_ps(p); }

struct F32 {
  using Element = float;
  static constexpr int STEP = 1;  // elements of a unit
  static __m512 dot(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
  static __m512 round(__m512 x) { return x; }
  static __m512 read(const Element* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
  static void write(Element* p, __mmask16 lanes, __m512 x) { _mm512_mask_storeu_ps(p, lanes, x); }
  // rows r and r + 1 of a strip, at one vector of columns: by rows, and as units along the rows
  static void write_rows(Element* rows, int stride, __m512 x, __m512 y) {
    _mm512_storeu_ps(rows, x);
    _mm512_storeu_ps(rows + stride, y);
  }
  static void write_along(Unit* units, int stride, __m512 x, __m512 y) {
    _mm512_storeu_ps(units, x);
    _mm512_storeu_ps(units + stride, y);
  }
  static void read_along(const Unit* units, int stride, __m512& x, __m512& y) {
    x = load(units);
    y = load(units + stride);
  }
  static void join(Unit* units, const Element* x, const Element*, int count) { std::memcpy(units, x, 4 * count); }
};

#ifdef __AVX512BF16__
struct BF16 {
  using Element = uint16_t;
  static constexpr int STEP = 2;
  static __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
  static __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static __m512 round(__m512 x) { return widen((__m256i)_mm512_cvtneps_pbh(x)); }
  static __m512 read(const Element* p, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, p)); }
  static void write(Element* p, __mmask16 lanes, __m512 x) {
    _mm256_mask_storeu_epi16(p, lanes, (__m256i)_mm512_cvtneps_pbh(x));
  }
  static void write_rows(Element* rows, int stride, __m512 x, __m512 y) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y, x);
    _mm256_storeu_si256((__m256i*)rows, _mm512_castsi512_si256(both));
    _mm256_storeu_si256((__m256i*)(rows + stride), _mm512_extracti64x4_epi64(both, 1));
  }
  static void write_along(Unit* units, int, __m512 x, __m512 y) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y)), 16);
    _mm512_storeu_si512(units, _mm512_or_si512(low, high));
  }
  static void read_along(const Unit* units, int, __m512& x, __m512& y) {
    const __m512i both = _mm512_loadu_si512(units);
    x = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    y = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static void join(Unit* units, const Element* x, const Element* y, int count) {
    for (int i = 0; i < count; ++i) units[i] = x[i] | static_cast<Unit>(y[i]) << 16;
  }
};
#endif

// 2 ^ x to 2e-7 of its value: a polynomial that is exact at 0 and nearest to 2 ^ x on [-1/2, 1/2]
inline __m512 power(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
  __m512 y = _mm512_set1_ps(1.326472731e-3f);
  for (float c : {9.671512991e-3f, 5.550733581e-2f, 2.402224243e-1f, 6.931470037e-1f, 1.0f})
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, n);
}

constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

// tanh(x) = 1 - 2 / (exp(2 x) + 1), to about 2e-7; exp(88) is still finite
inline __m512 tangent(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), bound = _mm512_set1_ps(44.0f);
  x = _mm512_max_ps(_mm512_min_ps(x, bound), _mm512_sub_ps(_mm512_setzero_ps(), bound));
  const __m512 e = power(_mm512_mul_ps(x, _mm512_set1_ps(2.0f * LOG2_E)));
  return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
}

// the function with a constant 1 to 4
template <class F>
inline void with_count(int count, F&& function) {
  switch (count) {
    case 1: return function(std::integral_constant<int, 1>());
    case 2: return function(std::integral_constant<int, 2>());
    case 3: return function(std::integral_constant<int, 3>());
    default: return function(std::integral_constant<int, 4>());
  }
}

}  // namespace raft
