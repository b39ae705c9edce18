#include "packed.h"

#include <string.h>

#include "ticketry.h"

namespace ticketry {

int32_t open(const void* packed, int64_t bytes, int64_t rows, int64_t columns, Matrix* found) {
  if (packed == nullptr || bytes < 0 || rows < 0 || columns < 0) return TICKETRY_BAD_ARGUMENT;
  if (reinterpret_cast<uintptr_t>(packed) % 8 != 0) return TICKETRY_BAD_ARGUMENT;
  if (bytes < static_cast<int64_t>(sizeof(Header))) return TICKETRY_DAMAGED;
  const auto* start = static_cast<const uint8_t*>(packed);
  const auto* header = reinterpret_cast<const Header*>(start);
  if (header->magic != MAGIC || header->version != VERSION || header->values > INT8 ||
      header->zero != 0)
    return TICKETRY_DAMAGED;
  static const int64_t sizes[] = {4, 2, 1};
  const int64_t value_bytes = sizes[header->values];
  const int64_t scales = header->values == INT8 ? rows : 0;
  if (header->panel < 1 || header->panel > MOST || header->block < 1 || header->block > MOST)
    return TICKETRY_DAMAGED;
  if (header->rows != rows || header->columns != columns) return TICKETRY_MISFIT;
  // Each part is at most as large as the whole, so no sum below can overflow.
  if (header->kept < 0 || header->kept > bytes || header->segments < 0 ||
      header->segments > bytes || header->groups > bytes || scales > bytes ||
      rows > (INT64_MAX >> 16) ||
      columns > (INT64_MAX >> 16))
    return TICKETRY_DAMAGED;
  const int64_t panels = (rows + header->panel - 1) / header->panel;
  const int64_t blocks = (columns + header->block - 1) / header->block;
  if (panels > bytes || (panels > 0 && blocks > bytes / panels)) return TICKETRY_DAMAGED;
  const int64_t cells = panels * blocks;
  const int64_t expected = static_cast<int64_t>(sizeof(Header)) +
                           (cells + 1) * static_cast<int64_t>(sizeof(Cell)) +
                           header->groups * static_cast<int64_t>(sizeof(Group)) +
                           scales * 4 + header->kept * (value_bytes + 1) + header->segments;
  if (expected != bytes) return TICKETRY_DAMAGED;
  found->header = header;
  found->cells = reinterpret_cast<const Cell*>(start + sizeof(Header));
  found->groups = reinterpret_cast<const Group*>(found->cells + cells + 1);
  const auto* after = reinterpret_cast<const float*>(found->groups + header->groups);
  found->scales = scales > 0 ? after : nullptr;
  found->values = reinterpret_cast<const uint8_t*>(after + scales);
  found->value_bytes = value_bytes;
  found->columns = found->values + header->kept * value_bytes;
  found->rows = found->columns + header->kept;
  found->panels = panels;
  found->blocks = blocks;
  int64_t value = 0, segment = 0, group = 0;
  for (int64_t i = 0; i < cells; ++i) {
    const Cell& cell = found->cells[i];
    const int64_t next = found->cells[i + 1].group;
    if (cell.value != value || cell.segment != segment || cell.group != group) return TICKETRY_DAMAGED;
    if (next < group || next > header->groups) return TICKETRY_DAMAGED;
    for (; group < next; ++group) {
      const Group& one = found->groups[group];
      if (one.kept < 1 || one.kept > header->block || one.rows < 1 || one.rows > header->panel)
        return TICKETRY_DAMAGED;
      value += static_cast<int64_t>(one.kept) * one.rows;
      segment += one.rows;
    }
    if (value > header->kept || segment > header->segments) return TICKETRY_DAMAGED;
    if (value - cell.value > MOST * MOST) return TICKETRY_DAMAGED;  // some weight is there twice
  }
  const Cell& last = found->cells[cells];
  if (last.value != value || last.segment != segment || last.group != group) return TICKETRY_DAMAGED;
  if (value != header->kept || segment != header->segments || group != header->groups)
    return TICKETRY_DAMAGED;
  return TICKETRY_OK;
}

int32_t check(const Matrix& matrix) {
  const Header& header = *matrix.header;
  for (int64_t panel = 0; panel < matrix.panels; ++panel) {
    const int64_t most_row = header.rows - panel * header.panel;
    for (int64_t block = 0; block < matrix.blocks; ++block) {
      const int64_t most_column = header.columns - block * header.block;
      const Cell* cell = matrix.cells + panel * matrix.blocks + block;
      const uint8_t* columns = matrix.columns + cell->value;
      const uint8_t* row = matrix.rows + cell->segment;
      bool seen[MOST];
      memset(seen, 0, sizeof(seen));
      for (int32_t g = cell[0].group; g < cell[1].group; ++g) {
        for (int i = 0; i < matrix.groups[g].rows; ++i, ++row) {
          if (*row >= most_row || *row >= header.panel || seen[*row]) return TICKETRY_DAMAGED;
          seen[*row] = true;
          const int kept = matrix.groups[g].kept;
          for (int j = 0; j < kept; ++j) {
            if (columns[j] >= most_column || columns[j] >= header.block) return TICKETRY_DAMAGED;
            if (j > 0 && columns[j] <= columns[j - 1]) return TICKETRY_DAMAGED;
          }
          columns += kept;
        }
      }
    }
  }
  return TICKETRY_OK;
}

}  // namespace ticketry
