// AVX-512: setup.py compiles this file, and no other, with its flags.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "table.h"

namespace jaxsparse {
namespace {
const Kernels kTable = table("avx512");
}
const Kernels* const kAvx512 = &kTable;
}  // namespace jaxsparse

#else

namespace jaxsparse {
const Kernels* const kAvx512 = nullptr;
}

#endif
