// AVX2 with FMA: setup.py compiles this file, and no other, with their flags.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "matmul.h"
#include "select.h"

namespace jaxsparse {
namespace {

const Kernels kTable = {
    "avx2",
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

const Kernels* const kAvx2 = &kTable;

}  // namespace jaxsparse

#else

namespace jaxsparse {

const Kernels* const kAvx2 = nullptr;

}  // namespace jaxsparse

#endif
