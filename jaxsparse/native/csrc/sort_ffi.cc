// The order of integers: by several keys, without comparisons.
#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jaxsparse {
namespace {

namespace ffi = xla::ffi;

constexpr int kBits = 8, kDigits = 32 / kBits, kBuckets = 1 << kBits;

// Sorts the indices in `order` by one key, stably; `spare` is as long.
void sort_by(const uint32_t* keys, std::vector<int32_t>& order,
             std::vector<int32_t>& spare) {
  std::array<std::array<int64_t, kBuckets>, kDigits> counts = {};
  const int64_t n = order.size();
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) {
      ++counts[d][keys[i] >> (d * kBits) & (kBuckets - 1)];
    }
  }
  for (int d = 0; d < kDigits; ++d) {
    auto& places = counts[d];
    // A digit that all keys share orders nothing.
    if (std::find(places.begin(), places.end(), n) != places.end()) continue;
    int64_t begin = 0;
    for (auto& place : places) begin += std::exchange(place, begin);
    for (int32_t i : order) {
      spare[places[keys[i] >> (d * kBits) & (kBuckets - 1)]++] = i;
    }
    std::swap(order, spare);
  }
}

// keys (..., k, n), the first of the k decides first; order (..., n).
ffi::Error Argsort(ffi::Buffer<ffi::U32> keys, ffi::ResultBuffer<ffi::S32> order) {
  const auto dims = keys.dimensions();
  if (dims.size() < 2) {
    return ffi::Error::InvalidArgument("jaxsparse: keys have fewer than two axes.");
  }
  const int64_t k = dims[dims.size() - 2], n = dims[dims.size() - 1];
  const int64_t sorts = n == 0 ? 0 : static_cast<int64_t>(order->element_count()) / n;
  std::vector<int32_t> found(n), spare(n);
  for (int64_t s = 0; s < sorts; ++s) {
    std::iota(found.begin(), found.end(), 0);
    for (int64_t i = k - 1; i >= 0; --i) {
      sort_by(keys.typed_data() + (s * k + i) * n, found, spare);
    }
    std::copy(found.begin(), found.end(), order->typed_data() + s * n);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    JaxsparseArgsort, Argsort,
    ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::U32>>().Ret<ffi::Buffer<ffi::S32>>());

}  // namespace jaxsparse
