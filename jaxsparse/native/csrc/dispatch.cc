// Chooses the instruction set when the library is loaded.
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "xla/ffi/api/c_api.h"

namespace jaxsparse {
namespace {

bool has_avx512() {
#if defined(__x86_64__)
  return kAvx512 && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return kAvx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

const Kernels& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const char* named = std::getenv("JAXSPARSE_NATIVE");
  const auto allows = [named](const Kernels* table) {
    const bool any = !named || (std::strcmp(named, "avx512") &&
                                std::strcmp(named, "avx2") &&
                                std::strcmp(named, "portable"));
    return any || !std::strcmp(named, table->name);
  };
  if (has_avx512() && allows(kAvx512)) return *kAvx512;
  if (has_avx2() && allows(kAvx2)) return *kAvx2;
  return *kPortable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace jaxsparse

extern "C" {

const char* jaxsparse_instruction_set() { return jaxsparse::kernels().name; }

// The interface of XLA that this was built for: a jax with an older one must not even
// be shown the calls, it would lose its CPU.
int jaxsparse_ffi_major() { return XLA_FFI_API_MAJOR; }
int jaxsparse_ffi_minor() { return XLA_FFI_API_MINOR; }
}
