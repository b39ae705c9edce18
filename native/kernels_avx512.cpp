#define LANES 16
#define TILE 4
#include "kernels.inc"

namespace ticketry {
const Kernels* avx512_kernels() { return &KERNELS; }
}  // namespace ticketry
