// A whole encoder like BERT's in one call. Tokens are cut into tiles of a few vectors; a tile's
// activations lie as [features][tokens of the tile], so that products read and write them where they
// are, and one thread takes a tile or two through attention, normalisation and the feed-forward part
// of a layer, and through query, key and value of the next, before all wait for each other: only
// keys and values are read across tiles. Two at a time, as weights then come from memory once.
#include <string.h>

#include <atomic>

#include "packed.h"
#include "ticketry.h"

namespace ticketry {
namespace {

constexpr int64_t QUERIES = 32;  // that the attention kernel takes at once
constexpr int64_t BUNDLE = 2;    // tiles that a thread takes at once, at most

struct Dense {
  Matrix packed;
  const float* dense;  // null where it is packed
  const float* bias;
  int64_t rows, columns;
};

struct Layer {
  Dense matrices[6];
  const float *norm_weight[2], *norm_bias[2];
};

struct Encoder {
  const Kernels* kernels;
  const ticketry_layer* layers;
  int64_t count, heads, size, hidden, inner, length;
  const float* bias;
  float scaling, eps;
  int32_t activation;
  // Of the examples that are taken together:
  const float* input;
  float* output;
  int64_t examples, first_example, tokens, vectors, tiles, bundle, stride;
  float* states;     // [tiles][hidden + 256][width of a tile]
  float* heads_of[2];  // query, key and value of all tokens, [3 * hidden][stride], in turns
  int64_t layer;     // that ends here; its successor's query, key and value are made
  std::atomic<int32_t> status;
};

struct Tile {
  int64_t first, width, vectors, padded;
  float *state, *context, *mixed, *widened;  // each has 256 rows of room behind it
};

int64_t most_padded(const Encoder& call) { return call.kernels->most * call.kernels->lanes; }

Tile tile_of(const Encoder& call, int64_t index, float* room) {
  const int64_t lanes = call.kernels->lanes, wide = most_padded(call);
  const int64_t begin = index * call.vectors / call.tiles;
  const int64_t end = (index + 1) * call.vectors / call.tiles;
  const int64_t stop = end * lanes < call.tokens ? end * lanes : call.tokens;
  const int64_t vectors = call.kernels->vectors[end - begin];
  float* state = call.states + index * (call.hidden + MOST) * wide;
  float* mixed = room + (call.hidden + MOST) * wide;
  return {begin * lanes, stop - begin * lanes, vectors, vectors * lanes,
          state,         room,                 mixed,   mixed + (call.hidden + MOST) * wide};
}

// What a matrix has to say before it is used; see ticketry_encode.
int32_t open_matrix(const ticketry_matrix& from, int64_t rows, int64_t columns, Dense* found) {
  if (from.data == nullptr) return TICKETRY_BAD_ARGUMENT;
  found->bias = from.bias;
  found->rows = rows;
  found->columns = columns;
  found->dense = from.bytes < 0 ? static_cast<const float*>(from.data) : nullptr;
  return from.bytes < 0 ? static_cast<int32_t>(TICKETRY_OK)
                        : open(from.data, from.bytes, rows, columns, &found->packed);
}

int32_t open_layer(const Encoder& call, int64_t index, Layer* found) {
  const ticketry_layer& from = call.layers[index];
  for (int i = 0; i < 6; ++i) {
    const int32_t status = open_matrix(from.matrices[i], i == 4 ? call.inner : call.hidden,
                                       i == 5 ? call.inner : call.hidden, &found->matrices[i]);
    if (status != TICKETRY_OK) return status;
  }
  for (int i = 0; i < 2; ++i) {
    if (from.norm_weight[i] == nullptr || from.norm_bias[i] == nullptr) return TICKETRY_BAD_ARGUMENT;
    found->norm_weight[i] = from.norm_weight[i];
    found->norm_bias[i] = from.norm_bias[i];
  }
  return TICKETRY_OK;
}

typedef float* Tile::*Place;

// `to` [rows + 256][padded] of each tile = activation(matrix * `from` + bias).
bool multiply(const Encoder& call, const Dense& matrix, const Tile* tiles, int64_t count, Place from,
              int32_t activation, Place to) {
  if (matrix.dense != nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      float* target = tiles[i].*to;
      call.kernels->dense(matrix.dense, matrix.rows, matrix.columns, matrix.bias, tiles[i].*from,
                          tiles[i].vectors, target);
      if (activation != TICKETRY_NONE)
        call.kernels->activate(target, matrix.rows * tiles[i].padded, activation);
    }
    return true;
  }
  for (int64_t panel = 0; panel < matrix.packed.panels; ++panel) {
    Tokens pieces[BUNDLE];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = panel * matrix.packed.header->panel;
      pieces[i] = {tiles[i].*from, tiles[i].*to + row * tiles[i].padded, tiles[i].vectors};
    }
    if (!multiply_panel(*call.kernels, matrix.packed, panel, matrix.bias, activation, pieces, count))
      return false;
  }
  return true;
}

// Query, key and value of the states.
bool project(const Encoder& call, const Layer& layer, const Tile* tiles, int64_t count,
             float* target) {
  for (int m = 0; m < 3; ++m) {
    if (!multiply(call, layer.matrices[m], tiles, count, &Tile::state, TICKETRY_NONE,
                  &Tile::context))
      return false;
    for (int64_t i = 0; i < count; ++i)
      call.kernels->copy(tiles[i].context, tiles[i].padded,
                         target + m * call.hidden * call.stride + tiles[i].first, call.stride,
                         call.hidden, tiles[i].width);
  }
  return true;
}

// The attention of a tile's tokens, [hidden][padded]; a tile may hold tokens of several examples.
void attend_tile(const Encoder& call, const Tile& tile, float* room) {
  const float* query = call.heads_of[call.layer % 2];
  const float* key = query + call.hidden * call.stride;
  const float* value = key + call.hidden * call.stride;
  float *queries = room, *found = queries + call.size * QUERIES;
  float* scores = found + call.size * QUERIES;
  const int64_t last = tile.first + tile.width;
  if (tile.width < tile.padded)
    memset(tile.context, 0, static_cast<size_t>(call.hidden * tile.padded) * sizeof(float));
  for (int64_t at = tile.first; at < last;) {
    const int64_t example = at / call.length, start = example * call.length;
    int64_t width = start + call.length - at;
    if (width > last - at) width = last - at;
    if (width > QUERIES) width = QUERIES;
    const float* bias =
        call.bias == nullptr ? nullptr : call.bias + (call.first_example + example) * call.length;
    for (int64_t head = 0; head < call.heads; ++head) {
      const int64_t from = head * call.size * call.stride;
      if (width < QUERIES)
        memset(queries, 0, static_cast<size_t>(call.size * QUERIES) * sizeof(float));
      call.kernels->copy(query + from + at, call.stride, queries, QUERIES, call.size, width);
      call.kernels->attend(queries, key + from + start, value + from + start, call.stride,
                           call.length, call.size, bias, call.scaling, scores, found);
      call.kernels->copy(found, QUERIES, tile.context + head * call.size * tile.padded + at - tile.first,
                         tile.padded, call.size, width);
    }
    at += width;
  }
}

int32_t start(const Encoder& call, const Tile* tiles, int64_t count) {
  Layer layer;
  const int32_t status = open_layer(call, 0, &layer);
  if (status != TICKETRY_OK) return status;
  for (int64_t i = 0; i < count; ++i) {
    const Tile& tile = tiles[i];
    if (tile.width < tile.padded)
      memset(tile.state, 0, static_cast<size_t>(call.hidden * tile.padded) * sizeof(float));
    call.kernels->transpose(call.input + tile.first * call.hidden, call.hidden, tile.state,
                            tile.padded, tile.width, call.hidden);
  }
  const bool done = project(call, layer, tiles, count, call.heads_of[0]);
  return done ? TICKETRY_OK : TICKETRY_NO_MEMORY;
}

int32_t pass(const Encoder& call, const Tile* tiles, int64_t count, float* room) {
  Layer layer;
  int32_t status = open_layer(call, call.layer, &layer);
  if (status != TICKETRY_OK) return status;
  const Dense* matrices = layer.matrices;
  const auto norm = [&](Place values, Place residual, int which) {
    for (int64_t i = 0; i < count; ++i)
      call.kernels->add_norm(tiles[i].*values, tiles[i].*residual, call.hidden, tiles[i].vectors,
                             layer.norm_weight[which], layer.norm_bias[which], call.eps);
  };
  for (int64_t i = 0; i < count; ++i) attend_tile(call, tiles[i], room);
  if (!multiply(call, matrices[3], tiles, count, &Tile::context, TICKETRY_NONE, &Tile::mixed))
    return TICKETRY_NO_MEMORY;
  norm(&Tile::mixed, &Tile::state, 0);
  if (!multiply(call, matrices[4], tiles, count, &Tile::mixed, call.activation, &Tile::widened) ||
      !multiply(call, matrices[5], tiles, count, &Tile::widened, TICKETRY_NONE, &Tile::state))
    return TICKETRY_NO_MEMORY;
  norm(&Tile::state, &Tile::mixed, 1);
  if (call.layer + 1 == call.count) {
    for (int64_t i = 0; i < count; ++i)
      call.kernels->transpose(tiles[i].state, tiles[i].padded,
                              call.output + tiles[i].first * call.hidden, call.hidden, call.hidden,
                              tiles[i].width);
    return TICKETRY_OK;
  }
  status = open_layer(call, call.layer + 1, &layer);
  if (status != TICKETRY_OK) return status;
  const bool done = project(call, layer, tiles, count, call.heads_of[(call.layer + 1) % 2]);
  return done ? TICKETRY_OK : TICKETRY_NO_MEMORY;
}

void work(void* context, int64_t item) {
  auto& call = *static_cast<Encoder*>(context);
  const int64_t room = (2 * (call.hidden + MOST) + call.inner + MOST) * most_padded(call);
  float* memory =
      scratch_of(call.bundle * room + (2 * call.size + call.length) * QUERIES);
  int32_t status = TICKETRY_NO_MEMORY;
  if (memory != nullptr) {
    Tile tiles[BUNDLE];
    const int64_t first = item * call.bundle;
    const int64_t count = call.tiles - first < call.bundle ? call.tiles - first : call.bundle;
    for (int64_t i = 0; i < count; ++i) tiles[i] = tile_of(call, first + i, memory + i * room);
    status = call.layer < 0 ? start(call, tiles, count)
                            : pass(call, tiles, count, memory + call.bundle * room);
  }
  if (status != TICKETRY_OK) call.status.store(status);
}

// Takes some examples through all layers.
int32_t run(Encoder* call, int32_t threads) {
  const int64_t lanes = call->kernels->lanes, most = call->kernels->most;
  call->tokens = call->examples * call->length;
  call->vectors = (call->tokens + lanes - 1) / lanes;
  call->tiles = (call->vectors + most - 1) / most;
  // As many tiles for each thread, so that none waits.
  const int64_t even = (call->tiles + threads - 1) / threads * threads;
  call->tiles = even < call->vectors ? even : call->vectors;
  call->bundle = call->tiles >= BUNDLE * threads ? BUNDLE : 1;
  // Not a power of two: rows would meet in the same lines of the cache.
  call->stride = call->vectors * lanes + 16;
  const int64_t state = (call->hidden + MOST) * most_padded(*call);
  const int64_t heads = 3 * call->hidden * call->stride;
  call->states = scratch_of(call->tiles * state + 2 * heads, SHARED);
  if (call->states == nullptr) return TICKETRY_NO_MEMORY;
  call->heads_of[0] = call->states + call->tiles * state;
  call->heads_of[1] = call->heads_of[0] + heads;
  for (call->layer = -1; call->layer < call->count; ++call->layer) {
    parallel(threads, (call->tiles + call->bundle - 1) / call->bundle, work, call);
    if (call->status.load() != TICKETRY_OK) return call->status.load();
  }
  return TICKETRY_OK;
}

bool large(int64_t value) { return value < 0 || value > (INT64_MAX >> 44); }

}  // namespace
}  // namespace ticketry

using namespace ticketry;

int32_t ticketry_encode(int32_t isa, const ticketry_layer* layers, int64_t count, const float* input,
                        int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t inner,
                        const float* bias, float scaling, float eps, int32_t activation,
                        float* output, int32_t threads) {
  Encoder call{};
  call.kernels = kernels_of(isa);
  if (call.kernels == nullptr) return TICKETRY_NO_ISA;
  if (large(batch) || large(length) || large(heads) || large(size) || large(inner) ||
      large(heads * size) || count < 1 || activation < TICKETRY_NONE ||
      activation > TICKETRY_GELU_TANH)
    return TICKETRY_BAD_ARGUMENT;
  if (batch == 0 || length == 0 || heads == 0 || size == 0) return TICKETRY_OK;
  if (layers == nullptr || input == nullptr || output == nullptr) return TICKETRY_BAD_ARGUMENT;
  call.layers = layers;
  call.count = count;
  call.heads = heads;
  call.size = size;
  call.hidden = heads * size;
  call.inner = inner;
  call.length = length;
  call.bias = bias;
  call.scaling = scaling;
  call.eps = eps;
  call.activation = activation;
  call.status.store(TICKETRY_OK);
  if (threads < 1 || call.hidden * batch * length < 4096) threads = 1;
  // Examples are taken in groups: enough for all threads, and no more memory than that needs.
  const int64_t wanted = 256 * static_cast<int64_t>(threads);
  const int64_t group = length >= wanted ? 1 : wanted / length;
  for (int64_t first = 0; first < batch; first += group) {
    call.first_example = first;
    call.examples = batch - first < group ? batch - first : group;
    call.input = input + first * length * call.hidden;
    call.output = output + first * length * call.hidden;
    const int32_t status = run(&call, threads);
    if (status != TICKETRY_OK) return status;
  }
  return TICKETRY_OK;
}
