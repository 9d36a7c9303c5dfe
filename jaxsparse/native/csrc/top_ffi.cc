// Where the largest of many keys are, without an order among them.
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jaxsparse {
namespace {

namespace ffi = xla::ffi;

// The first bits of a key decide but for those in one bucket. For keys made of floats
// these are the sign, the exponent and two bits of the mantissa.
constexpr int kShift = 21, kBuckets = 1 << (32 - kShift);

// The indices of the `num` largest pairs (key, tie), rising; num <= n.
void top_indices(const uint32_t* keys, const uint32_t* ties, int64_t n, int64_t num,
                 std::vector<uint64_t>& among, int32_t* found) {
  std::array<int64_t, kBuckets> counts = {};
  for (int64_t i = 0; i < n; ++i) ++counts[keys[i] >> kShift];
  uint32_t bucket = kBuckets - 1;
  int64_t left = num;  // What the bucket has to give.
  while (bucket > 0 && left > counts[bucket]) left -= counts[bucket--];

  const auto pair = [&](int64_t i) {
    return static_cast<uint64_t>(keys[i]) << 32 | ties[i];
  };
  among.clear();
  for (int64_t i = 0; i < n; ++i) {
    if (keys[i] >> kShift == bucket) among.push_back(pair(i));
  }
  uint64_t level = 0;
  if (left > 0) {
    const auto last = among.begin() + (left - 1);
    std::nth_element(among.begin(), last, among.end(), std::greater<>());
    level = *last;
    // Of equal pairs the first indices are taken.
    left -= std::count_if(among.begin(), last, [&](uint64_t p) { return p > level; });
  }
  for (int64_t i = 0, at = 0; at < num; ++i) {
    const uint32_t own = keys[i] >> kShift;
    if (own < bucket) continue;
    const bool in = own > bucket || pair(i) > level || (pair(i) == level && left-- > 0);
    if (in) found[at++] = static_cast<int32_t>(i);
  }
}

// keys, ties (..., n); found (..., num).
ffi::Error TopIndices(ffi::Buffer<ffi::U32> keys, ffi::Buffer<ffi::U32> ties,
                      ffi::ResultBuffer<ffi::S32> found) {
  if (keys.dimensions().size() < 1 || found->dimensions().size() < 1 ||
      ties.element_count() != keys.element_count()) {
    return ffi::Error::InvalidArgument("jaxsparse: keys and ties differ in shape.");
  }
  const int64_t n = keys.dimensions().back(), num = found->dimensions().back();
  if (num > n) {
    return ffi::Error::InvalidArgument("jaxsparse: more is asked for than there is.");
  }
  const int64_t searches = num == 0 ? 0 : found->element_count() / num;
  std::vector<uint64_t> among;
  for (int64_t s = 0; s < searches; ++s) {
    top_indices(keys.typed_data() + s * n, ties.typed_data() + s * n, n, num, among,
                found->typed_data() + s * num);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseTopIndices, TopIndices,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());

}  // namespace jaxsparse
