// The packed form of a sparse matrix. src/ticketry/runtime/packing.py writes it and says why.
//
// header | cells (one more than there are) | groups | scales | values | columns | rows
//
// The matrix is cut into panels of at most 256 rows and blocks of at most 256 columns; a cell is a
// block of a panel, panels outermost. In a cell, rows with equally many kept weights form a group.
// Row and column numbers are bytes that count within the cell, so that none can point outside the
// buffers, which always have 256 of each; only counts and offsets need checks.
#pragma once

#include <stdint.h>

namespace ticketry {

constexpr uint32_t MAGIC = 0x50534b54;  // "TKSP"
constexpr uint32_t VERSION = 2;         // of the packed form
constexpr int64_t MOST = 256;           // rows of a panel, columns of a block

enum Values : uint32_t {
  FLOAT32 = 0,
  BFLOAT16 = 1,
  INT8 = 2,  // times a float32 scale for each row of the matrix; the scales stand before the values
};

struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t values;  // how they are stored: one of the numbers below
  uint32_t panel;   // rows of each panel but the last
  uint32_t block;   // columns of each block but the last
  uint32_t groups;
  int64_t rows;
  int64_t columns;
  int64_t kept;
  int64_t segments;  // rows of cells that keep anything
  int64_t zero;
};
static_assert(sizeof(Header) == 64, "the header is 64 bytes");

struct Cell {
  int64_t value;    // first kept weight
  int32_t segment;  // first row
  int32_t group;    // first group
};
static_assert(sizeof(Cell) == 16, "a cell is 16 bytes");

struct Group {
  uint16_t kept;  // of each row, 1 to 256
  uint16_t rows;  // 1 to 256
};

struct Matrix {
  const Header* header;
  const Cell* cells;
  const Group* groups;
  const float* scales;    // null where the values need none
  const uint8_t* values;  // of `value_bytes` each
  const uint8_t* columns;
  const uint8_t* rows;
  int64_t panels;
  int64_t blocks;
  int64_t value_bytes;
};

// Finds the parts and checks every count and offset: after this, no pointer leaves the bytes.
int32_t open(const void* packed, int64_t bytes, int64_t rows, int64_t columns, Matrix* found);

// Checks what only correctness needs: columns that rise and exist, rows that occur once and exist.
int32_t check(const Matrix& matrix);

// What an instruction set provides. Buffers of tiles are [rows][vectors * lanes].
struct Kernels {
  int lanes;
  int most;                    // vectors of a tile
  const uint8_t* vectors;      // for each number of vectors up to `most`, that which is used
  // Adds a cell's products to the panel's sums, or to `start` (256 of them) where that is not null:
  // a row's sums are then written for the first time. Indexed by the number of vectors.
  void (*const* cell)(const Group*, int32_t, const uint8_t* rows, const uint8_t* columns,
                      const float* values, const float* input, const float* start, float* sums);
  void (*token)(const Group*, int32_t, const uint8_t* rows, const uint8_t* columns,
                const float* values, const float* input, const float* start, float* sums);
  void (*activate)(float* values, int64_t count, int32_t activation);
  // target[c][r] = source[r][c]
  void (*transpose)(const float* source, int64_t source_stride, float* target,
                    int64_t target_stride, int64_t rows, int64_t columns);
  // Attention of 32 queries [size][32] over keys and values [size][length]; `scores` has room for
  // [length][32], `found` for [size][32].
  void (*attend)(const float* queries, const float* keys, const float* values, int64_t stride,
                 int64_t length, int64_t size, const float* bias, float scaling, float* scores,
                 float* found);
  // values = LayerNorm(values + residual) of each token, both [features][vectors * lanes].
  void (*add_norm)(float* values, const float* residual, int64_t features, int64_t vectors,
                   const float* weight, const float* bias, float eps);
  // Writes stored values as float32, without their scales.
  void (*widen)(uint32_t kind, const uint8_t* values, int64_t count, float* target);
  // target = weight · input + bias, for a dense weight [rows][columns]; the others are
  // [..][vectors * lanes].
  void (*dense)(const float* weight, int64_t rows, int64_t columns, const float* bias,
                const float* input, int64_t vectors, float* target);
  // Rows of `count` numbers.
  void (*copy)(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count);
};

// What this machine has of an instruction set, or null.
const Kernels* kernels_of(int32_t isa);
// Memory of the calling thread, kept between calls, one piece a use; null if there is none.
enum Use { TILES, WIDENED, SHARED, USES };
float* scratch_of(int64_t floats, Use use = TILES);

// Tokens whose activations lie together as [features][padded]; padded = vectors * lanes, or one token
// where `vectors` is zero.
struct Tokens {
  const float* input;  // [columns + 256][padded]
  float* sums;         // room for 256 rows
  int64_t vectors;
};

// One panel of activation(matrix · input + bias), for several pieces of tokens at once: the weights
// are read from memory once. False if there was no memory.
bool multiply_panel(const Kernels& kernels, const Matrix& matrix, int64_t panel, const float* bias,
                    int32_t activation, const Tokens* pieces, int64_t count);

const Kernels* plain_kernels();
const Kernels* neon_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

// Calls work(context, i) for 0 <= i < items on at most `threads` threads, this one among them.
void parallel(int32_t threads, int64_t items, void (*work)(void*, int64_t), void* context);

}  // namespace ticketry
