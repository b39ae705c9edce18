#include "ticketry.h"

#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "packed.h"

namespace ticketry {
const Kernels* kernels_of(int32_t isa) {
  switch (isa) {
    case TICKETRY_PLAIN:
      return plain_kernels();
#if defined(TICKETRY_WITH_NEON)
    case TICKETRY_NEON:
      return neon_kernels();
#endif
#if defined(TICKETRY_WITH_X86)
    case TICKETRY_AVX2:
      if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_kernels();
      return nullptr;
    case TICKETRY_AVX512:
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return avx512_kernels();
      return nullptr;
#endif
    default:
      return nullptr;
  }
}

namespace {

struct Scratch {
  float* memory = nullptr;
  size_t floats = 0;
  ~Scratch() { free(memory); }

  float* at_least(size_t wanted) {
    if (wanted > floats) {
      free(memory);
      floats = 0;
      memory = nullptr;
      void* found = nullptr;
      if (posix_memalign(&found, 64, wanted * sizeof(float)) != 0) return nullptr;
      memset(found, 0, wanted * sizeof(float));
      memory = static_cast<float*>(found);
      floats = wanted;
    }
    return memory;
  }
};

thread_local Scratch scratch[USES];

}  // namespace

float* scratch_of(int64_t floats, Use use) {
  return scratch[use].at_least(static_cast<size_t>(floats));
}

bool multiply_panel(const Kernels& kernels, const Matrix& matrix, int64_t panel, const float* bias,
                    int32_t activation, const Tokens* pieces, int64_t count) {
  const Header& header = *matrix.header;
  const int64_t row = panel * header.panel;
  const int64_t rows = header.rows - row < header.panel ? header.rows - row : header.panel;
  const bool biased = bias != nullptr && matrix.scales == nullptr;
  float start[MOST] = {};  // rows may be any byte
  if (biased) memcpy(start, bias + row, static_cast<size_t>(rows) * sizeof(float));
  bool written[MOST] = {};
  for (int64_t block = 0; block < matrix.blocks; ++block) {
    const Cell* cell = matrix.cells + panel * matrix.blocks + block;
    const uint8_t* stored = matrix.values + cell->value * matrix.value_bytes;
    const uint8_t* of = matrix.rows + cell->segment;
    const auto* values = reinterpret_cast<const float*>(stored);
    if (header.values != FLOAT32) {
      float* wide = scratch_of(MOST * MOST, WIDENED);
      if (wide == nullptr) return false;
      kernels.widen(header.values, stored, cell[1].value - cell->value, wide);
      values = wide;
    }
    // The first block's rows start anew, those that it lacks here. As many as there are: all of them
    // (but for a damaged cell, which may name one twice, and whose numbers are any).
    const int32_t segments = cell[1].segment - cell->segment;
    const bool some = block == 0 && segments < rows;
    for (int32_t s = 0; some && s < segments; ++s) written[of[s]] = true;
    for (int64_t i = 0; i < count; ++i) {
      const Tokens& piece = pieces[i];
      const int64_t padded = piece.vectors == 0 ? 1 : piece.vectors * kernels.lanes;
      const auto kernel = piece.vectors == 0 ? kernels.token : kernels.cell[piece.vectors];
      for (int64_t r = 0; some && r < rows; ++r)
        for (int64_t t = 0; t < padded && !written[r]; ++t) piece.sums[r * padded + t] = start[r];
      kernel(matrix.groups + cell[0].group, cell[1].group - cell[0].group, of,
             matrix.columns + cell->value, values, piece.input + block * header.block * padded,
             block == 0 ? start : nullptr, piece.sums);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t padded = pieces[i].vectors == 0 ? 1 : pieces[i].vectors * kernels.lanes;
    float* sums = pieces[i].sums;
    for (int64_t r = 0; matrix.blocks == 0 && r < rows; ++r)
      for (int64_t t = 0; t < padded; ++t) sums[r * padded + t] = start[r];
    for (int64_t r = 0; matrix.scales != nullptr && r < rows; ++r) {
      const float scale = matrix.scales[row + r], add = bias == nullptr ? 0.0f : bias[row + r];
      for (int64_t t = 0; t < padded; ++t) sums[r * padded + t] = sums[r * padded + t] * scale + add;
    }
    if (activation != TICKETRY_NONE) kernels.activate(sums, rows * padded, activation);
  }
  return true;
}

namespace {

struct Call {
  const Kernels* kernels;
  Matrix matrix;
  const float* input;
  int64_t input_stride;
  int32_t input_layout;
  int64_t tokens;
  const float* bias;
  int32_t activation;
  float* output;
  int64_t output_stride;
  int32_t output_layout;
  int64_t vectors;  // of all tokens
  int64_t tiles;
  int64_t shares;  // of the panels, for each tile
  std::atomic<int32_t> status;
};

// Copies tokens [first, first + width) of all features to [features][padded], zeros behind.
void gather(const Call& call, int64_t first, int64_t width, int64_t padded, float* target) {
  const int64_t columns = call.matrix.header->columns;
  if (call.input_layout == TICKETRY_FEATURES_FIRST) {
    for (int64_t k = 0; k < columns; ++k) {
      float* row = target + k * padded;
      memcpy(row, call.input + k * call.input_stride + first,
             static_cast<size_t>(width) * sizeof(float));
      if (width < padded) memset(row + width, 0, static_cast<size_t>(padded - width) * sizeof(float));
    }
    return;
  }
  if (padded == 1) {
    memcpy(target, call.input + first * call.input_stride,
           static_cast<size_t>(columns) * sizeof(float));
    return;
  }
  call.kernels->transpose(call.input + first * call.input_stride, call.input_stride, target, padded,
                          width, columns);
  if (width < padded)
    for (int64_t k = 0; k < columns; ++k)
      memset(target + k * padded + width, 0, static_cast<size_t>(padded - width) * sizeof(float));
}

void scatter(const Call& call, int64_t first, int64_t width, int64_t padded, int64_t row,
             int64_t rows, const float* sums) {
  if (call.output_layout == TICKETRY_FEATURES_FIRST) {
    for (int64_t r = 0; r < rows; ++r)
      memcpy(call.output + (row + r) * call.output_stride + first, sums + r * padded,
             static_cast<size_t>(width) * sizeof(float));
    return;
  }
  call.kernels->transpose(sums, padded, call.output + first * call.output_stride + row,
                          call.output_stride, rows, width);
}

// One share of the panels for one tile of tokens.
void work(void* context, int64_t item) {
  auto& call = *static_cast<Call*>(context);
  const Matrix& matrix = call.matrix;
  const Header& header = *matrix.header;
  const Kernels& kernels = *call.kernels;
  const int64_t tile = item / call.shares, share = item % call.shares;
  int64_t first = 0, width = 1, padded = 1, vectors = 0;
  if (call.tokens > 1) {
    const int64_t begin = tile * call.vectors / call.tiles;
    const int64_t end = (tile + 1) * call.vectors / call.tiles;
    first = begin * kernels.lanes;
    width = (end * kernels.lanes < call.tokens ? end * kernels.lanes : call.tokens) - first;
    vectors = kernels.vectors[end - begin];
    padded = vectors * kernels.lanes;
  }
  // A block's columns are bytes, so 256 rows must be there to read behind the last block's start.
  const int64_t blocks_begin = matrix.blocks > 0 ? (matrix.blocks - 1) * header.block : 0;
  const int64_t inputs = blocks_begin + MOST;
  float* input = scratch_of((inputs + MOST) * padded);
  if (input == nullptr) {
    call.status.store(TICKETRY_NO_MEMORY);
    return;
  }
  float* sums = input + inputs * padded;
  gather(call, first, width, padded, input);
  const int64_t last = (share + 1) * matrix.panels / call.shares;
  for (int64_t panel = share * matrix.panels / call.shares; panel < last; ++panel) {
    const int64_t row = panel * header.panel;
    const int64_t rows = header.rows - row < header.panel ? header.rows - row : header.panel;
    const Tokens piece = {input, sums, vectors};
    if (!multiply_panel(kernels, matrix, panel, call.bias, call.activation, &piece, 1)) {
      call.status.store(TICKETRY_NO_MEMORY);
      return;
    }
    scatter(call, first, width, padded, row, rows, sums);
  }
}

}  // namespace
}  // namespace ticketry

using namespace ticketry;

int32_t ticketry_abi(void) { return TICKETRY_ABI; }

int32_t ticketry_has(int32_t isa) { return kernels_of(isa) != nullptr; }

int32_t ticketry_check(const void* packed, int64_t bytes, int64_t rows, int64_t columns) {
  Matrix matrix;
  const int32_t status = open(packed, bytes, rows, columns, &matrix);
  return status == TICKETRY_OK ? check(matrix) : status;
}

int32_t ticketry_multiply(int32_t isa, const void* packed, int64_t bytes, int64_t rows,
                          int64_t columns, const float* input, int64_t input_stride,
                          int32_t input_layout, int64_t tokens, const float* bias,
                          int32_t activation, float* output, int64_t output_stride,
                          int32_t output_layout, int32_t threads) {
  Call call{};
  call.kernels = kernels_of(isa);
  if (call.kernels == nullptr) return TICKETRY_NO_ISA;
  const int32_t status = open(packed, bytes, rows, columns, &call.matrix);
  if (status != TICKETRY_OK) return status;
  const auto known = [](int32_t layout) {
    return layout == TICKETRY_FEATURES_FIRST || layout == TICKETRY_TOKENS_FIRST;
  };
  if (tokens < 0 || tokens > (INT64_MAX >> 16) || !known(input_layout) || !known(output_layout) ||
      activation < TICKETRY_NONE || activation > TICKETRY_GELU_TANH)
    return TICKETRY_BAD_ARGUMENT;
  if (tokens == 0 || rows == 0) return TICKETRY_OK;
  if (output == nullptr || (input == nullptr && columns > 0)) return TICKETRY_BAD_ARGUMENT;
  if (input_stride < (input_layout == TICKETRY_FEATURES_FIRST ? tokens : columns) ||
      output_stride < (output_layout == TICKETRY_FEATURES_FIRST ? tokens : rows))
    return TICKETRY_BAD_ARGUMENT;
  call.input = input;
  call.input_stride = input_stride;
  call.input_layout = input_layout;
  call.tokens = tokens;
  call.bias = bias;
  call.activation = activation;
  call.output = output;
  call.output_stride = output_stride;
  call.output_layout = output_layout;
  const int64_t lanes = call.kernels->lanes, most = call.kernels->most;
  call.vectors = (tokens + lanes - 1) / lanes;
  call.tiles = (call.vectors + most - 1) / most;
  // Waking a thread costs more than a few thousand products.
  if (call.matrix.header->kept * tokens < 32768 || threads < 1) threads = 1;
  call.shares = (threads + call.tiles - 1) / call.tiles;
  if (call.shares > call.matrix.panels) call.shares = call.matrix.panels;
  call.status.store(TICKETRY_OK);
  parallel(threads, call.tiles * call.shares, work, &call);
  return call.status.load();
}
