// Rows of a sparse table, by the number of the row: an embedding.
#include <algorithm>
#include <limits>

#include "bindings.h"
#include "kernels.h"
#include "parallel.h"
#include "pattern_checks.h"

namespace jaxsparse {
namespace {

// Calls f(place among the values, first output) for each block of an input.
template <typename Index, typename F>
void each_block(const Pattern& p, int64_t input, F f) {
  const Index* rows = static_cast<const Index*>(p.back_rows);
  for (int64_t tile = 0; tile < p.row_tiles; ++tile) {
    const int32_t* starts = p.back_starts + tile * p.num_inputs + input;
    for (int32_t k = starts[0]; k < starts[1]; ++k) {
      f(int64_t{p.order[k]} * p.block, int64_t{rows[k]} * p.block);
    }
  }
}

template <typename F>
void each_block_of(const Pattern& p, int64_t input, F f) {
  if (p.wide) return each_block<int32_t>(p, input, f);
  each_block<uint16_t>(p, input, f);
}

int64_t num_inputs_of(const Ints& starts, int64_t row_tiles) {
  return (starts.element_count() - 1) / std::max<int64_t>(1, row_tiles);
}

// y (n, outputs): the rows `ids` of W, NaN where there is no such row.
ffi::Error Take(ffi::ThreadPool pool, Floats values, Ints starts, ffi::AnyBuffer rows,
                Ints order, int64_t row_tiles, int64_t block, Ints ids, FloatResult y) {
  const int64_t n = ids.element_count();
  const int64_t outputs = y->dimensions()[1];
  Pattern p = {};
  if (ffi::Error e = read_backward(starts, rows, order, row_tiles, block,
                                   num_inputs_of(starts, row_tiles), outputs,
                                   values.element_count(), p);
      e.failure()) {
    return e;
  }
  const float* w = values.typed_data();
  const int32_t* wanted = ids.typed_data();
  float* out = y->typed_data();
  constexpr int64_t kRows = 64;
  parallel_for(pool, (n + kRows - 1) / kRows, [=](int64_t chunk) {
    for (int64_t i = chunk * kRows; i < std::min(n, (chunk + 1) * kRows); ++i) {
      float* row = out + i * outputs;
      const bool exists = wanted[i] >= 0 && wanted[i] < p.num_inputs;
      const float fill = exists ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      std::fill(row, row + outputs, fill);
      if (!exists) continue;
      each_block_of(p, wanted[i], [=](int64_t place, int64_t output) {
        std::copy(w + place, w + place + block, row + output);
      });
    }
  });
  return ffi::Error::Success();
}

// The gradient of the values. One thread: two ids may be the same.
ffi::Error TakeBackward(Ints starts, ffi::AnyBuffer rows, Ints order, int64_t row_tiles,
                        int64_t block, Ints ids, Floats dy, FloatResult dvalues) {
  const int64_t outputs = dy.dimensions()[1];
  Pattern p = {};
  if (ffi::Error e = read_backward(starts, rows, order, row_tiles, block,
                                   num_inputs_of(starts, row_tiles), outputs,
                                   dvalues->element_count(), p);
      e.failure()) {
    return e;
  }
  float* sums = dvalues->typed_data();
  std::fill(sums, sums + dvalues->element_count(), 0.0f);
  const int64_t n = ids.element_count();
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = ids.typed_data()[i];
    if (id < 0 || id >= p.num_inputs) continue;
    const float* given = dy.typed_data() + i * outputs;
    each_block_of(p, id, [=](int64_t place, int64_t output) {
      for (int64_t j = 0; j < block; ++j) sums[place + j] += given[output + j];
    });
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    JaxsparseTake, Take,
    bind_backward(threaded().Arg<Floats>()).Arg<Ints>().Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    JaxsparseTakeBackward, TakeBackward,
    bind_backward(ffi::Ffi::Bind()).Arg<Ints>().Arg<Floats>().Ret<Floats>());

}  // namespace jaxsparse
