// What doctor advises: sentences about what slows this machine down, each with its remedy where there is one.
//
// Pure: judges what was measured, so that every sentence can be tested. Any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/measure.h"
#include "platform/memory_info.h"

namespace mlxf::plan {

struct Circumstances {
  const Measurement& now;
  platform::MemoryReading memory;
  std::string huge_page_mode;              // platform::huge_page_mode()
  double load_average = 0;                 // Before measuring: platform::load_average()
  std::optional<HardwareProfile> earlier;  // Of this machine.
};

[[nodiscard]] std::vector<std::string> warnings(const Circumstances& circumstances);

}  // namespace mlxf::plan
