// Standard normal numbers that belong to indices. See vec.h for who includes it.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace {

typedef int32_t Signed __attribute__((vector_size(4 * kWidth)));

JAXSPARSE_INLINE Bits rotate_left(Bits x, int by) {
  return (x << by) | (x >> (32 - by));
}

// How many vectors go in step: the rounds of one are a chain, each waiting for the last.
constexpr int kInStep = 4;

// Replaces indices by both words of threefry2x32 of the counter (0, index), xored: the
// bits that jax gives an element of an array. Salmon et al. 2011, Parallel random
// numbers: as easy as 1, 2, 3.
JAXSPARSE_INLINE void threefry(const uint32_t* key, Bits (&words)[kInStep]) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bdau};
  Bits first[kInStep];
#pragma GCC unroll 4
  for (int v = 0; v < kInStep; ++v) {
    first[v] = Bits{} + keys[0];
    words[v] += keys[1];
  }
#pragma GCC unroll 5
  for (int group = 0; group < 5; ++group) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 4
      for (int v = 0; v < kInStep; ++v) {
        first[v] += words[v];
        words[v] = rotate_left(words[v], kRotations[group % 2][round]) ^ first[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kInStep; ++v) {
      first[v] += keys[(group + 1) % 3];
      words[v] += keys[(group + 2) % 3] + static_cast<uint32_t>(group + 1);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kInStep; ++v) words[v] ^= first[v];
}

// log(x) of positive normal numbers, to about one unit in the last place.
JAXSPARSE_INLINE Vec log_of(Vec x) {
  const Bits bits = (Bits)x;
  Vec exponent = __builtin_convertvector((Signed)(bits >> 23) - 126, Vec);
  Vec m = (Vec)((bits & 0x007fffffu) | 0x3f000000u);
  const Signed small = m < 0.70710678f;
  exponent = small ? exponent - 1.0f : exponent;
  m = (small ? m + m : m) - 1.0f;
  // Of log(1 + m) - m + m^2/2, over m^3, as in the Cephes library.
  Vec p = Vec{} + 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Vec square = m * m;
  const Vec rest = p * m * square - 2.12194440e-4f * exponent - 0.5f * square;
  return (m + rest) + 0.693359375f * exponent;
}

// Of erfinv(x) / x where w = -log(1 - x^2) is 5 or more: one number in three hundred.
inline float far_out(float w) {
  w = __builtin_sqrtf(w) - 3.0f;
  float p = -0.000200214257f;
  p = p * w + 0.000100950558f;
  p = p * w + 0.00134934322f;
  p = p * w - 0.00367342844f;
  p = p * w + 0.00573950773f;
  p = p * w - 0.0076224613f;
  p = p * w + 0.00943887047f;
  p = p * w + 1.00167406f;
  return p * w + 2.83297682f;
}

// sqrt(2) erfinv(u), u uniform in (-1, 1) from 23 of the bits, as jax makes it. Giles
// 2010, Approximating the erfinv function.
JAXSPARSE_INLINE Vec normal_of(Bits bits) {
  const Vec unit = (Vec)((bits >> 9) | 0x3f800000u) - 1.0f;
  const Vec lowest = Vec{} - 0.99999994f;
  Vec u = unit * 2.0f + lowest;
  u = u < lowest ? lowest : u;
  // Not 1 - u * u, whose relative error is large near 1.
  const Vec far = -log_of((1.0f - u) * (1.0f + u));
  const Vec w = far - 2.5f;
  Vec p = Vec{} + 2.81022636e-08f;
  p = p * w + 3.43273939e-07f;
  p = p * w - 3.5233877e-06f;
  p = p * w - 4.39150654e-06f;
  p = p * w + 0.00021858087f;
  p = p * w - 0.00125372503f;
  p = p * w - 0.00417768164f;
  p = p * w + 0.246640727f;
  p = p * w + 1.50140941f;
  if (any((Bits)(far >= 5.0f))) {
    for (int lane = 0; lane < kWidth; ++lane) {
      if (far[lane] >= 5.0f) p[lane] = far_out(far[lane]);
    }
  }
  return p * u * 1.41421356f;
}

// The numbers of n indices, or of first, first + step, ... where there are none.
void normal(const uint32_t* key, const uint32_t* index, uint32_t first, uint32_t step,
            int64_t n, float* out) {
  constexpr int kMany = kInStep * kWidth;
  Bits lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane * step;
  for (int64_t i = 0; i < n; i += kMany, first += kMany * step) {
    // The last ones are made whole in arrays of their own.
    const bool whole = i + kMany <= n;
    uint32_t rest[kMany] = {};
    float drawn[kMany];
    if (index && !whole) {
      for (int64_t k = 0; k < n - i; ++k) rest[k] = index[i + k];
    }
    const uint32_t* from = whole ? index + i : rest;
    float* to = whole ? out + i : drawn;
    Bits words[kInStep];
#pragma GCC unroll 4
    for (int v = 0; v < kInStep; ++v) {
      words[v] = index ? *reinterpret_cast<const BitsAt*>(from + v * kWidth)
                       : lanes + (first + v * kWidth * step);
    }
    threefry(key, words);
#pragma GCC unroll 4
    for (int v = 0; v < kInStep; ++v) store(to + v * kWidth, normal_of(words[v]));
    for (int64_t k = 0; !whole && k < n - i; ++k) out[i + k] = drawn[k];
  }
}

}  // namespace
