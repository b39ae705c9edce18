// Runs the kernels on files of packed matrices, whole and damaged, under sanitizers.
//
// Each argument is a file: rows, columns, tokens (int64), packed bytes (int64 count, bytes), input
// [columns, tokens], bias [rows], expected output [rows, tokens] (float32). Whole ones must give the
// expected output on every instruction set, in all layouts; damaged ones an error or any numbers.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>
#include <thread>
#include <vector>

#include "ticketry.h"

namespace {

struct Case {
  int64_t sizes[4];
  std::vector<uint8_t> packed;
  std::vector<float> input, bias, expected;
};

template <typename T>
void take(FILE* file, std::vector<T>* into, size_t count) {
  into->resize(count);
  if (count > 0 && fread(into->data(), sizeof(T), count, file) != count) {
    fprintf(stderr, "the case is cut short\n");
    exit(2);
  }
}

Case read(const char* path) {
  Case found;
  FILE* file = fopen(path, "rb");
  if (file == nullptr || fread(found.sizes, 8, 4, file) != 4) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  const auto rows = static_cast<size_t>(found.sizes[0]);
  const auto columns = static_cast<size_t>(found.sizes[1]);
  const auto tokens = static_cast<size_t>(found.sizes[2]);
  take(file, &found.packed, static_cast<size_t>(found.sizes[3]));
  take(file, &found.input, columns * tokens);
  take(file, &found.bias, rows);
  take(file, &found.expected, rows * tokens);
  fclose(file);
  return found;
}

std::vector<float> turned(const std::vector<float>& values, int64_t rows, int64_t columns) {
  std::vector<float> found(values.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      found[static_cast<size_t>(c * rows + r)] = values[static_cast<size_t>(r * columns + c)];
  return found;
}

int32_t run(const Case& one, const std::vector<uint8_t>& packed, int32_t isa, int32_t layout,
            int32_t threads, std::vector<float>* output) {
  const int64_t rows = one.sizes[0], columns = one.sizes[1], tokens = one.sizes[2];
  // Copies of their exact size, so that the sanitizer sees a step outside.
  const std::vector<float> input =
      layout == TICKETRY_TOKENS_FIRST ? turned(one.input, columns, tokens) : one.input;
  output->assign(one.expected.size(), 0.0f);
  const bool first = layout == TICKETRY_TOKENS_FIRST;
  const int32_t status = ticketry_multiply(
      isa, packed.data(), static_cast<int64_t>(packed.size()), rows, columns, input.data(),
      first ? columns : tokens, layout, tokens, one.bias.data(), TICKETRY_NONE, output->data(),
      first ? rows : tokens, layout, threads);
  if (first) *output = turned(*output, tokens, rows);
  return status;
}

bool same(float a, float b);

// Attention and normalisation on exact-size buffers, against sums in double.
template <typename Draw>
int64_t layers(Draw draw) {
  int64_t right = 0;
  for (int i = 0; i < 40; ++i) {
    const auto batch = static_cast<int64_t>(1 + draw(3)), length = static_cast<int64_t>(1 + draw(70));
    const auto heads = static_cast<int64_t>(1 + draw(3)), size = static_cast<int64_t>(1 + draw(20));
    const int64_t features = heads * size, tokens = batch * length;
    const auto fill = [&draw](int64_t count) {
      std::vector<float> found(static_cast<size_t>(count));
      for (float& value : found) value = static_cast<float>(draw(2001)) / 1000.0f - 1.0f;
      return found;
    };
    const std::vector<float> q = fill(features * tokens), k = fill(features * tokens);
    const std::vector<float> v = fill(features * tokens), bias = fill(tokens);
    const std::vector<float> weight = fill(features), shift = fill(features);
    for (int32_t isa = 0; isa < 4; ++isa) {
      if (!ticketry_has(isa)) continue;
      std::vector<float> found(q.size()), normal(q.size());
      if (ticketry_attend(isa, q.data(), k.data(), v.data(), tokens, batch, length, heads, size,
                          bias.data(), 0.5f, found.data(), 2) != TICKETRY_OK ||
          ticketry_add_norm(isa, q.data(), k.data(), features, tokens, weight.data(), shift.data(),
                            1e-5f, normal.data(), 2) != TICKETRY_OK)
        return -1;
      const auto f = static_cast<int64_t>(draw(static_cast<uint64_t>(features)));
      const auto t = static_cast<int64_t>(draw(static_cast<uint64_t>(tokens)));
      const int64_t head = f / size, example = t / length;
      const auto at = [tokens](const std::vector<float>& from, int64_t row, int64_t column) {
        return static_cast<double>(from[static_cast<size_t>(row * tokens + column)]);
      };
      double sum = 0, total = 0, mean = 0, variance = 0;
      for (int64_t j = example * length; j < (example + 1) * length; ++j) {
        double score = 0;
        for (int64_t d = head * size; d < (head + 1) * size; ++d) score += at(q, d, t) * at(k, d, j);
        const double share = exp(0.5 * score + static_cast<double>(bias[static_cast<size_t>(j)]));
        sum += share;
        total += share * at(v, f, j);
      }
      for (int64_t d = 0; d < features; ++d) mean += at(q, d, t) + at(k, d, t);
      mean /= static_cast<double>(features);
      for (int64_t d = 0; d < features; ++d) {
        const double off = at(q, d, t) + at(k, d, t) - mean;
        variance += off * off / static_cast<double>(features);
      }
      const double norm = (at(q, f, t) + at(k, f, t) - mean) / sqrt(variance + 1e-5) *
                              static_cast<double>(weight[static_cast<size_t>(f)]) +
                          static_cast<double>(shift[static_cast<size_t>(f)]);
      if (!same(static_cast<float>(at(found, f, t)), static_cast<float>(total / sum)) ||
          !same(static_cast<float>(at(normal, f, t)), static_cast<float>(norm)))
        return -1;
      ++right;
    }
  }
  return right;
}

// Whole encoders on exact-size buffers: those of the kernels one by one.
template <typename Draw>
int64_t encoders(Draw draw, const std::vector<Case>& squares) {
  int64_t right = 0;
  for (int i = 0; i < 24; ++i) {
    const auto batch = static_cast<int64_t>(1 + draw(5)), length = static_cast<int64_t>(1 + draw(90));
    const int64_t heads = 2, size = 24, hidden = 48, inner = 48, tokens = batch * length;
    const auto fill = [&draw](int64_t count) {
      std::vector<float> found(static_cast<size_t>(count));
      for (float& value : found) value = static_cast<float>(draw(2001)) / 1000.0f - 1.0f;
      return found;
    };
    const std::vector<float> input = fill(tokens * hidden), bias = fill(tokens), add = fill(hidden);
    const std::vector<float> weight = fill(hidden), shift = fill(hidden);
    const std::vector<float> dense = fill(hidden * hidden);
    ticketry_layer layer[2];
    for (ticketry_layer& one : layer) {
      for (ticketry_matrix& matrix : one.matrices) {
        const Case& from = squares[draw(squares.size())];
        matrix = {from.packed.data(), static_cast<int64_t>(from.packed.size()), add.data()};
        if (draw(4) == 0) matrix = {dense.data(), -1, add.data()};
      }
      for (int n = 0; n < 2; ++n) {
        one.norm_weight[n] = weight.data();
        one.norm_bias[n] = shift.data();
      }
    }
    for (int32_t isa = 0; isa < 4; ++isa) {
      if (!ticketry_has(isa)) continue;
      const auto turned_input = turned(input, tokens, hidden);
      std::vector<float> state = turned_input, parts[6], found(input.size()), three(input.size());
      for (const ticketry_layer& one : layer) {
        const auto multiply = [&](int which, const std::vector<float>& from) {
          const ticketry_matrix& matrix = one.matrices[which];
          std::vector<float>& to = parts[which];
          to.assign(from.size(), 0.0f);
          if (matrix.bytes >= 0)
            return ticketry_multiply(isa, matrix.data, matrix.bytes, hidden, hidden, from.data(),
                                     tokens, TICKETRY_FEATURES_FIRST, tokens, matrix.bias,
                                     which == 4 ? TICKETRY_RELU : TICKETRY_NONE, to.data(), tokens,
                                     TICKETRY_FEATURES_FIRST, 1);
          for (int64_t r = 0; r < hidden; ++r)
            for (int64_t t = 0; t < tokens; ++t) {
              double sum = static_cast<double>(add[static_cast<size_t>(r)]);
              for (int64_t c = 0; c < hidden; ++c)
                sum += static_cast<double>(dense[static_cast<size_t>(r * hidden + c)]) *
                       static_cast<double>(from[static_cast<size_t>(c * tokens + t)]);
              to[static_cast<size_t>(r * tokens + t)] =
                  which == 4 && sum < 0 ? 0.0f : static_cast<float>(sum);
            }
          return static_cast<int32_t>(TICKETRY_OK);
        };
        std::vector<float> context(input.size()), mixed(input.size());
        int32_t status = multiply(0, state) | multiply(1, state) | multiply(2, state);
        status |= ticketry_attend(isa, parts[0].data(), parts[1].data(), parts[2].data(), tokens,
                                  batch, length, heads, size, bias.data(), 0.2f, context.data(), 1);
        status |= multiply(3, context);
        status |= ticketry_add_norm(isa, parts[3].data(), state.data(), hidden, tokens,
                                    weight.data(), shift.data(), 1e-5f, mixed.data(), 1);
        status |= multiply(4, mixed) | multiply(5, parts[4]);
        status |= ticketry_add_norm(isa, parts[5].data(), mixed.data(), hidden, tokens,
                                    weight.data(), shift.data(), 1e-5f, state.data(), 1);
        if (status != TICKETRY_OK) return -1;
      }
      for (std::vector<float>* to : {&found, &three})
        if (ticketry_encode(isa, layer, 2, input.data(), batch, length, heads, size, inner,
                            bias.data(), 0.2f, 1e-5f, TICKETRY_RELU, to->data(),
                            to == &found ? 1 : 3) != TICKETRY_OK)
          return -1;
      const std::vector<float> expected = turned(state, hidden, tokens);
      for (size_t j = 0; j < found.size(); ++j)
        if (fabsf(found[j] - expected[j]) > 1e-3f || found[j] != three[j]) return -1;
      ++right;
      // A damaged matrix: an error, or any numbers.
      std::vector<uint8_t> damaged = squares[0].packed;
      for (int hits = 0; hits < 3; ++hits)
        damaged[draw(damaged.size())] = static_cast<uint8_t>(draw(256));
      ticketry_layer other = layer[0];
      other.matrices[draw(6)] = {damaged.data(), static_cast<int64_t>(damaged.size()), add.data()};
      ticketry_encode(isa, &other, 1, input.data(), batch, length, heads, size, inner, nullptr, 0.2f,
                      1e-5f, TICKETRY_GELU, found.data(), 2);
    }
  }
  return right;
}

bool same(float a, float b) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  return a == b || fabsf(a - b) <= 1e-4f * (1 + fabsf(b));
}

}  // namespace

int main(int count, char** paths) {
  const int damages = getenv("DAMAGES") != nullptr ? atoi(getenv("DAMAGES")) : 2000;
  uint64_t state = 88172645463325252ull;
  const auto draw = [&state](uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
  };
  std::vector<Case> squares;  // of which encoders are made
  int64_t whole = 0, refused = 0, passed = 0;
  for (int i = 1; i < count; ++i) {
    const Case one = read(paths[i]);
    if (one.sizes[0] == 48 && one.sizes[1] == 48) squares.push_back(one);
    std::vector<float> output;
    const auto bytes = static_cast<int64_t>(one.packed.size());
    if (ticketry_check(one.packed.data(), bytes, one.sizes[0], one.sizes[1]) != TICKETRY_OK) {
      fprintf(stderr, "%s: refused\n", paths[i]);
      return 1;
    }
    for (int32_t isa = 0; isa < 4; ++isa) {
      if (!ticketry_has(isa)) continue;
      for (int32_t layout = 0; layout < 2; ++layout) {
        for (int32_t threads = 1; threads <= 3; ++threads, ++whole) {
          const int32_t status = run(one, one.packed, isa, layout, threads, &output);
          for (size_t j = 0; j < output.size() || status != TICKETRY_OK; ++j) {
            if (status == TICKETRY_OK && same(output[j], one.expected[j])) continue;
            fprintf(stderr, "%s: instruction set %d, layout %d: status %d, element %zu\n", paths[i],
                    isa, layout, status, j);
            return 1;
          }
        }
      }
      for (int d = 0; d < damages; ++d) {
        std::vector<uint8_t> damaged = one.packed;
        const uint64_t kind = draw(4);
        if (kind == 0) damaged.resize(draw(damaged.size() + 1));
        if (kind == 1) damaged.resize(damaged.size() + 1 + draw(64));
        const uint64_t hits = 1 + draw(4);
        for (uint64_t h = 0; h < hits && !damaged.empty(); ++h) {
          // The counts and offsets at the front are hit more often than the weights behind.
          const uint64_t below = draw(2) ? damaged.size() : damaged.size() < 128 ? damaged.size() : 128;
          const uint64_t place = draw(below);
          damaged[place] = draw(3) ? static_cast<uint8_t>(draw(256)) : static_cast<uint8_t>(damaged[place] + 1);
        }
        const auto size = static_cast<int64_t>(damaged.size());
        ticketry_check(damaged.data(), size, one.sizes[0], one.sizes[1]);
        const int32_t layout = static_cast<int32_t>(draw(2));
        (run(one, damaged, isa, layout, 1, &output) == TICKETRY_OK ? passed : refused) += 1;
      }
    }
    std::vector<std::thread> callers;  // several callers at once
    for (int t = 0; t < 4; ++t)
      callers.emplace_back([&one] {
        std::vector<float> mine;
        for (int r = 0; r < 5; ++r) run(one, one.packed, TICKETRY_PLAIN, r % 2, 3, &mine);
      });
    for (std::thread& caller : callers) caller.join();
  }
  if (layers(draw) < 40) {
    fprintf(stderr, "attention or normalisation is wrong\n");
    return 1;
  }
  if (!squares.empty() && encoders(draw, squares) < 24) {
    fprintf(stderr, "an encoder is wrong\n");
    return 1;
  }
  printf("%lld products right, %lld damaged matrices refused, %lld read without a fault\n",
         static_cast<long long>(whole), static_cast<long long>(refused),
         static_cast<long long>(passed));
  return 0;
}
