// DriveTemperature: how hot the drive is that a file lies on, where Linux tells.
//
// Found once through /sys: the file's block device, and above it the first sensor of a drive (the hwmon drivers "nvme"
// and "drivetemp"). Virtual disks, network file systems and drives behind a device mapper have none. Reading costs some
// tens of microseconds and one command to the drive. One thread at a time.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace mlxf::platform {

class DriveTemperature {
 public:
  // Nothing where the system does not tell. `system_root` is put before /sys; for tests.
  [[nodiscard]] static std::optional<DriveTemperature> find(const std::string& file,
                                                            const std::string& system_root = {});
  // Nothing when the sensor has gone or does not answer.
  [[nodiscard]] std::optional<double> celsius() const;

 private:
  explicit DriveTemperature(std::string sensor) : sensor_(std::move(sensor)) {}
  std::string sensor_;
};

}  // namespace mlxf::platform
