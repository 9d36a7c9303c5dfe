// Passes over scores: keys, counts by a bracket, masks. See vec.h for who includes it.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace {

using jaxsparse::Counts;
using jaxsparse::ScoreKind;
using jaxsparse::Scores;
using jaxsparse::Search;

constexpr uint32_t kSign = 0x80000000u;

// Inside, keys are signed, which is what every machine can compare: the key that is
// seen outside, minus 2^31. A comparison of vectors is 0 or -1 per lane.
typedef int32_t Keys __attribute__((vector_size(4 * kWidth)));

inline int32_t as_signed(uint32_t key) { return static_cast<int32_t>(key ^ kSign); }

// The order of jaxsparse.masks.ordered_keys, for vectors and for single numbers.
template <typename T>
JAXSPARSE_INLINE T float_key(T bits) {
  const T magnitude = bits & 0x7fffffff;
  T key = bits ^ ((bits >> 31) & 0x7fffffff);
  key = key == -1 ? T{} : key;  // -0.0 is 0.0
  return magnitude > 0x7f800000 ? T{} + INT32_MIN : key;  // NaN is below -inf
}

// jaxsparse.masks.hash_index, for vectors and for single numbers.
template <typename T>
JAXSPARSE_INLINE T hash(T h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return h;
}

template <ScoreKind kKind>
JAXSPARSE_INLINE Keys load_keys(const void* data, int64_t i) {
  if constexpr (kKind == ScoreKind::kBfloat16) {
    const auto* halves = static_cast<const uint16_t*>(data) + i;
    const Halves v = *reinterpret_cast<const HalvesAt*>(halves);
    return float_key((Keys)(__builtin_convertvector(v, Bits) << 16));
  } else {
    const auto* words = static_cast<const uint32_t*>(data) + i;
    const Bits v = *reinterpret_cast<const BitsAt*>(words);
    if constexpr (kKind == ScoreKind::kFloat32) return float_key((Keys)v);
    if constexpr (kKind == ScoreKind::kInt32) return (Keys)v;
    return (Keys)(v ^ kSign);
  }
}

template <ScoreKind kKind>
JAXSPARSE_INLINE int32_t key_at(const void* data, int64_t i) {
  if constexpr (kKind == ScoreKind::kBfloat16) {
    const uint32_t bits = uint32_t{static_cast<const uint16_t*>(data)[i]} << 16;
    return float_key(static_cast<int32_t>(bits));
  } else {
    const uint32_t v = static_cast<const uint32_t*>(data)[i];
    if constexpr (kKind == ScoreKind::kFloat32) {
      return float_key(static_cast<int32_t>(v));
    }
    return kKind == ScoreKind::kInt32 ? static_cast<int32_t>(v) : as_signed(v);
  }
}

JAXSPARSE_INLINE Keys hashes_from(uint32_t first) {
  Bits lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
  return (Keys)(hash(lanes + first) ^ kSign);
}

inline int32_t hash_at(uint32_t index) { return as_signed(hash(index)); }

// What is searched: the keys, or the hashes of the scores at one level (elsewhere 0).
template <ScoreKind kKind, bool kHashes>
JAXSPARSE_INLINE Keys load_searched(const Scores& s, int32_t level, int64_t i) {
  const Keys keys = load_keys<kKind>(s.data, i);
  if constexpr (!kHashes) return keys;
  const Keys none = Keys{} + INT32_MIN;
  // Ties are often few: hashes cost more than all the rest.
  if (!any((Bits)(keys == level))) return none;
  return keys == level ? hashes_from(static_cast<uint32_t>(i) + s.offset) : none;
}

template <ScoreKind kKind, bool kHashes>
JAXSPARSE_INLINE int32_t searched_at(const Scores& s, int32_t level, int64_t i) {
  const int32_t key = key_at<kKind>(s.data, i);
  if constexpr (!kHashes) return key;
  return key == level ? hash_at(static_cast<uint32_t>(i) + s.offset) : INT32_MIN;
}

template <ScoreKind kKind, bool kHashes>
void keys_of(const Scores& s, int32_t level, int64_t begin, int64_t end,
             uint32_t* out) {
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) {
    const Keys keys = load_searched<kKind, kHashes>(s, level, i);
    *reinterpret_cast<BitsAt*>(out + (i - begin)) = (Bits)keys ^ kSign;
  }
  for (; i < end; ++i) {
    out[i - begin] =
        static_cast<uint32_t>(searched_at<kKind, kHashes>(s, level, i)) ^ kSign;
  }
}

// Counts the lanes above and writes out those inside a bracket; returns how many.
JAXSPARSE_INLINE int64_t sort_out(Keys key, int32_t low, int32_t high, Keys& at_least,
                                  uint32_t* out) {
#if defined(__AVX512F__)
  const __m512i k = (__m512i)key, high_v = _mm512_set1_epi32(high);
  const __mmask16 up = _mm512_cmpge_epi32_mask(k, high_v);
  at_least = (Keys)_mm512_mask_sub_epi32((__m512i)at_least, up, (__m512i)at_least,
                                         _mm512_set1_epi32(-1));
  const __mmask16 inside = _mm512_mask_cmpgt_epi32_mask(
      static_cast<__mmask16>(~up), k, _mm512_set1_epi32(low));
  // No branch, which would be guessed wrong one time in four. Not the instruction that
  // stores to memory either: it is slow on some machines.
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(
                               inside, _mm512_xor_si512(
                                           k, _mm512_set1_epi32(INT32_MIN))));
  return __builtin_popcount(inside);
#else
  const Keys up = key >= high;
  at_least -= up;
  const Keys inside = (key > low) & ~up;
  if (!any((Bits)inside)) return 0;
  int64_t n = 0;
  for (int lane = 0; lane < kWidth; ++lane) {
    out[n] = static_cast<uint32_t>(key[lane]) ^ kSign;
    n += inside[lane] & 1;
  }
  return n;
#endif
}

template <ScoreKind kKind, bool kHashes>
Counts count_of(const Scores& s, int32_t level, int64_t begin, int64_t end, int32_t low,
                int32_t high, uint32_t* out) {
  Counts c = {0, 0};
  Keys at_least = {};
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) {
    const Keys key = load_searched<kKind, kHashes>(s, level, i);
    c.inside += sort_out(key, low, high, at_least, out + c.inside);
  }
  for (int lane = 0; lane < kWidth; ++lane) c.at_least_high += at_least[lane];
  for (; i < end; ++i) {
    const int32_t key = searched_at<kKind, kHashes>(s, level, i);
    c.at_least_high += key >= high;
    if (key > low && key < high) out[c.inside++] = static_cast<uint32_t>(key) ^ kSign;
  }
  return c;
}

template <ScoreKind kKind>
void mask_of(const Scores& s, int64_t begin, int64_t end, int32_t level,
             int32_t last_hash, bool any_tie, uint8_t* mask) {
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) {
    const Keys key = load_keys<kKind>(s.data, i);
    Keys kept = key >= level;
    if (any_tie && any((Bits)(key == level))) {
      const Keys hashes = hashes_from(static_cast<uint32_t>(i) + s.offset);
      kept &= (key > level) | (hashes >= last_hash);
    }
    *reinterpret_cast<BytesAt*>(mask + i) = __builtin_convertvector(kept & 1, Bytes);
  }
  for (; i < end; ++i) {
    const int32_t key = key_at<kKind>(s.data, i);
    const bool wins = !any_tie || hash_at(static_cast<uint32_t>(i) + s.offset) >= last_hash;
    mask[i] = key > level || (key == level && wins);
  }
}

// Calls f with the kind as a constant.
template <typename F>
JAXSPARSE_INLINE auto with_kind(ScoreKind kind, F f) {
  switch (kind) {
    case ScoreKind::kUint32: return f.template operator()<ScoreKind::kUint32>();
    case ScoreKind::kInt32: return f.template operator()<ScoreKind::kInt32>();
    case ScoreKind::kFloat32: return f.template operator()<ScoreKind::kFloat32>();
    default: return f.template operator()<ScoreKind::kBfloat16>();
  }
}

struct KeysOf {
  const Scores& s;
  const Search& search;
  int64_t begin, end;
  uint32_t* out;
  template <ScoreKind kKind>
  void operator()() const {
    const int32_t level = as_signed(search.level);
    if (search.hashes) return keys_of<kKind, true>(s, level, begin, end, out);
    keys_of<kKind, false>(s, level, begin, end, out);
  }
};

void keys(const Scores& s, const Search& search, int64_t begin, int64_t end,
          uint32_t* out) {
  with_kind(s.kind, KeysOf{s, search, begin, end, out});
}

struct CountOf {
  const Scores& s;
  const Search& search;
  int64_t begin, end;
  int32_t low, high;
  uint32_t* out;
  template <ScoreKind kKind>
  Counts operator()() const {
    const int32_t level = as_signed(search.level);
    if (search.hashes) {
      return count_of<kKind, true>(s, level, begin, end, low, high, out);
    }
    return count_of<kKind, false>(s, level, begin, end, low, high, out);
  }
};

Counts count(const Scores& s, const Search& search, int64_t begin, int64_t end,
             uint32_t low, uint32_t high, uint32_t* inside) {
  return with_kind(s.kind, CountOf{s, search, begin, end, as_signed(low),
                                   as_signed(high), inside});
}

struct MaskOf {
  const Scores& s;
  int64_t begin, end;
  int32_t level, last_hash;
  bool any_tie;
  uint8_t* mask;
  template <ScoreKind kKind>
  void operator()() const {
    mask_of<kKind>(s, begin, end, level, last_hash, any_tie, mask);
  }
};

void write_mask(const Scores& s, int64_t begin, int64_t end, uint32_t level,
                uint32_t last_hash, bool any_tie, uint8_t* mask) {
  with_kind(s.kind, MaskOf{s, begin, end, as_signed(level), as_signed(last_hash),
                           any_tie, mask});
}

}  // namespace
