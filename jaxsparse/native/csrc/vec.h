// Vectors of one instruction set, through the vector extension of GCC and Clang. That
// was measured as quick as intrinsics, and it compiles for any machine.
//
// Included only by the kernels_*.cc, which are compiled with different flags. All is in
// an unnamed namespace, and no header with inline functions of the standard library is
// included: the linker could otherwise keep the AVX-512 copy of one for every machine.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

// `At` types may stand at any address that a float may stand at.
typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef float VecAt __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * kWidth)));
typedef uint32_t BitsAt __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
typedef uint16_t HalvesAt
    __attribute__((vector_size(2 * kWidth), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(kWidth)));
typedef int8_t BytesAt __attribute__((vector_size(kWidth), aligned(1), may_alias));

#define JAXSPARSE_INLINE inline __attribute__((always_inline))

JAXSPARSE_INLINE Vec load(const float* p) {
  return *reinterpret_cast<const VecAt*>(p);
}
JAXSPARSE_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecAt*>(p) = v; }

// The sums of four vectors: sums[i] is that of the lanes of v[i].
JAXSPARSE_INLINE void sum_lanes(const Vec (&v)[4], float (&sums)[4]) {
#if defined(__AVX512F__) || defined(__AVX2__)
  __m256 half[4];
  for (int i = 0; i < 4; ++i) {
#if defined(__AVX512F__)
    half[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]),
                            _mm512_extractf32x8_ps(v[i], 1));
#else
    half[i] = v[i];
#endif
  }
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]),
                                      _mm256_hadd_ps(half[2], half[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs),
                                 _mm256_extractf128_ps(pairs, 1)));
#else
  for (int i = 0; i < 4; ++i) {
    sums[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
  }
#endif
}

// Lane l of the result is that of a, or where l has the bit kStep that of b, of the
// lane kShift further.
template <int kStep, int kShiftA, int kShiftB>
JAXSPARSE_INLINE Vec mix(Vec a, Vec b) {
#if defined(__clang__)
  Vec mixed;
  for (int l = 0; l < kWidth; ++l) {
    mixed[l] = l & kStep ? b[(l + kShiftB) % kWidth] : a[(l + kShiftA) % kWidth];
  }
  return mixed;
#else
  typedef int32_t Lanes __attribute__((vector_size(4 * kWidth)));
  Lanes lanes;
  for (int l = 0; l < kWidth; ++l) {
    lanes[l] = l & kStep ? kWidth + l + kShiftB : l + kShiftA;
  }
  return __builtin_shuffle(a, b, lanes);
#endif
}

template <int kStep>
JAXSPARSE_INLINE void transpose_step(Vec (&v)[kWidth]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if (i & kStep) continue;
    const Vec a = v[i], b = v[i + kStep];
    v[i] = mix<kStep, 0, -kStep>(a, b);
    v[i + kStep] = mix<kStep, kStep, 0>(a, b);
  }
}

// Lane j of v[i] and lane i of v[j] change places.
JAXSPARSE_INLINE void transpose(Vec (&v)[kWidth]) {
  if constexpr (kWidth > 8) transpose_step<8>(v);
  if constexpr (kWidth > 4) transpose_step<4>(v);
  transpose_step<2>(v);
  transpose_step<1>(v);
}

// Whether any lane of a comparison is true.
JAXSPARSE_INLINE bool any(Bits mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

}  // namespace
