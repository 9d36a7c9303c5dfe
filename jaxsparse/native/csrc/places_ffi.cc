// Where the weights of a pattern stand in the dense array, as an XLA call.
#include <cstdint>

#include "kernels.h"
#include "pattern_checks.h"

namespace jaxsparse {
namespace {

// starts (..., segments + 1), inputs (..., capacity); result (..., capacity * block).
ffi::Error FlatIndices(int64_t rows, int64_t outputs, int64_t block, Ints starts,
                       ffi::AnyBuffer inputs, ffi::ResultBuffer<ffi::U32> result) {
  const bool wide = inputs.element_type() == ffi::S32;
  if (starts.dimensions().size() < 1 || inputs.dimensions().size() < 1 || rows < 1 ||
      block < 1 || (!wide && inputs.element_type() != ffi::U16)) {
    return refuse("no pattern: starts, or inputs that are neither uint16 nor int32.");
  }
  const int64_t segments = starts.dimensions().back() - 1;
  const int64_t capacity = inputs.dimensions().back();
  if (capacity == 0) return ffi::Error::Success();
  const int64_t layers = inputs.element_count() / capacity;
  if (layers * (segments + 1) != static_cast<int64_t>(starts.element_count()) ||
      layers * capacity * block != static_cast<int64_t>(result->element_count())) {
    return refuse("starts, inputs and indices differ in shape.");
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int32_t* first = starts.typed_data() + layer * (segments + 1);
    if (!rises(first, segments, capacity)) {
      return refuse("starts do not rise from 0 to the capacity.");
    }
    const char* from = static_cast<const char*>(inputs.untyped_data());
    const Places places = {first,
                           from + layer * capacity * (wide ? 4 : 2),
                           segments,
                           capacity,
                           static_cast<uint32_t>(rows),
                           static_cast<uint32_t>(outputs),
                           static_cast<uint32_t>(block),
                           wide};
    kernels().flat_indices(places, result->typed_data() + layer * capacity * block);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseFlatIndices, FlatIndices,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("outputs")
                                  .Attr<int64_t>("block")
                                  .Arg<Ints>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::U32>>());

}  // namespace jaxsparse
