// Where the blocks of a pattern stand. See vec.h for who includes it.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace {

using jaxsparse::Places;

JAXSPARSE_INLINE Bits load_indices(const uint16_t* p) {
  return __builtin_convertvector(*reinterpret_cast<const HalvesAt*>(p), Bits);
}
JAXSPARSE_INLINE Bits load_indices(const int32_t* p) {
  return *reinterpret_cast<const BitsAt*>(p);
}

// Writes whole vectors, whose ends the next segments write over: with a loop as long as
// each segment, which has a handful of entries, the processor guesses its end wrong.
template <typename Index>
void flat_indices_of(const Places& p, uint32_t* out) {
  const Index* inputs = static_cast<const Index*>(p.inputs);
  uint32_t row = 0;
  for (int64_t segment = 0; segment < p.segments; ++segment) {
    int64_t k = p.starts[segment];
    const int64_t stop = p.starts[segment + 1];
    const uint32_t first = row * p.block;
    if (p.block == 1) {
      for (; k < stop && k + kWidth <= p.capacity; k += kWidth) {
        *reinterpret_cast<BitsAt*>(out + k) = load_indices(inputs + k) * p.outputs + first;
      }
    }
    for (; k < stop; ++k) {
      const uint32_t flat = static_cast<uint32_t>(inputs[k]) * p.outputs + first;
      for (uint32_t i = 0; i < p.block; ++i) out[k * p.block + i] = flat + i;
    }
    if (++row == p.rows) row = 0;
  }
  const int64_t end = p.capacity * p.block;
  for (int64_t k = p.starts[p.segments] * int64_t{p.block}; k < end; ++k) out[k] = 0;
}

void flat_indices(const Places& p, uint32_t* out) {
  if (p.wide) return flat_indices_of<int32_t>(p, out);
  flat_indices_of<uint16_t>(p, out);
}

}  // namespace
