#define LANES 4
#define TILE 8
#include "kernels.inc"

namespace ticketry {
const Kernels* plain_kernels() { return &KERNELS; }
}  // namespace ticketry
