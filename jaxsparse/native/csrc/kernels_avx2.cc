// AVX2 with FMA: setup.py compiles this file, and no other, with its flags.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "table.h"

namespace jaxsparse {
namespace {
const Kernels kTable = table("avx2");
}
const Kernels* const kAvx2 = &kTable;
}  // namespace jaxsparse

#else

namespace jaxsparse {
const Kernels* const kAvx2 = nullptr;
}

#endif
