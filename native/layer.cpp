// What stands between the products of an encoder layer, in [features, tokens].
#include <string.h>

#include <atomic>

#include "packed.h"
#include "ticketry.h"

namespace ticketry {
namespace {

constexpr int64_t TOKENS = 32;  // of a tile

void take(const float* from, int64_t stride, int64_t rows, int64_t width, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    memcpy(to + r * TOKENS, from + r * stride, static_cast<size_t>(width) * sizeof(float));
    if (width < TOKENS)
      memset(to + r * TOKENS + width, 0, static_cast<size_t>(TOKENS - width) * sizeof(float));
  }
}

void put(const float* from, int64_t stride, int64_t rows, int64_t width, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    memcpy(to + r * stride, from + r * TOKENS, static_cast<size_t>(width) * sizeof(float));
}

struct Attention {
  const Kernels* kernels;
  const float *query, *key, *value, *bias;
  int64_t stride, length, heads, size, tiles;
  float scaling;
  float* output;
  std::atomic<int32_t> status;
};

void attend(void* context, int64_t item) {
  auto& call = *static_cast<Attention*>(context);
  const int64_t tile = item % call.tiles, head = item / call.tiles % call.heads;
  const int64_t example = item / call.tiles / call.heads;
  const int64_t first = tile * TOKENS;
  const int64_t width = call.length - first < TOKENS ? call.length - first : TOKENS;
  float* queries = scratch_of((2 * call.size + call.length) * TOKENS);
  if (queries == nullptr) {
    call.status.store(TICKETRY_NO_MEMORY);
    return;
  }
  float* found = queries + call.size * TOKENS;
  float* scores = found + call.size * TOKENS;
  const int64_t at = head * call.size * call.stride + example * call.length;
  take(call.query + at + first, call.stride, call.size, width, queries);
  call.kernels->attend(queries, call.key + at, call.value + at, call.stride, call.length, call.size,
                       call.bias == nullptr ? nullptr : call.bias + example * call.length,
                       call.scaling, scores, found);
  put(found, call.stride, call.size, width, call.output + at + first);
}

struct Norm {
  const Kernels* kernels;
  const float *input, *residual, *weight, *bias;
  int64_t features, tokens;
  float eps;
  float* output;
  std::atomic<int32_t> status;
};

void norm(void* context, int64_t tile) {
  auto& call = *static_cast<Norm*>(context);
  const int64_t first = tile * TOKENS;
  const int64_t width = call.tokens - first < TOKENS ? call.tokens - first : TOKENS;
  float* values = scratch_of(2 * call.features * TOKENS);
  if (values == nullptr) {
    call.status.store(TICKETRY_NO_MEMORY);
    return;
  }
  float* residual = values + call.features * TOKENS;
  take(call.input + first, call.tokens, call.features, width, values);
  take(call.residual + first, call.tokens, call.features, width, residual);
  call.kernels->add_norm(values, residual, call.features, TOKENS / call.kernels->lanes, call.weight,
                         call.bias, call.eps);
  put(values, call.tokens, call.features, width, call.output + first);
}

bool large(int64_t value) { return value < 0 || value > (INT64_MAX >> 40); }

}  // namespace
}  // namespace ticketry

using namespace ticketry;

int32_t ticketry_attend(int32_t isa, const float* query, const float* key, const float* value,
                        int64_t stride, int64_t batch, int64_t length, int64_t heads, int64_t size,
                        const float* bias, float scaling, float* output, int32_t threads) {
  Attention call{};
  call.kernels = kernels_of(isa);
  if (call.kernels == nullptr) return TICKETRY_NO_ISA;
  if (large(batch) || large(length) || large(heads) || large(size)) return TICKETRY_BAD_ARGUMENT;
  if (batch == 0 || length == 0 || heads == 0 || size == 0) return TICKETRY_OK;
  if (query == nullptr || key == nullptr || value == nullptr || output == nullptr ||
      stride < batch * length)
    return TICKETRY_BAD_ARGUMENT;
  call.query = query;
  call.key = key;
  call.value = value;
  call.bias = bias;
  call.stride = stride;
  call.length = length;
  call.heads = heads;
  call.size = size;
  call.tiles = (length + TOKENS - 1) / TOKENS;
  call.scaling = scaling;
  call.output = output;
  call.status.store(TICKETRY_OK);
  parallel(threads, batch * heads * call.tiles, attend, &call);
  return call.status.load();
}

int32_t ticketry_add_norm(int32_t isa, const float* input, const float* residual, int64_t features,
                          int64_t tokens, const float* weight, const float* bias, float eps,
                          float* output, int32_t threads) {
  Norm call{};
  call.kernels = kernels_of(isa);
  if (call.kernels == nullptr) return TICKETRY_NO_ISA;
  if (large(features) || large(tokens)) return TICKETRY_BAD_ARGUMENT;
  if (features == 0 || tokens == 0) return TICKETRY_OK;
  if (input == nullptr || residual == nullptr || weight == nullptr || bias == nullptr ||
      output == nullptr)
    return TICKETRY_BAD_ARGUMENT;
  call.input = input;
  call.residual = residual;
  call.features = features;
  call.tokens = tokens;
  call.weight = weight;
  call.bias = bias;
  call.eps = eps;
  call.output = output;
  call.status.store(TICKETRY_OK);
  parallel(features * tokens < 16384 ? 1 : threads, (tokens + TOKENS - 1) / TOKENS, norm, &call);
  return call.status.load();
}
