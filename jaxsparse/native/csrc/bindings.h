// What the calls have in common: the threads, and the two halves of a pattern.
#pragma once

#include <utility>

#include "pattern_checks.h"
#include "xla/ffi/api/ffi.h"

namespace jaxsparse {

inline auto threaded() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

// starts, inputs, input_tiles, block
template <typename Binding>
auto bind_forward(Binding binding) {
  return std::move(binding)
      .template Arg<Ints>()
      .template Arg<ffi::AnyBuffer>()
      .template Attr<int64_t>("input_tiles")
      .template Attr<int64_t>("block");
}

// starts, rows, order, row_tiles, block
template <typename Binding>
auto bind_backward(Binding binding) {
  return std::move(binding)
      .template Arg<Ints>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<Ints>()
      .template Attr<int64_t>("row_tiles")
      .template Attr<int64_t>("block");
}

}  // namespace jaxsparse
