// Known values (RFC 3720, B.4), and any cut of a text.
#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <span>
#include <string_view>
#include <vector>

namespace mlxf {
namespace {

uint32_t of(std::string_view text, uint32_t before = 0) {
  return crc32c({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, before);
}

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(of(""), 0u);
  EXPECT_EQ(of("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::vector<uint8_t>(32, 0)), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::vector<uint8_t>(32, 0xFF)), 0x62A8AB43u);
}

TEST(Crc32c, InPieces) {
  constexpr std::string_view kText = "It was a dark night, and the wind rose over the old house by the sea.";
  for (size_t cut = 0; cut <= kText.size(); ++cut)
    EXPECT_EQ(of(kText.substr(cut), of(kText.substr(0, cut))), of(kText)) << cut;
}

// Whichever way this machine computes it: at every distance from a word, and of every length.
TEST(Crc32c, TheProcessorsInstructionAgreesWithTheTables) {
  std::vector<uint8_t> bytes(300);
  uint32_t value = 1;
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((value = value * 1664525u + 1013904223u) >> 24);
  for (size_t begin = 0; begin < 9; ++begin)
    for (size_t length = 0; length + begin <= bytes.size(); ++length) {
      const auto part = std::span(bytes).subspan(begin, length);
      ASSERT_EQ(crc32c(part, value), crc32c_by_tables(part, value)) << begin << " " << length;
    }
}

}  // namespace
}  // namespace mlxf
