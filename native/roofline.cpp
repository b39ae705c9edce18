// What one core can do, and what the kernels reach of it. benchmarks/roofline.py runs it.
//
//   ticketry_roofline ISA TOKENS HEADS SIZE INNER MATRICES
//
// MATRICES is a file with the packed matrices of an encoder like BERT's, six a layer, each as rows,
// columns, bytes (int64) and the bytes. Prints one line of JSON a measurement: a name, seconds (the
// fastest of many rounds: whatever else the machine does only adds time), floating-point operations,
// and bytes that the kernel loads from or stores to its activations.
#include <stdio.h>
#include <stdlib.h>

#include <chrono>
#include <random>
#include <vector>

#include "packed.h"
#include "ticketry.h"

using namespace ticketry;

namespace {

// The core by itself: products and sums in registers, and loads. Compiled for each instruction set.
#define PROBES(NAME, LANES, TARGET)                                                          \
  TARGET void fma_##NAME(int64_t count, float* found) {                                      \
    typedef float vec __attribute__((vector_size(LANES * 4)));                               \
    vec sum[12], factor = vec{} + found[0], add = vec{} + found[1];                          \
    for (auto& one : sum) one = factor;                                                      \
    for (int64_t i = 0; i < count; ++i)                                                      \
      _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) sum[j] = sum[j] * factor + add;  \
    vec all{};                                                                               \
    for (auto& one : sum) all += one;                                                        \
    found[2] = all[0];                                                                       \
  }                                                                                          \
  TARGET void load_##NAME(const float* from, int64_t count, int64_t times, float* found) {   \
    typedef int32_t vec __attribute__((vector_size(LANES * 4), may_alias));                  \
    vec sum[8] = {};                                                                         \
    for (int64_t t = 0; t < times; ++t)                                                      \
      for (int64_t i = 0; i + 8 * LANES <= count; i += 8 * LANES)                            \
        _Pragma("GCC unroll 8") for (int j = 0; j < 8; ++j) sum[j] +=                        \
            *reinterpret_cast<const vec*>(from + i + j * LANES);                             \
    vec all{};                                                                               \
    for (auto& one : sum) all += one;                                                        \
    found[2] = static_cast<float>(all[0]);                                                   \
  }
PROBES(plain, 4, )
#if defined(TICKETRY_WITH_X86)
PROBES(avx2, 8, __attribute__((target("avx2,fma"))))
PROBES(avx512, 16, __attribute__((target("avx512f,fma"))))
#endif

struct Probe {
  void (*fma)(int64_t, float*);
  void (*load)(const float*, int64_t, int64_t, float*);
};

Probe probe_of(int32_t isa) {
#if defined(TICKETRY_WITH_X86)
  if (isa == TICKETRY_AVX2) return {fma_avx2, load_avx2};
  if (isa == TICKETRY_AVX512) return {fma_avx512, load_avx512};
#endif
  (void)isa;
  return {fma_plain, load_plain};
}

template <typename Work>
double seconds(Work work) {
  const auto once = [&](int64_t count) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < count; ++i) work();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    return taken.count() / static_cast<double>(count);
  };
  once(2);
  const double first = once(2);
  const auto count = static_cast<int64_t>(1 + 2e-3 / (first + 1e-9));
  double least = first;
  for (int round = 0; round < 40; ++round) {
    const double found = once(count);
    if (found < least) least = found;
  }
  return least;
}

void say(const char* name, double taken, double operations, double bytes) {
  printf("{\"name\": \"%s\", \"seconds\": %.9g, \"flop\": %.17g, \"bytes\": %.17g}\n", name, taken,
         operations, bytes);
  fflush(stdout);
}

float* memory(int64_t floats) {
  void* found = nullptr;
  if (posix_memalign(&found, 4096, static_cast<size_t>(floats) * sizeof(float)) != 0) exit(3);
  auto* values = static_cast<float*>(found);
  std::mt19937 draw(1);
  std::uniform_real_distribution<float> number(-1.0f, 1.0f);
  for (int64_t i = 0; i < floats; ++i) values[i] = number(draw);
  return values;
}

struct Stored {
  int64_t rows, columns, bytes;
  std::vector<int64_t> packed;  // of 8 bytes, so that it is aligned
  Matrix matrix;
};

std::vector<Stored> read(const char* path) {
  std::vector<Stored> found;
  FILE* file = fopen(path, "rb");
  int64_t sizes[3];
  while (file != nullptr && fread(sizes, 8, 3, file) == 3) {
    Stored one{sizes[0], sizes[1], sizes[2], {}, {}};
    one.packed.resize(static_cast<size_t>(one.bytes + 7) / 8);
    if (fread(one.packed.data(), 1, static_cast<size_t>(one.bytes), file) !=
        static_cast<size_t>(one.bytes))
      exit(2);
    found.push_back(std::move(one));
  }
  if (file != nullptr) fclose(file);
  for (auto& one : found)
    if (open(one.packed.data(), one.bytes, one.rows, one.columns, &one.matrix) != TICKETRY_OK) exit(2);
  return found;
}

}  // namespace

int main(int count, char** given) {
  if (count != 7) return 2;
  const auto isa = static_cast<int32_t>(atoi(given[1]));
  const int64_t tokens = atoi(given[2]), heads = atoi(given[3]), size = atoi(given[4]);
  const int64_t inner = atoi(given[5]), hidden = heads * size;
  const Kernels* kernels = kernels_of(isa);
  const std::vector<Stored> stored = read(given[6]);
  if (kernels == nullptr || stored.empty() || stored.size() % 6 != 0) return 2;
  const Probe probe = probe_of(isa);
  const int64_t lanes = kernels->lanes, wide = kernels->most * lanes;

  // The core.
  float numbers[3] = {0.999f, 0.001f, 0};
  const int64_t turns = 1000;
  say("peak", seconds([&] { probe.fma(turns, numbers); }),
      24.0 * static_cast<double>(turns * lanes), 0);
  const struct { const char* name; int64_t floats; } levels[] = {
      {"load L1", 16 << 8}, {"load L2", 400 << 8}, {"load L3", 6 << 18}, {"load memory", 64 << 18}};
  float* large = memory(64 << 18);
  for (const auto& level : levels) {
    const int64_t times = level.floats < (1 << 18) ? 16 : 1;
    say(level.name, seconds([&] { probe.load(large, level.floats, times, numbers); }), 0,
        static_cast<double>(level.floats * times) * 4);
  }

  // Products, each kind over all layers in turn, so that weights come from where they do in a model;
  // for two tiles at a time, as in an encoder.
  const int64_t tiles = (tokens + wide - 1) / wide;
  float* input = memory((inner + MOST) * wide * 2);
  float* output = memory((inner + MOST) * wide * 2);
  const struct { const char* name; int kinds[4]; int count; int32_t activation; } products[] = {
      {"products hidden x hidden", {0, 1, 2, 3}, 4, TICKETRY_NONE},
      {"products inner x hidden", {4}, 1, TICKETRY_NONE},
      {"products hidden x inner", {5}, 1, TICKETRY_NONE}};
  for (const auto& kind : products) {
    double kept = 0, bytes = 0;
    for (size_t i = 0; i < stored.size(); i += 6)
      for (int k = 0; k < kind.count; ++k) {
        const Stored& one = stored[i + static_cast<size_t>(kind.kinds[k])];
        kept += static_cast<double>(one.matrix.header->kept);
        bytes += static_cast<double>(one.matrix.header->segments) * 8;
      }
    const double width = static_cast<double>(tiles * wide);
    const double taken = seconds([&] {
      for (size_t i = 0; i < stored.size(); i += 6)
        for (int k = 0; k < kind.count; ++k) {
          const Matrix& matrix = stored[i + static_cast<size_t>(kind.kinds[k])].matrix;
          const int64_t step = (inner + MOST) * wide;
          for (int64_t tile = 0; tile < tiles; tile += 2) {
            const int64_t both = tiles - tile < 2 ? 1 : 2;
            for (int64_t panel = 0; panel < matrix.panels; ++panel) {
              Tokens pieces[2];
              for (int64_t p = 0; p < both; ++p)
                pieces[p] = {input + p * step, output + p * step + panel * matrix.header->panel * wide,
                             kernels->most};
              multiply_panel(*kernels, matrix, panel, nullptr, kind.activation, pieces, both);
            }
          }
        }
    });
    say(kind.name, taken, 2 * kept * width, kept * 4 * width + bytes * width);
  }

  const double layers = static_cast<double>(stored.size() / 6);
  const double whole = static_cast<double>(tokens);
  // What stands between them, a layer's share of each.
  const auto features = [&](int64_t rows) { return static_cast<double>(rows * tiles * wide); };
  say("activation", layers * seconds([&] {
        for (int64_t tile = 0; tile < tiles; ++tile) kernels->activate(input, inner * wide, TICKETRY_GELU);
      }),
      0, layers * 8 * features(inner));
  float* weight = memory(2 * inner);
  say("normalisation", layers * 2 * seconds([&] {
        for (int64_t tile = 0; tile < tiles; ++tile)
          kernels->add_norm(output, input, hidden, kernels->most, weight, weight, 1e-12f);
      }),
      0, layers * 2 * 24 * features(hidden));
  const int64_t stride = tiles * wide + 16;
  float* qkv = memory(3 * hidden * stride);
  float* room = memory((2 * size + tokens) * 32);
  const double queries = static_cast<double>((tokens + 31) / 32 * 32);
  say("attention", layers * seconds([&] {
        for (int64_t first = 0; first < tokens; first += 32)
          for (int64_t head = 0; head < heads; ++head) {
            const float* at = qkv + head * size * stride;
            kernels->attend(at, at + hidden * stride, at + 2 * hidden * stride, stride, tokens, size,
                            nullptr, 0.2f, room + size * 64, room + size * 32);
          }
      }),
      layers * static_cast<double>(4 * hidden) * queries * whole,
      layers * static_cast<double>(heads) * queries * whole * 4 * 6);

  // All of it.
  std::vector<ticketry_layer> encoder(stored.size() / 6);
  for (size_t i = 0; i < stored.size(); ++i)
    encoder[i / 6].matrices[i % 6] = {stored[i].packed.data(), stored[i].bytes, weight};
  for (auto& layer : encoder)
    for (int i = 0; i < 2; ++i) layer.norm_weight[i] = layer.norm_bias[i] = weight;
  float* states = memory(tokens * hidden);
  float* found = memory(tokens * hidden);
  double kept = 0;
  for (const auto& one : stored) kept += static_cast<double>(one.matrix.header->kept);
  int32_t status = TICKETRY_OK;
  say("encoder", seconds([&] {
        status = ticketry_encode(isa, encoder.data(), static_cast<int64_t>(encoder.size()), states, 1,
                                 tokens, heads, size, inner, nullptr, 0.2f, 1e-12f, TICKETRY_GELU,
                                 found, 1);
      }),
      2 * kept * whole + layers * static_cast<double>(4 * hidden) * whole * whole, 0);
  return status;
}
