// DriveCare: reads more gently from a drive that is getting hot, before the drive slows itself down or suffers.
//
// Above kHot degrees Celsius the reads that are at the device at a time are halved, every kReadEvery again while it
// stays so hot, down to one; below kCool they are all allowed again. Answers do not depend on it. Does nothing where
// the drive does not tell its temperature. Owned by the engine; its thread, between tokens.
#pragma once

#include <chrono>
#include <optional>
#include <utility>

#include "platform/drive_temperature.h"
#include "storage/storage.h"

namespace mlxf::engine {

class DriveCare {
 public:
  static constexpr double kHot = 70.0, kCool = 65.0;
  static constexpr std::chrono::seconds kReadEvery{5};

  // `storage` outlives this.
  DriveCare(storage::Storage& storage, std::optional<platform::DriveTemperature> temperature)
      : storage_(storage), temperature_(std::move(temperature)) {}

  // `now` is of any clock that only goes forward.
  void look(std::chrono::nanoseconds now);
  // As read last.
  [[nodiscard]] std::optional<double> celsius() const { return celsius_; }

 private:
  storage::Storage& storage_;
  const std::optional<platform::DriveTemperature> temperature_;
  std::optional<std::chrono::nanoseconds> read_at_;
  std::optional<double> celsius_;
};

}  // namespace mlxf::engine
