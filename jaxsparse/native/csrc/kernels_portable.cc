// What every machine of the architecture has: SSE2 on x86-64, Neon on aarch64.
#include "matmul.h"
#include "select.h"

namespace jaxsparse {
namespace {

const Kernels kTable = {
    "portable",
    kWidth,
    kForwardVectors,
    kBlockVectors,
    kBackwardVectors,
    forward,
    backward,
    forward_vector,
    largest_index,
    keys,
    count,
    write_mask,
};

}  // namespace

const Kernels* const kPortable = &kTable;

}  // namespace jaxsparse
