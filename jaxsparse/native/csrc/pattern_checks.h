// Reads a pattern out of the buffers of a call, and refuses what is none.
#pragma once

#include <string>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace jaxsparse {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using FloatResult = ffi::ResultBuffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;

inline ffi::Error refuse(const std::string& what) {
  return ffi::Error::InvalidArgument("jaxsparse: " + what);
}

// Whether `starts` (n + 1 numbers) rise from 0 to at most `capacity`.
inline bool rises(const int32_t* starts, int64_t n, int64_t capacity) {
  bool ok = starts[0] == 0 && starts[n] <= capacity;
  for (int64_t i = 0; i < n; ++i) ok &= starts[i] <= starts[i + 1];
  return ok;
}

// Fills one half of a pattern. Every index is looked at, which costs about a hundredth
// of the product: a corrupted pattern is an error, never a wild read.
inline ffi::Error read_half(const char* what, const Ints& starts, const ffi::AnyBuffer& indices,
                     int64_t segments, int64_t bound, int64_t capacity, bool& wide) {
  if (static_cast<int64_t>(starts.element_count()) != segments + 1) {
    return refuse(std::string(what) + " starts have the wrong length.");
  }
  if (static_cast<int64_t>(indices.element_count()) != capacity) {
    return refuse(std::string(what) + " indices have the wrong length.");
  }
  if (indices.element_type() != ffi::U16 && indices.element_type() != ffi::S32) {
    return refuse(std::string(what) + " indices are neither uint16 nor int32.");
  }
  wide = indices.element_type() == ffi::S32;
  const int32_t* s = starts.typed_data();
  if (!rises(s, segments, capacity)) {
    return refuse(std::string(what) + " starts do not rise from 0 to the capacity.");
  }
  const int64_t count = s[segments];
  if (count && kernels().largest_index(indices.untyped_data(), wide, count) >= bound) {
    return refuse(std::string(what) + " indices are out of range.");
  }
  return ffi::Error::Success();
}

inline ffi::Error read_block(int64_t block, int64_t tiles, int64_t num_inputs,
                             int64_t outputs, Pattern& p) {
  if (block < 1 || outputs % block || tiles < 1) {
    return refuse("block does not divide the outputs.");
  }
  p.num_inputs = static_cast<int32_t>(num_inputs);
  p.rows = static_cast<int32_t>(outputs / block);
  p.block = static_cast<int32_t>(block);
  return ffi::Error::Success();
}

inline ffi::Error read_forward(const Ints& starts, const ffi::AnyBuffer& inputs,
                               int64_t input_tiles, int64_t block, int64_t num_inputs,
                               int64_t outputs, int64_t num_values, Pattern& p) {
  if (ffi::Error e = read_block(block, input_tiles, num_inputs, outputs, p);
      e.failure()) {
    return e;
  }
  p.starts = starts.typed_data();
  p.inputs = inputs.untyped_data();
  p.input_tiles = static_cast<int32_t>(input_tiles);
  return read_half("forward", starts, inputs, input_tiles * p.rows, num_inputs,
                   num_values / block, p.wide);
}

// The backward half, and the order that leads from it to the values.
inline ffi::Error read_backward(const Ints& starts, const ffi::AnyBuffer& rows_of,
                                const Ints& order, int64_t row_tiles, int64_t block,
                                int64_t num_inputs, int64_t outputs, int64_t num_values,
                                Pattern& p) {
  if (ffi::Error e = read_block(block, row_tiles, num_inputs, outputs, p); e.failure()) {
    return e;
  }
  const int64_t capacity = num_values / block;
  if (ffi::Error e = read_half("backward", starts, rows_of, row_tiles * num_inputs,
                               p.rows, capacity, p.wide);
      e.failure()) {
    return e;
  }
  p.back_starts = starts.typed_data();
  p.back_rows = rows_of.untyped_data();
  p.order = order.typed_data();
  p.row_tiles = static_cast<int32_t>(row_tiles);
  const int64_t count = p.back_starts[row_tiles * num_inputs];
  if (static_cast<int64_t>(order.element_count()) != capacity ||
      (count && kernels().largest_index(p.order, true, count) >= capacity)) {
    return refuse("the backward order is out of range.");
  }
  return ffi::Error::Success();
}

}  // namespace jaxsparse
