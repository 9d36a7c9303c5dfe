// What the kernels compute, and the table through which they are called: one table per
// instruction set, chosen when the library is loaded.
//
// Activations are feature-major, (feature, batch): the batch is the vector axis, and a
// row of a tile stays in registers while the nonzeros of its feature stream by.
#pragma once

#include <cstdint>

namespace jaxsparse {

// A matrix (inputs, outputs) by its blocks of `block` consecutive outputs of one input.
// `rows` = outputs / block. Indices are uint16, or int32 when `wide`.
struct Pattern {
  // By tiles of inputs, in a tile by row, in a row by input: the order of the values.
  const int32_t* starts;  // (input_tiles * rows + 1)
  const void* inputs;
  int32_t input_tiles;
  // By tiles of rows, in a tile by input, in an input by row: the backward order.
  const int32_t* back_starts;  // (row_tiles * num_inputs + 1)
  const void* back_rows;
  const int32_t* order;  // where in the values
  int32_t row_tiles;

  int32_t num_inputs;
  int32_t rows;
  int32_t block;
  bool wide;
};

// The forward half of a pattern, to say where its blocks stand; `outputs` is the length
// of a row of the dense array.
struct Places {
  const int32_t* starts;  // (segments + 1)
  const void* inputs;     // (capacity)
  int64_t segments, capacity;
  uint32_t rows, outputs, block;
  bool wide;
};

// One tile of `vectors` vectors of the batch.
struct ForwardTile {
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  int vectors;
};

struct BackwardTile {
  const float* x;
  int64_t x_stride;
  const float* dy;
  int64_t dy_stride;
  float* dx;  // Not computed where null.
  int64_t dx_stride;
  float* dvalues;   // Not computed where null.
  bool accumulate;  // dvalues += rather than =
  int vectors;
};

// A convolution as shifts: entry k of segment s adds values[k] times what stands
// offsets[k] floats from a tile's place in a window of the source. A segment is an
// output feature (forward) or an input feature (backward).
struct Shifts {
  const int32_t* starts;  // (segments + 1)
  const int32_t* offsets;
  const float* values;
};

// A tile of positions, `rows` rows of `vectors` vectors. What is not in the window are
// arrays (segment, row, vector), from the first segment that is asked for.
struct ConvTile {
  const float* window;
  int64_t window_row;  // floats from a row of the tile to the next
  int rows, vectors;
  const float* x;  // of the backward product
  float* out;      // y, or dx; dx is not computed where null.
  float* dvalues;  // One per entry, added to; not computed where null.
};

// The numbers to select from: bits of scores, seen as ordered uint32 keys.
enum class ScoreKind : int32_t { kUint32 = 0, kInt32 = 1, kFloat32 = 2, kBfloat16 = 3 };

struct Scores {
  const void* data;
  ScoreKind kind;
  // The hash of index i is that of i + offset.
  uint32_t offset;
};

// With `hashes`, what is searched are the hashes of the scores whose key is `level`.
struct Search {
  bool hashes;
  uint32_t level;
};

struct Counts {
  int64_t at_least_high;  // keys >= high
  int64_t inside;         // low < keys < high; these are written out
};

struct Kernels {
  const char* name;
  int width;
  // The most vectors per tile, a power of 2: of single weights, of blocks, backward.
  int forward_vectors;
  int block_vectors;
  int backward_vectors;

  // y[rows begin to end] of a tile, for block == 1 and for multiples of 4.
  void (*forward)(const Pattern&, const float* values, const ForwardTile&, int begin,
                  int end);
  // dx[inputs begin to end] and the dvalues of these inputs.
  void (*backward)(const Pattern&, const float* values, const BackwardTile&, int begin,
                   int end);
  // The forward product of one vector, batch 1.
  void (*forward_vector)(const Pattern&, const float* values, const float* x, float* y,
                         int begin, int end);

  // y, or dx and the dvalues, of segments begin to end of a tile: 1 or 2 rows of up to 4
  // vectors, backward no more than backward_vectors of them.
  void (*conv_forward)(const Shifts&, const ConvTile&, int begin, int end);
  void (*conv_backward)(const Shifts&, const ConvTile&, int begin, int end);

  // to[c * stride + lane] = from[offsets[lane] + c] for one vector of lanes, 0 where an
  // offset is negative; and back, where nothing is written for a negative offset.
  void (*pack_lanes)(const float* from, const int64_t* offsets, int channels, float* to,
                     int64_t stride);
  void (*unpack_lanes)(const float* from, int64_t stride, int channels, float* to,
                       const int64_t* offsets);

  // The largest of `n` indices, 0 when there are none.
  int64_t (*largest_index)(const void* indices, bool wide, int64_t n);

  // Keys (or hashes, 0 where there is none) of scores begin to end.
  void (*keys)(const Scores&, const Search&, int64_t begin, int64_t end, uint32_t* out);
  // Counts them by a bracket; `inside` has room for end - begin + 16.
  Counts (*count)(const Scores&, const Search&, int64_t begin, int64_t end,
                  uint32_t low, uint32_t high, uint32_t* inside);
  // mask = key > level or (key == level and hash >= last_hash), one byte each.
  void (*write_mask)(const Scores&, int64_t begin, int64_t end, uint32_t level,
                     uint32_t last_hash, bool any_tie, uint8_t* mask);

  // The flat index of each weight, 0 for padding.
  void (*flat_indices)(const Places&, uint32_t* out);

  // Normal numbers of n indices; where that is null, of first, first + step, ...
  void (*normal)(const uint32_t* key, const uint32_t* index, uint32_t first,
                 uint32_t step, int64_t n, float* out);
};

// The best table for this machine, or the one that JAXSPARSE_NATIVE names.
const Kernels& kernels();

// Null where the library was built without that instruction set.
extern const Kernels* const kAvx512;
extern const Kernels* const kAvx2;
extern const Kernels* const kPortable;

}  // namespace jaxsparse
