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

// The first bits of a key decide but for those in one bucket, and in there the next bits.
// For keys made of floats the first are the sign, the exponent and two bits of the mantissa.
constexpr int kBits = 11, kShifts[] = {32 - kBits, 32 - 2 * kBits};
using Buckets = std::array<int32_t, 1 << kBits>;

// Room that is used again by the next search.
struct Room {
  std::vector<int32_t> candidates, inside;
  std::vector<uint64_t> pairs;
};

// Writes the indices i of `from` with `is(i)` to `to`, which may be the same; how many.
template <typename From, typename Is>
int64_t choose(int64_t n, From from, Is is, int32_t* to) {
  int64_t many = 0;
  // No branch: nobody could guess it.
  for (int64_t c = 0; c < n; ++c) {
    const int32_t i = from(c);
    to[many] = i;
    many += is(i);
  }
  return many;
}

// The indices of the `num` largest pairs (key, tie), rising; num <= n.
void top_indices(const uint32_t* keys, const uint32_t* ties, int64_t n, int64_t num,
                 Room& room, int32_t* found) {
  if (num == 0) return;
  room.candidates.resize(n);
  room.inside.resize(n);
  int32_t *const candidates = room.candidates.data(), *const inside = room.inside.data();
  // What is below each of the first `num` keys is not among the largest. Where these were
  // the largest of earlier keys, little is left.
  const uint32_t floor = *std::min_element(keys, keys + num);
  const int64_t many = choose(
      n, [](int64_t i) { return static_cast<int32_t>(i); },
      [=](int32_t i) { return keys[i] >= floor; }, candidates);

  int64_t left = num;  // What the bucket has to give.
  int64_t within = many;
  const int32_t* from = candidates;
  for (const int shift : kShifts) {
    const auto digit = [=](int32_t i) {
      return keys[i] >> shift & ((1u << kBits) - 1);
    };
    Buckets counts = {};
    for (int64_t c = 0; c < within; ++c) ++counts[digit(from[c])];
    uint32_t bucket = counts.size() - 1;
    while (left > counts[bucket]) left -= counts[bucket--];
    within = choose(
        within, [=](int64_t c) { return from[c]; },
        [=](int32_t i) { return digit(i) == bucket; }, inside);
    from = inside;
  }

  const auto pair = [=](int32_t i) {
    return static_cast<uint64_t>(keys[i]) << 32 | ties[i];
  };
  room.pairs.resize(within);
  std::transform(inside, inside + within, room.pairs.begin(), pair);
  const auto last = room.pairs.begin() + (left - 1);
  std::nth_element(room.pairs.begin(), last, room.pairs.end(), std::greater<>());
  const uint64_t level = *last;
  // Of equal pairs the first indices are taken.
  left -= std::count_if(room.pairs.begin(), last, [=](uint64_t p) { return p > level; });
  const uint32_t key = level >> 32;
  for (int64_t c = 0, at = 0; at < num; ++c) {
    const int32_t i = candidates[c];
    found[at] = i;
    if (keys[i] == key) {
      at += pair(i) > level || (pair(i) == level && left-- > 0);
    } else {
      at += keys[i] > key;
    }
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
  Room room;
  for (int64_t s = 0; s < searches; ++s) {
    top_indices(keys.typed_data() + s * n, ties.typed_data() + s * n, n, num, room,
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
