// Convolutions as XLA calls. Images are (image, row, column, feature), as Flax has them.
#include "bindings.h"
#include "conv_plan.h"
#include "kernels.h"
#include "parallel.h"
#include "pattern_checks.h"

namespace jaxsparse {
namespace {

using Sizes = ffi::Span<const int64_t>;

thread_local Scratch window_scratch, tile_scratch;
thread_local Plan plan_memory;

// Features that a tile computes before they are transposed back: they stay in the first
// cache.
constexpr int64_t kGroup = 16;

// Some rows of some columns of a block of images.
struct Part {
  int64_t block, column, begin, end;
};

std::vector<Part> split(const Gather& g, int64_t threads) {
  const int64_t bands = g.column_bands();
  const int64_t tasks = std::max<int64_t>(1, g.blocks * bands);
  const int64_t steps = (g.h.positions + g.rows - 1) / g.rows;
  const int64_t pieces =
      threads < 2 ? 1 : std::min(steps, (2 * threads + tasks - 1) / tasks);
  std::vector<Part> parts;
  for (int64_t block = 0; block < g.blocks; ++block) {
    for (int64_t band = 0; band < bands; ++band) {
      for (int64_t i = 0; i < pieces; ++i) {
        parts.push_back({block, band * g.band_columns, steps * i / pieces * g.rows,
                         std::min(g.h.positions, steps * (i + 1) / pieces * g.rows)});
      }
    }
  }
  return parts;
}

// Calls run(tile, its row in the array, the lanes of its first row) for every tile.
template <typename Run>
void each_tile(const Gather& g, const float* source, const Part& part, Run run) {
  const int64_t width = kernels().width, image = part.block * g.block;
  float* floats = window_scratch.get<float>(g.window_rows * g.row_stride);
  Window window(g, source, image, part.column, floats);
  const int64_t columns = std::min(g.band_columns, g.w.positions - part.column);
  const int64_t vectors = (columns * g.block + width - 1) / width;
  std::vector<int64_t> offsets(vectors * width);
  find_lanes(g, image, g.h.array * g.w.array * g.array_features,
             g.w.phase + part.column * g.w.stride, g.w.stride, columns, g.w.array,
             g.array_features, vectors * width, offsets.data());
  const int64_t tiles = (vectors + g.most - 1) / g.most;
  for (int64_t top = part.begin; top < part.end; top += g.band_rows) {
    const int64_t rows = std::min(g.band_rows, part.end - top);
    window.move_to(top, rows);
    for (int64_t row = 0; row < rows; row += g.rows) {
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t first = vectors * i / tiles, next = vectors * (i + 1) / tiles;
        ConvTile tile = {};
        tile.window = floats + row * g.h.step * g.row_stride + first * width;
        tile.window_row = g.h.step * g.row_stride;
        tile.rows = static_cast<int>(std::min<int64_t>(g.rows, rows - row));
        tile.vectors = static_cast<int>(next - first);
        run(tile, g.h.phase + (top + row) * g.h.stride, offsets.data() + first * width);
      }
    }
  }
}

// Between an array and the floats of a tile; `move` is for one vector of lanes.
template <typename Move>
void each_vector(const Gather& g, const ConvTile& tile, int64_t row, Move move) {
  const int64_t row_size = g.w.array * g.array_features;
  for (int r = 0; r < tile.rows; ++r) {
    for (int v = 0; v < tile.vectors; ++v) {
      const int64_t lanes = v * int64_t{kernels().width};
      move((row + r * g.h.stride) * row_size, lanes,
           (int64_t{r} * tile.vectors) * kernels().width + lanes);
    }
  }
}

struct Shape {
  ConvAxis h, w;
  int64_t images, inputs, outputs;
};

ffi::Error read_shape(const ffi::AnyBuffer::Dimensions& x,
                      const ffi::AnyBuffer::Dimensions& y, const Sizes& sizes,
                      Shape& s) {
  if (x.size() != 4 || y.size() != 4 || x[0] != y[0] || sizes.size() != 6) {
    return refuse("x and y are not images of one batch.");
  }
  for (int i = 0; i < 4; ++i) {
    if (sizes[i] < 1) return refuse("a kernel or a stride is empty.");
  }
  s.h = {x[1], y[1], sizes[0], sizes[2], sizes[4]};
  s.w = {x[2], y[2], sizes[1], sizes[3], sizes[5]};
  s.images = x[0];
  s.inputs = x[3];
  s.outputs = y[3];
  return ffi::Error::Success();
}

ffi::Error ConvForward(ffi::ThreadPool pool, Floats values, Ints starts,
                       ffi::AnyBuffer inputs, int64_t input_tiles, int64_t block,
                       Floats x, Sizes sizes, FloatResult y) {
  Shape s;
  if (ffi::Error e = read_shape(x.dimensions(), y->dimensions(), sizes, s);
      e.failure()) {
    return e;
  }
  Pattern p = {};
  if (ffi::Error e =
          read_forward(starts, inputs, input_tiles, block,
                       s.h.taps * s.w.taps * s.inputs, s.outputs,
                       values.element_count(), p);
      e.failure()) {
    return e;
  }
  if (y->element_count() == 0) return ffi::Error::Success();
  const Kernels& k = kernels();
  const Gather g = make_gather(forward_axis(s.h), forward_axis(s.w), s.images, s.inputs,
                               s.outputs, k.forward_vectors);
  Plan& plan = plan_memory;
  if (p.wide) plan_forward<int32_t>(p, values.typed_data(), g, plan);
  if (!p.wide) plan_forward<uint16_t>(p, values.typed_data(), g, plan);
  const Shifts shifts = plan.shifts();
  const std::vector<Part> parts = split(g, pool.num_threads());
  const float* from = x.typed_data();
  float* to = y->typed_data();
  parallel_for(pool, parts.size(), [=, &g, &parts, &k](int64_t i) {
    each_tile(g, from, parts[i], [&](ConvTile tile, int64_t row, const int64_t* lanes) {
      const int64_t size = int64_t{tile.rows} * tile.vectors * k.width;
      tile.out = tile_scratch.get<float>(kGroup * size);
      for (int64_t o = 0; o < s.outputs; o += kGroup) {
        const int end = static_cast<int>(std::min(s.outputs, o + kGroup));
        k.conv_forward(shifts, tile, static_cast<int>(o), end);
        each_vector(g, tile, row, [&](int64_t place, int64_t lane, int64_t at) {
          k.unpack_lanes(tile.out + at, size, end - static_cast<int>(o), to + place + o,
                         lanes + lane);
        });
      }
    });
  });
  return ffi::Error::Success();
}

// The dx and the dvalues of one grid of positions of x.
void backward_grid(ffi::ThreadPool& pool, const Pattern& p, const float* values,
                   const Gather& g, const float* x, const float* dy, float* dx,
                   float* dvalues) {
  const Kernels& k = kernels();
  Plan& plan = plan_memory;
  if (p.wide) plan_backward<int32_t>(p, values, g, plan);
  if (!p.wide) plan_backward<uint16_t>(p, values, g, plan);
  const Shifts shifts = plan.shifts();
  const std::vector<Part> parts = split(g, pool.num_threads());
  // Sums of the same parts in the same order, whoever computes them.
  const int64_t count = plan.offsets.size(), num_parts = parts.size();
  const int64_t chunks =
      std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), num_parts));
  std::vector<float> sums(dvalues ? chunks * count : 0);
  float* all_sums = sums.data();
  parallel_for(pool, chunks, [=, &g, &parts, &k](int64_t chunk) {
    const auto run = [&](ConvTile tile, int64_t row, const int64_t* lanes) {
      const int64_t size = int64_t{tile.rows} * tile.vectors * k.width;
      float* packed = tile_scratch.get<float>(2 * kGroup * size);
      tile.x = packed;
      tile.out = dx ? packed + kGroup * size : nullptr;
      tile.dvalues = dvalues ? all_sums + chunk * count : nullptr;
      for (int64_t c = 0; c < g.array_features; c += kGroup) {
        const int end = static_cast<int>(std::min(g.array_features, c + kGroup));
        const int features = end - static_cast<int>(c);
        if (dvalues) {
          each_vector(g, tile, row, [&](int64_t place, int64_t lane, int64_t at) {
            k.pack_lanes(x + place + c, lanes + lane, features, packed + at, size);
          });
        }
        k.conv_backward(shifts, tile, static_cast<int>(c), end);
        if (!dx) continue;
        each_vector(g, tile, row, [&](int64_t place, int64_t lane, int64_t at) {
          k.unpack_lanes(tile.out + at, size, features, dx + place + c, lanes + lane);
        });
      }
    };
    for (int64_t i = num_parts * chunk / chunks; i < num_parts * (chunk + 1) / chunks;
         ++i) {
      each_tile(g, dy, parts[i], run);
    }
  });
  for (int64_t e = 0; dvalues && e < count; ++e) {
    float sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * count + e];
    dvalues[plan.places[e]] = sum;
  }
}

ffi::Error run_backward(ffi::ThreadPool& pool, const float* values, const Ints& starts,
                        const ffi::AnyBuffer& rows, const Ints& order, int64_t row_tiles,
                        int64_t block, const Floats& x, const Floats& dy,
                        const Sizes& sizes, float* dx, float* dvalues, int64_t num_values) {
  Shape s;
  if (ffi::Error e = read_shape(x.dimensions(), dy.dimensions(), sizes, s);
      e.failure()) {
    return e;
  }
  Pattern p = {};
  if (ffi::Error e = read_backward(starts, rows, order, row_tiles, block,
                                   s.h.taps * s.w.taps * s.inputs, s.outputs,
                                   num_values, p);
      e.failure()) {
    return e;
  }
  // What no output sees has gradient zero, and so has padding.
  if (dx) std::memset(dx, 0, x.size_bytes());
  if (dvalues) std::memset(dvalues, 0, num_values * sizeof(float));
  if (x.element_count() == 0 || dy.element_count() == 0) return ffi::Error::Success();
  for (int64_t h = 0; h < s.h.stride; ++h) {
    for (int64_t w = 0; w < s.w.stride; ++w) {
      GatherAxis rows_of = backward_axis(s.h, h), columns_of = backward_axis(s.w, w);
      if (!rows_of.span || !columns_of.span) continue;
      if (!rows_of.positions || !columns_of.positions) continue;
      const Gather g = make_gather(rows_of, columns_of, s.images, s.outputs, s.inputs,
                                   kernels().backward_vectors);
      backward_grid(pool, p, values, g, x.typed_data(), dy.typed_data(), dx, dvalues);
    }
  }
  return ffi::Error::Success();
}

ffi::Error ConvBackward(ffi::ThreadPool pool, Floats values, Ints starts,
                        ffi::AnyBuffer rows, Ints order, int64_t row_tiles,
                        int64_t block, Floats x, Floats dy, Sizes sizes, FloatResult dx,
                        FloatResult dvalues) {
  return run_backward(pool, values.typed_data(), starts, rows, order, row_tiles, block,
                      x, dy, sizes, dx->typed_data(), dvalues->typed_data(),
                      values.element_count());
}

ffi::Error ConvBackwardX(ffi::ThreadPool pool, Floats values, Ints starts,
                         ffi::AnyBuffer rows, Ints order, int64_t row_tiles, int64_t block,
                         Floats dy, Sizes sizes, FloatResult dx) {
  // x is not read: dx, of the same shape, stands in for it.
  return run_backward(pool, values.typed_data(), starts, rows, order, row_tiles, block,
                      *dx, dy, sizes, dx->typed_data(), nullptr, values.element_count());
}

ffi::Error ConvBackwardValues(ffi::ThreadPool pool, Ints starts, ffi::AnyBuffer rows,
                              Ints order, int64_t row_tiles, int64_t block,
                              Floats x, Floats dy, Sizes sizes, FloatResult dvalues) {
  return run_backward(pool, nullptr, starts, rows, order, row_tiles, block, x, dy, sizes,
                      nullptr, dvalues->typed_data(), dvalues->element_count());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    JaxsparseConvForward, ConvForward,
    bind_forward(threaded().Arg<Floats>()).Arg<Floats>().Attr<Sizes>("sizes").Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseConvBackward, ConvBackward,
                              bind_backward(threaded().Arg<Floats>())
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Attr<Sizes>("sizes")
                                  .Ret<Floats>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseConvBackwardX, ConvBackwardX,
                              bind_backward(threaded().Arg<Floats>())
                                  .Arg<Floats>()
                                  .Attr<Sizes>("sizes")
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseConvBackwardValues, ConvBackwardValues,
                              bind_backward(threaded())
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Attr<Sizes>("sizes")
                                  .Ret<Floats>());

}  // namespace jaxsparse
