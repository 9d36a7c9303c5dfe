// AVX-512: setup.py compiles this file, and no other, with its flags.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "matmul.h"
#include "select.h"

namespace jaxsparse {
namespace {

const Kernels kTable = {
    "avx512",
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

const Kernels* const kAvx512 = &kTable;

}  // namespace jaxsparse

#else

namespace jaxsparse {

const Kernels* const kAvx512 = nullptr;

}  // namespace jaxsparse

#endif
