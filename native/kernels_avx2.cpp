#define LANES 8
#define TILE 8
#include "kernels.inc"

namespace ticketry {
const Kernels* avx2_kernels() { return &KERNELS; }
}  // namespace ticketry
