// A convolution as a gather: every position of a grid sums what it sees of a source.
// Forward, the grid is y and the source x. Backward, with a stride of s, the positions
// of x fall into s * s grids, each of which sees dy by other taps of the kernel.
//
// A window is the part of the source that a band of positions sees, copied so that lanes
// are (column, image) pairs of a block of images, and that what is outside is zero.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace jaxsparse {

// One spatial axis of a convolution.
struct ConvAxis {
  int64_t x, y, taps, stride, padding;
};

// One axis of a gather. Position p sees `span` places of the source from
// `first + p * step`; a position is place `phase + p * stride` of the grid's array.
struct GatherAxis {
  int64_t source, array, positions, first, step, span, phase, stride;
  // By tap: its place within the span; negative where the grid does not see it.
  std::vector<int64_t> taps;
};

inline GatherAxis forward_axis(const ConvAxis& a) {
  GatherAxis g = {a.x, a.y, a.y, -a.padding, a.stride, a.taps, 0, 1, {}};
  for (int64_t tap = 0; tap < a.taps; ++tap) g.taps.push_back(tap);
  return g;
}

inline GatherAxis backward_axis(const ConvAxis& a, int64_t phase) {
  GatherAxis g = {a.y, a.x, 0, 0, 1, 0, phase, a.stride, {}};
  g.positions = std::max<int64_t>(0, (a.x - phase + a.stride - 1) / a.stride);
  // Position p of x is reached by tap t from position p + (phase + padding - t) / stride
  // of y, where that is a whole number.
  int64_t most = 0;
  bool any = false;
  for (int64_t tap = 0; tap < a.taps; ++tap) {
    const int64_t shift = phase + a.padding - tap;
    if (shift % a.stride) continue;
    const int64_t place = shift / a.stride;
    g.first = any ? std::min(g.first, place) : place;
    most = any ? std::max(most, place) : place;
    any = true;
  }
  g.span = any ? most - g.first + 1 : 0;
  for (int64_t tap = 0; tap < a.taps; ++tap) {
    const int64_t shift = phase + a.padding - tap;
    g.taps.push_back(shift % a.stride ? -1 : shift / a.stride - g.first);
  }
  return g;
}

// How a gather is cut, and where its windows hold what.
struct Gather {
  GatherAxis h, w;
  int64_t images, source_features, array_features;
  int64_t block;         // images per block
  int64_t blocks;
  int64_t band_columns;  // positions
  int64_t band_rows;     // even, or 1
  int most;              // vectors per row of a tile
  int rows;              // rows per tile
  // In the window: [row][feature][phase of the columns][lane].
  int64_t phases, lanes, feature_stride, row_stride, window_rows;

  int64_t column_bands() const {
    return (w.positions + band_columns - 1) / band_columns;
  }
};

// The second cache holds a window, beside what streams by.
constexpr int64_t kWindowFloats = 640 * 1024 / 4;

inline void set_band(Gather& g, int64_t columns, int64_t rows) {
  const int64_t width = kernels().width;
  g.band_columns = columns;
  g.band_rows = rows;
  g.phases = std::min(g.w.step, g.w.span);
  const int64_t shift = (g.w.span - 1) / g.w.step * g.block;
  const int64_t vectors = (columns * g.block + width - 1) / width;
  g.lanes = (shift + width - 1) / width * width + vectors * width;
  g.feature_stride = g.phases * g.lanes;
  g.row_stride = g.source_features * g.feature_stride;
  g.window_rows = (rows - 1) * g.h.step + g.h.span;
}

inline Gather make_gather(GatherAxis h, GatherAxis w, int64_t images,
                          int64_t source_features, int64_t array_features,
                          int most_vectors) {
  Gather g = {};
  g.h = std::move(h);
  g.w = std::move(w);
  g.images = images;
  g.source_features = source_features;
  g.array_features = array_features;
  const int64_t width = kernels().width;
  // Narrow images are tiled by more images.
  const int64_t most = width * std::max<int64_t>(1, 4 / g.w.positions);
  g.blocks = (images + most - 1) / most;
  g.block = (images + g.blocks - 1) / g.blocks;
  g.most = std::min(4, most_vectors);
  g.rows = g.h.positions > 1 ? std::max(1, std::min(2, most_vectors / g.most)) : 1;
  set_band(g, g.w.positions, g.rows);
  while (g.window_rows * g.row_stride > kWindowFloats &&
         g.band_columns * g.block > 2 * g.most * width) {
    set_band(g, (g.band_columns + 1) / 2, g.rows);
  }
  const int64_t columns = g.band_columns;
  for (int64_t rows = g.rows; rows < g.h.positions; rows += g.rows) {
    set_band(g, columns, rows + g.rows);
    if (g.window_rows * g.row_stride <= kWindowFloats) continue;
    set_band(g, columns, rows);
    break;
  }
  return g;
}

// Where the lanes of a row of an array (image, row, column, feature) begin in it: `count`
// columns from `first`, `step` apart. Negative for what is outside.
inline void find_lanes(const Gather& g, int64_t image, int64_t image_stride,
                       int64_t first, int64_t step, int64_t count, int64_t width,
                       int64_t features, int64_t lanes, int64_t* offsets) {
  const int64_t images = std::min(g.block, g.images - image);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t n = lane % g.block, q = lane / g.block;
    const int64_t column = first + q * step;
    const bool exists = n < images && q < count && column >= 0 && column < width;
    offsets[lane] = exists ? (image + n) * image_stride + column * features : -1;
  }
}

// Walks down the bands of some columns of a block of images.
class Window {
 public:
  Window(const Gather& g, const float* source, int64_t image, int64_t column,
         float* floats)
      : g_(g), source_(source), floats_(floats), offsets_(g.feature_stride) {
    for (int64_t p = 0; p < g.phases; ++p) {
      find_lanes(g, image, g.h.source * g.w.source * g.source_features,
                 g.w.first + column * g.w.step + p, g.w.step, g.lanes, g.w.source,
                 g.source_features, g.lanes, offsets_.data() + p * g.lanes);
    }
  }

  // Fills it for `rows` positions from row `begin`.
  void move_to(int64_t begin, int64_t rows) {
    const int64_t first = g_.h.first + begin * g_.h.step;
    const int64_t count = (rows - 1) * g_.h.step + g_.h.span;
    // Rows that are there already move up.
    const int64_t kept = std::max<int64_t>(0, std::min(last_ - first, count));
    if (kept > 0) {
      std::memmove(floats_, floats_ + (first - first_) * g_.row_stride,
                   kept * g_.row_stride * sizeof(float));
    }
    for (int64_t i = kept; i < count; ++i) {
      // With strides there are rows that no tap sees.
      if (i % g_.h.step < g_.h.span) pack(first + i, floats_ + i * g_.row_stride);
    }
    first_ = first;
    last_ = first + count;
  }

 private:
  void pack(int64_t row, float* to) {
    if (row < 0 || row >= g_.h.source) {
      std::memset(to, 0, g_.row_stride * sizeof(float));
      return;
    }
    const int width = kernels().width;
    const float* from = source_ + row * g_.w.source * g_.source_features;
    for (int64_t lane = 0; lane < g_.feature_stride; lane += width) {
      kernels().pack_lanes(from, offsets_.data() + lane,
                           static_cast<int>(g_.source_features), to + lane,
                           g_.feature_stride);
    }
  }

  const Gather& g_;
  const float* source_;
  float* floats_;
  std::vector<int64_t> offsets_;
  int64_t first_ = 0, last_ = INT64_MIN / 2;
};

// The entries of a gather, by segments.
struct Plan {
  std::vector<int32_t> starts, offsets;
  std::vector<int32_t> places;  // Where in the values; of the backward product.
  std::vector<float> values;

  void clear(int64_t segments) {
    starts.assign(1, 0);
    starts.reserve(segments + 1);
    offsets.clear();
    places.clear();
    values.clear();
  }
  void end_segment() { starts.push_back(static_cast<int32_t>(offsets.size())); }
  Shifts shifts() const { return {starts.data(), offsets.data(), values.data()}; }
};

// Where the taps (row, column) of the kernel stand in a window; negative for those that
// the gather does not see.
inline std::vector<int64_t> tap_offsets(const Gather& g) {
  std::vector<int64_t> offsets;
  for (const int64_t h : g.h.taps) {
    for (const int64_t w : g.w.taps) {
      const int64_t column = w % g.w.step * g.lanes + w / g.w.step * g.block;
      offsets.push_back(h < 0 || w < 0 ? -1 : h * g.row_stride + column);
    }
  }
  return offsets;
}

// By output features: all entries, whatever tiles the pattern has.
template <typename Index>
void plan_forward(const Pattern& p, const float* values, const Gather& g, Plan& plan) {
  const Index* inputs = static_cast<const Index*>(p.inputs);
  std::vector<int32_t> offset_of;  // by input: (tap, feature)
  for (const int64_t tap : tap_offsets(g)) {
    for (int64_t c = 0; c < g.source_features; ++c) {
      offset_of.push_back(static_cast<int32_t>(tap + c * g.feature_stride));
    }
  }
  plan.clear(int64_t{p.rows} * p.block);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t i = 0; i < p.block; ++i) {
      for (int64_t tile = 0; tile < p.input_tiles; ++tile) {
        const int32_t* starts = p.starts + tile * p.rows + row;
        for (int64_t k = starts[0]; k < starts[1]; ++k) {
          plan.offsets.push_back(offset_of[inputs[k]]);
          plan.values.push_back(values[k * p.block + i]);
        }
      }
      plan.end_segment();
    }
  }
}

// By input features: the entries of the taps that this grid sees.
template <typename Index>
void plan_backward(const Pattern& p, const float* values, const Gather& g, Plan& plan) {
  const Index* rows = static_cast<const Index*>(p.back_rows);
  const std::vector<int64_t> taps = tap_offsets(g);
  const int64_t features = g.array_features;
  plan.clear(features);
  for (int64_t c = 0; c < features; ++c) {
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      if (taps[tap] < 0) continue;
      for (int64_t tile = 0; tile < p.row_tiles; ++tile) {
        const int32_t* starts = p.back_starts + tile * p.num_inputs + tap * features + c;
        for (int64_t k = starts[0]; k < starts[1]; ++k) {
          const int64_t output = int64_t{rows[k]} * p.block;
          const int64_t place = int64_t{p.order[k]} * p.block;
          for (int64_t i = 0; i < p.block; ++i) {
            plan.offsets.push_back(
                static_cast<int32_t>(taps[tap] + (output + i) * g.feature_stride));
            plan.places.push_back(static_cast<int32_t>(place + i));
            if (values) plan.values.push_back(values[place + i]);
          }
        }
      }
    }
    plan.end_segment();
  }
}

}  // namespace jaxsparse
