// Which pages of a range the system has given memory to. Unlike page faults, that says the same beside a sanitizer,
// whose own shadow faults.
//
// Only tests include this header.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "platform/huge_memory.h"

namespace mlxf::platform::testing {

// Pages that `memory` touches, and how many of them are there.
struct Pages {
  uint64_t all = 0;
  uint64_t there = 0;

  Pages& operator+=(const Pages& other) {
    all += other.all;
    there += other.there;
    return *this;
  }
};

inline Pages pages_of(std::span<const uint8_t> memory) {
  if (memory.empty()) return {};
  const uint64_t page = small_page_bytes();
  const uint64_t before = reinterpret_cast<uintptr_t>(memory.data()) % page;
  const uint64_t bytes = before + memory.size();
#if defined(__APPLE__)
  std::vector<char> states((bytes + page - 1) / page);
#else
  std::vector<unsigned char> states((bytes + page - 1) / page);
#endif
  void* const start = const_cast<uint8_t*>(memory.data() - before);
  EXPECT_EQ(mincore(start, bytes, states.data()), 0);
  const auto there = std::count_if(states.begin(), states.end(), [](auto state) { return (state & 1) != 0; });
  return {states.size(), static_cast<uint64_t>(there)};
}

}  // namespace mlxf::platform::testing
