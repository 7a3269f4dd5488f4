// transpose: every element where it belongs, in any pieces, whatever the sizes.
#include "weights/transpose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace mlxf::weights {
namespace {

template <typename Element>
void expect_transposed(uint32_t rows, uint32_t cols) {
  SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(cols));
  std::vector<Element> source(uint64_t{rows} * cols), expected(source.size());
  for (uint32_t r = 0; r < rows; ++r)
    for (uint32_t c = 0; c < cols; ++c)
      expected[uint64_t{c} * rows + r] = source[uint64_t{r} * cols + c] =
          static_cast<Element>(uint64_t{r} * cols + c + 1);
  const auto* from = reinterpret_cast<const uint8_t*>(source.data());
  std::vector<Element> whole(source.size()), pieces(source.size());
  transpose(from, rows, cols, sizeof(Element), reinterpret_cast<uint8_t*>(whole.data()));
  EXPECT_EQ(whole, expected);
  for (uint32_t begin = 0; begin < cols; begin += 7)
    transpose_columns(from, rows, cols, sizeof(Element), begin, std::min(begin + 7, cols),
                      reinterpret_cast<uint8_t*>(pieces.data()));
  EXPECT_EQ(pieces, expected);
}

TEST(Transpose, PutsEveryElementInItsPlace) {
  for (const uint32_t rows : {1u, 31u, 32u, 65u})
    for (const uint32_t cols : {1u, 32u, 33u, 100u}) {
      expect_transposed<uint16_t>(rows, cols);
      expect_transposed<uint32_t>(rows, cols);
    }
}

}  // namespace
}  // namespace mlxf::weights
