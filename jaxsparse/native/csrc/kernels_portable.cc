// What every machine of the architecture has: SSE2 on x86-64, Neon on aarch64.
#include "table.h"

namespace jaxsparse {
namespace {
const Kernels kTable = table("portable");
}
const Kernels* const kPortable = &kTable;
}  // namespace jaxsparse
