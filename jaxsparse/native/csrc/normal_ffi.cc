// Standard normal numbers that belong to indices.
#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxsparse {
namespace {

namespace ffi = xla::ffi;
using Words = ffi::Buffer<ffi::U32>;

// Without indices: those of an array of the result's size, which is written as it is or,
// with `columns`, column after column of so many.
ffi::Error Normal(ffi::ThreadPool pool, int64_t columns, Words key, Words index,
                  ffi::Result<ffi::Buffer<ffi::F32>> result) {
  const int64_t n = result->element_count();
  const int64_t given = index.element_count();
  if (key.element_count() != 2 || (given != 0 && given != n) ||
      n >= int64_t{1} << 32 || (columns > 0 && (given != 0 || n % columns != 0))) {
    return ffi::Error::InvalidArgument(
        "jaxsparse_normal: wanted two words of a key, and an index per number or none");
  }
  const uint32_t* words = key.typed_data();
  const uint32_t* at = given ? index.typed_data() : nullptr;
  float* out = result->typed_data();
  constexpr int64_t kChunk = 1 << 14;
  if (columns > 0 && n > 0) {
    const int64_t rows = n / columns, most = std::max<int64_t>(1, kChunk / rows);
    parallel_for(pool, (columns + most - 1) / most, [=](int64_t chunk) {
      const int64_t end = std::min(columns, (chunk + 1) * most);
      for (int64_t column = chunk * most; column < end; ++column) {
        kernels().normal(words, nullptr, static_cast<uint32_t>(column),
                         static_cast<uint32_t>(columns), rows, out + column * rows);
      }
    });
    return ffi::Error::Success();
  }
  parallel_for(pool, (n + kChunk - 1) / kChunk, [=](int64_t chunk) {
    const int64_t begin = chunk * kChunk, count = std::min(kChunk, n - begin);
    kernels().normal(words, at ? at + begin : nullptr, static_cast<uint32_t>(begin), 1,
                     count, out + begin);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseNormal, Normal,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("columns")
                                  .Arg<Words>()
                                  .Arg<Words>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

}  // namespace jaxsparse
