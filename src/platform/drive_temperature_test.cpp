// Sensors in made-up /sys trees, as kernels lay them out for NVMe and SATA drives; and trees without one.
#include "platform/drive_temperature.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mlxf::platform {
namespace {

namespace fs = std::filesystem;

// A root whose block device for this file's file system is the folder `device`.
class FakeSystem {
 public:
  explicit FakeSystem(const std::string& device)
      : root_(fs::path(testing::TempDir()) / ("mlxf-sys-" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    fs::create_directories(root_ / device);
    fs::create_directories(root_ / "sys/dev/block");
    struct stat status = {};
    EXPECT_EQ(stat(root_.c_str(), &status), 0);
    const std::string name =
        std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
    fs::create_directory_symlink(root_ / device, root_ / "sys/dev/block" / name);
  }
  ~FakeSystem() { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  [[nodiscard]] std::optional<DriveTemperature> find() const {
    return DriveTemperature::find(root_.string(), root_.string());
  }

 private:
  fs::path root_;
};

TEST(DriveTemperature, FindsTheSensorsOfDrives) {
  const struct {
    const char* device;
    const char* sensor;
    const char* driver;
  } cases[] = {
      {"sys/devices/pci/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1",
       "sys/devices/pci/0000:01:00.0/nvme/nvme0/hwmon3", "nvme"},
      {"sys/devices/pci/0000:01:00.0/nvme/nvme0/nvme0n1",
       "sys/devices/pci/0000:01:00.0/nvme/nvme0/hwmon/hwmon1", "nvme"},
      {"sys/devices/pci/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1",
       "sys/devices/pci/ata1/host0/target0:0:0/0:0:0:0/hwmon/hwmon0", "drivetemp"},
  };
  for (const auto& c : cases) {
    const FakeSystem system(c.device);
    system.write(std::string(c.sensor) + "/name", std::string(c.driver) + "\n");
    system.write(std::string(c.sensor) + "/temp1_input", "71850\n");
    const auto temperature = system.find();
    ASSERT_TRUE(temperature) << c.device;
    EXPECT_EQ(temperature->celsius(), 71.85);
    system.write(std::string(c.sensor) + "/temp1_input", "-5000\n");
    EXPECT_EQ(temperature->celsius(), -5.0);
    system.write(std::string(c.sensor) + "/temp1_input", "hot\n");
    EXPECT_EQ(temperature->celsius(), std::nullopt);
  }
}

TEST(DriveTemperature, TakesNoOtherSensorForTheDrives) {
  const FakeSystem system("sys/devices/pci/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1");
  EXPECT_FALSE(system.find());
  system.write("sys/devices/pci/0000:01:00.0/nvme/nvme0/hwmon3/name", "acpitz\n");
  system.write("sys/devices/pci/0000:01:00.0/nvme/nvme0/hwmon3/temp1_input", "90000\n");
  EXPECT_FALSE(system.find()) << "of the board";
  system.write("sys/devices/hwmon/hwmon0/name", "nvme\n");
  system.write("sys/devices/hwmon/hwmon0/temp1_input", "90000\n");
  EXPECT_FALSE(system.find()) << "of another drive, too far up";
  EXPECT_FALSE(DriveTemperature::find("/nowhere/model.gguf"));
}

}  // namespace
}  // namespace mlxf::platform
