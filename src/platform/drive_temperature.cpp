#include "platform/drive_temperature.h"

#include <sys/stat.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

#include <charconv>
#include <filesystem>
#include <fstream>

namespace mlxf::platform {
namespace {

namespace fs = std::filesystem;

// From a partition to its drive's controller: nvme0n1p1, nvme0n1, nvme0; or sda1, sda, block, 0:0:0:0.
constexpr int kLevelsMax = 4;

std::optional<std::string> line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// A drive's sensor among the hwmon folders directly in `folder`.
std::optional<std::string> sensor_in(const fs::path& folder) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    if (entry.path().filename().string().rfind("hwmon", 0) != 0) continue;
    const auto driver = line_of(entry.path() / "name");
    const fs::path sensor = entry.path() / "temp1_input";
    if (driver && (*driver == "nvme" || *driver == "drivetemp") && line_of(sensor)) return sensor.string();
  }
  return std::nullopt;
}

}  // namespace

std::optional<DriveTemperature> DriveTemperature::find(const std::string& file,
                                                       const std::string& system_root) {
#ifdef __linux__
  struct stat status = {};
  if (stat(file.c_str(), &status) != 0) return std::nullopt;
  const std::string device =
      std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
  std::error_code code;
  fs::path folder = fs::canonical(system_root + "/sys/dev/block/" + device, code);
  if (code) return std::nullopt;
  for (int level = 0; level < kLevelsMax; ++level, folder = folder.parent_path())
    for (const fs::path& place : {folder, folder / "hwmon"})
      if (const auto sensor = sensor_in(place)) return DriveTemperature(*sensor);
#else
  static_cast<void>(file);
  static_cast<void>(system_root);
#endif
  return std::nullopt;
}

std::optional<double> DriveTemperature::celsius() const {
  const auto line = line_of(sensor_);
  if (!line) return std::nullopt;
  int thousandths = 0;
  const auto [end, error] = std::from_chars(line->data(), line->data() + line->size(), thousandths);
  if (error != std::errc() || end != line->data() + line->size()) return std::nullopt;
  return thousandths / 1000.0;
}

}  // namespace mlxf::platform
