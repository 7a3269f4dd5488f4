// Depths for a drive whose temperature the test sets, in a made-up /sys tree.
#include "engine/drive_care.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "storage/faulty_storage.h"

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

TEST(DriveCare, ReadsGentlyWhileTheDriveIsHot) {
  const fs::path root = fs::path(testing::TempDir()) / ("mlxf-care-" + std::to_string(getpid()));
  const fs::path sensor = root / "nvme0/hwmon0";
  fs::create_directories(sensor);
  fs::create_directories(root / "nvme0/nvme0n1");
  fs::create_directories(root / "sys/dev/block");
  struct stat status = {};
  ASSERT_EQ(stat(root.c_str(), &status), 0);
  fs::create_directory_symlink(root / "nvme0/nvme0n1", root / "sys/dev/block" /
                                                           (std::to_string(major(status.st_dev)) + ":" +
                                                            std::to_string(minor(status.st_dev))));
  std::ofstream(sensor / "name") << "nvme\n";
  const auto set = [&](int celsius) { std::ofstream(sensor / "temp1_input") << celsius * 1000 << "\n"; };
  set(50);
  storage::FaultyStorage faulty({}, {.depth = 16});
  DriveCare care(faulty.storage(), platform::DriveTemperature::find(root.string(), root.string()));
  const struct {
    int second, celsius;
    uint32_t depth;
  } steps[] = {
      {0, 50, 16}, {4, 80, 16},  // Not looked at again so soon.
      {5, 80, 8},  {10, 71, 4}, {15, 70, 4}, {20, 66, 4}, {25, 71, 2}, {30, 72, 1}, {35, 90, 1}, {40, 64, 16},
  };
  for (const auto& step : steps) {
    set(step.celsius);
    care.look(seconds(step.second));
    EXPECT_EQ(faulty.storage().depth(), step.depth) << step.second << " s";
  }
  EXPECT_EQ(care.celsius(), 64.0);
  fs::remove_all(root);
}

TEST(DriveCare, LeavesADriveAloneThatDoesNotTell) {
  storage::FaultyStorage faulty({}, {.depth = 16});
  DriveCare care(faulty.storage(), std::nullopt);
  care.look(seconds(0));
  EXPECT_EQ(faulty.storage().depth(), 16u);
  EXPECT_EQ(care.celsius(), std::nullopt);
}

}  // namespace
}  // namespace mlxf::engine
