// The C interface of ticketry's sparse kernels. Everything a caller passes is checked before use.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define TICKETRY_API extern "C" __declspec(dllexport)
#else
#define TICKETRY_API extern "C" __attribute__((visibility("default")))
#endif

// Raised with every change of this interface; Python refuses another one.
#define TICKETRY_ABI 4

enum ticketry_status {
  TICKETRY_OK = 0,
  TICKETRY_BAD_ARGUMENT = 1,  // a negative size, a null pointer, a stride that is too small
  TICKETRY_DAMAGED = 2,       // the packed bytes contradict themselves
  TICKETRY_MISFIT = 3,        // the packed matrix has another shape than the caller says
  TICKETRY_NO_ISA = 4,        // this machine or this build lacks the instruction set
  TICKETRY_NO_MEMORY = 5,
};

enum ticketry_isa { TICKETRY_PLAIN = 0, TICKETRY_NEON = 1, TICKETRY_AVX2 = 2, TICKETRY_AVX512 = 3 };

enum ticketry_activation {
  TICKETRY_NONE = 0,
  TICKETRY_RELU = 1,
  TICKETRY_GELU = 2,       // with erf
  TICKETRY_GELU_TANH = 3,  // with tanh
};

enum ticketry_layout {
  TICKETRY_FEATURES_FIRST = 0,  // [features, tokens], a row's elements adjacent
  TICKETRY_TOKENS_FIRST = 1,    // [tokens, features]
};

TICKETRY_API int32_t ticketry_abi(void);

// 1 if this build has the instruction set and this machine runs it.
TICKETRY_API int32_t ticketry_has(int32_t isa);

// Lets work be shared among the threads of an OpenMP library that the process uses already:
// its GOMP_parallel, or null for threads of our own. Its threads spin for a while after each piece of
// work, so a second set of threads would have to share the processors with them.
TICKETRY_API void ticketry_use_team(void (*team)(void (*)(void*), void*, unsigned, unsigned));

// Reads the whole packed matrix: indices in range and rising, each row once. For loading.
TICKETRY_API int32_t ticketry_check(const void* packed, int64_t bytes, int64_t rows, int64_t columns);

// output = activation(packed · input + bias); `stride` is in elements, between adjacent rows of the
// layout. `bias` may be null. At most `threads` threads work.
TICKETRY_API int32_t ticketry_multiply(int32_t isa, const void* packed, int64_t bytes, int64_t rows,
                                       int64_t columns, const float* input, int64_t input_stride,
                                       int32_t input_layout, int64_t tokens, const float* bias,
                                       int32_t activation, float* output, int64_t output_stride,
                                       int32_t output_layout, int32_t threads);

// Attention with tokens in the last axis: query, key, value and output are [heads * size, batch *
// length], `stride` elements between rows; `bias` [batch, length] is added to the scores of its key,
// or null.
TICKETRY_API int32_t ticketry_attend(int32_t isa, const float* query, const float* key,
                                     const float* value, int64_t stride, int64_t batch,
                                     int64_t length, int64_t heads, int64_t size, const float* bias,
                                     float scaling, float* output, int32_t threads);

// LayerNorm(input + residual) of each token; all three are [features, tokens] without gaps.
TICKETRY_API int32_t ticketry_add_norm(int32_t isa, const float* input, const float* residual,
                                       int64_t features, int64_t tokens, const float* weight,
                                       const float* bias, float eps, float* output,
                                       int32_t threads);

// A matrix of an encoder layer: packed, or dense float32 [rows, columns] where `bytes` is negative.
struct ticketry_matrix {
  const void* data;
  int64_t bytes;
  const float* bias;
};

// A layer like BERT's: query, key, value, attention output, and the two of the feed-forward part.
struct ticketry_layer {
  struct ticketry_matrix matrices[6];
  const float* norm_weight[2];
  const float* norm_bias[2];
};

// A whole encoder like BERT's: input and output are [batch, length, heads * size]; `inner` is the
// width of the feed-forward part and `bias` as in ticketry_attend. At most `threads` threads work.
TICKETRY_API int32_t ticketry_encode(int32_t isa, const struct ticketry_layer* layers, int64_t count,
                                     const float* input, int64_t batch, int64_t length,
                                     int64_t heads, int64_t size, int64_t inner, const float* bias,
                                     float scaling, float eps, int32_t activation, float* output,
                                     int32_t threads);
