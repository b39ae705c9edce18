#define LANES 4
#define TILE 16
#include "kernels.inc"

namespace ticketry {
const Kernels* neon_kernels() { return &KERNELS; }
}  // namespace ticketry
