// The table of the instruction set that a kernels_*.cc is compiled for.
#pragma once

#include "conv.h"
#include "kernels.h"
#include "matmul.h"
#include "normal.h"
#include "places.h"
#include "select.h"

namespace jaxsparse {
namespace {

constexpr Kernels table(const char* name) {
  return {
      name,          kWidth,        kForwardVectors, kBlockVectors, kBackwardVectors,
      forward,       backward,      forward_vector,  conv_forward,  conv_backward,
      pack_lanes,    unpack_lanes,  largest_index,   keys,          count,
      write_mask,    flat_indices,  normal,
  };
}

}  // namespace
}  // namespace jaxsparse
