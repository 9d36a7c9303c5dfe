// Convolutions of a tile of positions, and the transpositions around them. See vec.h for
// who includes it.
#pragma once

#include "kernels.h"
#include "matmul.h"
#include "vec.h"

namespace {

using jaxsparse::ConvTile;
using jaxsparse::Shifts;

template <int kRows, int kRun>
void conv_forward_tile(const Shifts& s, const ConvTile& t, int begin, int end) {
  constexpr int kVectors = kRows * kRun;
  float* y = t.out;
  for (int segment = begin; segment < end; ++segment) {
    const int32_t stop = s.starts[segment + 1];
    Vec sum[kVectors] = {};
    for (int32_t k = s.starts[segment]; k < stop; ++k) {
      const float* x = t.window + s.offsets[k];
      const float w = s.values[k];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        sum[j] += w * load(x + j / kRun * t.window_row + j % kRun * kWidth);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) store(y + j * kWidth, sum[j]);
    y += kVectors * kWidth;
  }
}

// x and dx of a segment stay in registers, and what is loaded of dy serves both.
template <int kRows, int kRun, bool kDx, bool kDw>
void conv_backward_tile(const Shifts& s, const ConvTile& t, int begin, int end) {
  constexpr int kVectors = kRows * kRun;
  for (int segment = begin; segment < end; ++segment) {
    const int64_t place = int64_t{segment - begin} * kVectors * kWidth;
    const int32_t stop = s.starts[segment + 1];
    Vec x[kVectors] = {}, dx[kVectors] = {};
    if (kDw) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) x[j] = load(t.x + place + j * kWidth);
    }
    for (int32_t k = s.starts[segment]; k < stop; k += 4) {
      const int n = stop - k > 4 ? 4 : stop - k;
      const float* dy[4];
      float w[4] = {}, products[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int32_t entry = i < n ? k + i : k;
        dy[i] = t.window + s.offsets[entry];
        if (kDx) w[i] = s.values[entry];
      }
      four_rows<kVectors, kDx, kDw, kRun>(x, dx, dy, w, n, products, t.window_row);
      if (kDw) {
        for (int i = 0; i < n; ++i) t.dvalues[k + i] += products[i];
      }
    }
    if (kDx) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) store(t.out + place + j * kWidth, dx[j]);
    }
  }
}

template <int kRows, int kRun>
void conv_backward_rows(const Shifts& s, const ConvTile& t, int begin, int end) {
  if constexpr (kRows * kRun <= kBackwardVectors) {
    if (!t.out) return conv_backward_tile<kRows, kRun, false, true>(s, t, begin, end);
    if (!t.dvalues) return conv_backward_tile<kRows, kRun, true, false>(s, t, begin, end);
    conv_backward_tile<kRows, kRun, true, true>(s, t, begin, end);
  }
}

void conv_forward(const Shifts& s, const ConvTile& t, int begin, int end) {
  switch (4 * t.rows + t.vectors) {
    case 5: return conv_forward_tile<1, 1>(s, t, begin, end);
    case 6: return conv_forward_tile<1, 2>(s, t, begin, end);
    case 7: return conv_forward_tile<1, 3>(s, t, begin, end);
    case 8: return conv_forward_tile<1, 4>(s, t, begin, end);
    case 9: return conv_forward_tile<2, 1>(s, t, begin, end);
    case 10: return conv_forward_tile<2, 2>(s, t, begin, end);
    case 11: return conv_forward_tile<2, 3>(s, t, begin, end);
    default: return conv_forward_tile<2, 4>(s, t, begin, end);
  }
}

void conv_backward(const Shifts& s, const ConvTile& t, int begin, int end) {
  switch (4 * t.rows + t.vectors) {
    case 5: return conv_backward_rows<1, 1>(s, t, begin, end);
    case 6: return conv_backward_rows<1, 2>(s, t, begin, end);
    case 7: return conv_backward_rows<1, 3>(s, t, begin, end);
    case 8: return conv_backward_rows<1, 4>(s, t, begin, end);
    case 9: return conv_backward_rows<2, 1>(s, t, begin, end);
    case 10: return conv_backward_rows<2, 2>(s, t, begin, end);
    case 11: return conv_backward_rows<2, 3>(s, t, begin, end);
    default: return conv_backward_rows<2, 4>(s, t, begin, end);
  }
}

void pack_lanes(const float* from, const int64_t* offsets, int channels, float* to,
                int64_t stride) {
  int c = 0;
  for (; c + kWidth <= channels; c += kWidth) {
    Vec v[kWidth];
#pragma GCC unroll 16
    for (int l = 0; l < kWidth; ++l) {
      v[l] = offsets[l] < 0 ? Vec{} : load(from + offsets[l] + c);
    }
    transpose(v);
#pragma GCC unroll 16
    for (int l = 0; l < kWidth; ++l) store(to + (c + l) * stride, v[l]);
  }
  for (; c < channels; ++c) {
    for (int l = 0; l < kWidth; ++l) {
      to[c * stride + l] = offsets[l] < 0 ? 0.0f : from[offsets[l] + c];
    }
  }
}

void unpack_lanes(const float* from, int64_t stride, int channels, float* to,
                  const int64_t* offsets) {
  int c = 0;
  for (; c + kWidth <= channels; c += kWidth) {
    Vec v[kWidth];
#pragma GCC unroll 16
    for (int l = 0; l < kWidth; ++l) v[l] = load(from + (c + l) * stride);
    transpose(v);
#pragma GCC unroll 16
    for (int l = 0; l < kWidth; ++l) {
      if (offsets[l] >= 0) store(to + offsets[l] + c, v[l]);
    }
  }
  for (; c < channels; ++c) {
    for (int l = 0; l < kWidth; ++l) {
      if (offsets[l] >= 0) to[offsets[l] + c] = from[c * stride + l];
    }
  }
}

}  // namespace
