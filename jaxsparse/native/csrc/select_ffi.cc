// The mask of the largest scores, as an XLA call.
//
// A sample brackets the threshold; one pass counts what is above the bracket and keeps
// what is inside; the threshold is selected among those. A second pass writes the mask.
// Where the bracket misses, or too much is inside (few different scores), three passes
// of a radix search find the threshold instead.
#include <cmath>
#include <functional>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxsparse {
namespace {

constexpr int64_t kChunk = 1 << 15;
constexpr int64_t kSample = 1 << 14;
// Misses once in ten thousand random samples; a miss costs time, nothing else.
constexpr double kDeviations = 4.0;

// A key with `above` keys above it, and `tied` keys equal to it.
struct Level {
  uint32_t key;
  int64_t above, tied;
};

struct Bracket {
  uint32_t low, high;
};

int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

thread_local Scratch key_scratch;

// Calls f(keys, n) for each chunk, one after the other.
template <typename F>
void each_chunk(const Scores& s, const Search& search, int64_t n, F f) {
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = std::min(n, begin + kChunk);
    uint32_t* keys = key_scratch.get<uint32_t>(kChunk + 16);
    kernels().keys(s, search, begin, end, keys);
    f(keys, end - begin);
  }
}

// The `wanted` th largest, 11 or 10 bits at a time. Exact whatever the scores.
Level radix_search(const Scores& s, const Search& search, int64_t n, int64_t wanted) {
  Level level = {0, 0, 0};
  uint32_t known = 0;
  for (int shift : {21, 10, 0}) {
    const int bits = shift == 0 ? 10 : 11;
    std::vector<int64_t> counts(size_t{1} << bits, 0);
    each_chunk(s, search, n, [&](const uint32_t* keys, int64_t size) {
      for (int64_t i = 0; i < size; ++i) {
        if ((keys[i] & known) == level.key) {
          ++counts[(keys[i] >> shift) & ((1u << bits) - 1)];
        }
      }
    });
    uint32_t digit = (1u << bits) - 1;
    while (digit > 0 && level.above + counts[digit] < wanted) {
      level.above += counts[digit--];
    }
    level.key |= digit << shift;
    level.tied = counts[digit];
    known |= ((1u << bits) - 1) << shift;
  }
  return level;
}

// The `wanted` th largest of a list, which is reordered; `above` others are larger.
Level select_in(uint32_t* keys, int64_t n, int64_t wanted, int64_t above) {
  std::nth_element(keys, keys + (wanted - 1), keys + n, std::greater<uint32_t>());
  const uint32_t key = keys[wanted - 1];
  Level level = {key, above, 0};
  for (int64_t i = 0; i < n; ++i) {
    level.above += keys[i] > key;
    level.tied += keys[i] == key;
  }
  return level;
}

// One pass over all chunks. False if more is inside than a radix search is worth.
bool count_all(ffi::ThreadPool& pool, const Scores& s, const Search& search, int64_t n,
               Bracket b, int64_t& at_least_high, std::vector<uint32_t>& inside) {
  const int64_t chunks = chunks_of(n), most = n / 4 + kChunk;
  std::vector<std::vector<uint32_t>> kept(chunks);
  std::atomic<int64_t> num_kept{0}, num_high{0};
  parallel_for(pool, chunks, [&, n, most](int64_t c) {
    if (num_kept.load(std::memory_order_relaxed) > most) return;
    uint32_t* found = key_scratch.get<uint32_t>(kChunk + 16);
    const Counts counts = kernels().count(
        s, search, c * kChunk, std::min(n, (c + 1) * kChunk), b.low, b.high, found);
    kept[c].assign(found, found + counts.inside);
    num_kept += counts.inside;
    num_high += counts.at_least_high;
  });
  if (num_kept > most) return false;
  at_least_high = num_high;
  inside.clear();
  inside.reserve(num_kept);
  for (const auto& part : kept) inside.insert(inside.end(), part.begin(), part.end());
  return true;
}

// The `wanted` th largest by one pass if the bracket holds it, by two if it is an end
// of the bracket, as where there are many ties.
bool bracket_search(ffi::ThreadPool& pool, const Scores& s, const Search& search,
                    int64_t n, int64_t wanted, Bracket b, Level& level) {
  int64_t at_least_high, beyond;
  std::vector<uint32_t> inside;
  if (!count_all(pool, s, search, n, b, at_least_high, inside)) return false;
  const int64_t above_low = at_least_high + static_cast<int64_t>(inside.size());
  if (wanted > at_least_high && wanted <= above_low) {
    level = select_in(inside.data(), inside.size(), wanted - at_least_high,
                      at_least_high);
    return true;
  }
  if (wanted <= at_least_high) {
    // Nothing lies between high and high + 1: how many are above it?
    if (b.high == 0xffffffffu) {
      level = {b.high, 0, at_least_high};
      return true;
    }
    count_all(pool, s, search, n, {b.high, b.high + 1}, beyond, inside);
    level = {b.high, beyond, at_least_high - beyond};
    return wanted > beyond;
  }
  // `at_least_high` counts what is above `low` where both ends are one.
  if (b.low == b.high) return false;
  if (b.low == 0) {
    level = {0, above_low, n - above_low};
    return true;
  }
  count_all(pool, s, search, n, {b.low - 1, b.low}, beyond, inside);
  level = {b.low, above_low, beyond - above_low};
  return wanted <= beyond;
}

// The bracket of the wanted key, from a sample at fixed pseudo-random places.
Bracket sample_bracket(const Scores& s, const Search& search, int64_t n,
                       int64_t wanted) {
  std::vector<uint32_t> sample(kSample);
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (uint32_t& key : sample) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const int64_t i = (state >> 32) * static_cast<uint64_t>(n) >> 32;
    kernels().keys(s, search, i, i + 1, &key);
  }
  const double part = static_cast<double>(wanted) / static_cast<double>(n);
  const double deviation = std::sqrt(kSample * part * (1 - part)) + 1;
  const auto first = static_cast<int64_t>(part * kSample - kDeviations * deviation);
  const auto last = static_cast<int64_t>(part * kSample + kDeviations * deviation) + 1;
  Bracket b = {0, 0xffffffffu};
  const auto end = sample.end();
  auto low = end;
  if (last < kSample) {
    low = sample.begin() + last;
    std::nth_element(sample.begin(), low, end, std::greater<uint32_t>());
    b.low = *low;
  }
  if (first >= 0) {
    const auto high = sample.begin() + first;
    std::nth_element(sample.begin(), high, low, std::greater<uint32_t>());
    b.high = *high;
  }
  return b;
}

// Hashes are spread evenly, so their bracket needs no sample.
Bracket hash_bracket(int64_t tied, int64_t wanted) {
  const double n = static_cast<double>(tied), part = wanted / n;
  const double margin = kDeviations * (std::sqrt(n * part * (1 - part)) + 1) / n;
  const auto at = [](double x) {
    return static_cast<uint32_t>(std::min(std::max(x, 0.0), 0.9999999) * 4294967296.0);
  };
  return {at(1 - part - margin), part < margin ? 0xffffffffu : at(1 - part + margin)};
}

Level find_level(ffi::ThreadPool& pool, const Scores& s, const Search& search,
                 int64_t n, int64_t wanted, const Bracket* given) {
  Level level;
  if (!given && n <= 2 * kChunk) {
    std::vector<uint32_t> keys(n + 16);
    kernels().keys(s, search, 0, n, keys.data());
    return select_in(keys.data(), n, wanted, 0);
  }
  const Bracket b = given ? *given : sample_bracket(s, search, n, wanted);
  if (bracket_search(pool, s, search, n, wanted, b, level)) return level;
  return radix_search(s, search, n, wanted);
}

void select(ffi::ThreadPool& pool, const Scores& s, int64_t n, int64_t wanted,
            uint8_t* mask) {
  // All or nothing: a level above or below every key that is wanted.
  Level level = {0, 0, n};
  uint32_t last_hash = 0;
  bool any_tie = false;
  if (wanted <= 0) {
    std::fill(mask, mask + n, uint8_t{0});
    return;
  }
  if (wanted < n) {
    level = find_level(pool, s, {false, 0}, n, wanted, nullptr);
    const int64_t left = wanted - level.above;
    if (left < level.tied) {
      const Bracket b = hash_bracket(level.tied, left);
      const Search hashes = {true, level.key};
      last_hash = find_level(pool, s, hashes, n, left, &b).key;
      any_tie = true;
    }
  }
  parallel_for(pool, chunks_of(n), [&, n](int64_t c) {
    kernels().write_mask(s, c * kChunk, std::min(n, (c + 1) * kChunk), level.key,
                         last_hash, any_tie, mask);
  });
}

// scores (..., slices, size), num_kept (..., slices). The hash of a slice's index goes
// on from that of the slice before; leading axes (of vmap) begin anew.
ffi::Error Select(ffi::ThreadPool pool, ffi::AnyBuffer scores,
                  ffi::Buffer<ffi::S32> num_kept, ffi::ResultBuffer<ffi::PRED> mask) {
  const auto dims = scores.dimensions();
  if (dims.size() < 2) {
    return ffi::Error::InvalidArgument("jaxsparse: scores have fewer than two axes.");
  }
  Scores s = {scores.untyped_data(), ScoreKind::kUint32, 0};
  switch (scores.element_type()) {
    case ffi::U32: break;
    case ffi::S32: s.kind = ScoreKind::kInt32; break;
    case ffi::F32: s.kind = ScoreKind::kFloat32; break;
    case ffi::BF16: s.kind = ScoreKind::kBfloat16; break;
    default: return ffi::Error::InvalidArgument("jaxsparse: dtype of the scores.");
  }
  const int64_t slices = dims[dims.size() - 2], n = dims[dims.size() - 1];
  const int64_t total = scores.element_count();
  if (n == 0 || slices == 0 || total == 0) return ffi::Error::Success();
  if (static_cast<int64_t>(num_kept.element_count()) != total / n) {
    return ffi::Error::InvalidArgument("jaxsparse: num_kept is not one per slice.");
  }
  const int64_t bytes = s.kind == ScoreKind::kBfloat16 ? 2 : 4;
  auto* out = reinterpret_cast<uint8_t*>(mask->typed_data());
  for (int64_t i = 0; i < total / n; ++i) {
    Scores slice = s;
    slice.data = static_cast<const char*>(s.data) + i * n * bytes;
    slice.offset = static_cast<uint32_t>(i % slices * n);
    const int64_t kept = num_kept.typed_data()[i];
    select(pool, slice, n, std::min(kept, n), out + i * n);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsparseSelect, Select,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::PRED>>());

}  // namespace jaxsparse
