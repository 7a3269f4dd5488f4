#include "platform/memory_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "platform/memory_text.h"

namespace mlxf::platform {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

constexpr const char* kMeminfo =
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nBuffers: 1 kB\n";

TEST(MemoryText, ReadsMeminfo) {
  const auto host = parse_meminfo(kMeminfo);
  ASSERT_TRUE(host);
  EXPECT_EQ(host->total_bytes, 16 * kGiB);
  EXPECT_EQ(host->available_bytes, 8 * kGiB);
}

TEST(MemoryText, MeminfoWithoutAvailableCountsFreeAndInactiveFile) {
  const auto host =
      parse_meminfo("MemTotal: 1000 kB\nMemFree: 100 kB\nCached: 500 kB\nInactive(file): 50 kB\n");
  ASSERT_TRUE(host);
  EXPECT_EQ(host->available_bytes, 150U * 1024);
}

TEST(MemoryText, AvailableIsAtMostTotal) {
  const auto host = parse_meminfo("MemTotal: 100 kB\nMemAvailable: 900 kB\n");
  ASSERT_TRUE(host);
  EXPECT_EQ(host->available_bytes, 100U * 1024);
}

TEST(MemoryText, NonsenseInMeminfoIsNoMeminfo) {
  for (const char* text :
       {"", "\n\n", "MemTotal:", "MemTotal: 100 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
        "MemTotal: 100 MB\nMemAvailable: 50 kB\n", "MemTotal: -5 kB\nMemAvailable: 1 kB\n",
        "MemTotal: 99999999999999999999999 kB\nMemAvailable: 1 kB\n",
        "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n", "memtotal: 5 kB\nMemAvailable: 1 kB\n"})
    EXPECT_FALSE(parse_meminfo(text)) << text;
}

TEST(MemoryText, ReadsStalls) {
  const auto stalls = parse_stalls(
      "some avg10=12.34 avg60=1.00 avg300=0.05 total=4179375\nfull avg10=0.50 avg60=0.00 avg300=0.00 "
      "total=978202\n");
  ASSERT_TRUE(stalls);
  EXPECT_TRUE(stalls->known);
  EXPECT_DOUBLE_EQ(stalls->some_avg10, 12.34);
  EXPECT_DOUBLE_EQ(stalls->full_avg10, 0.5);
  EXPECT_EQ(stalls->some_total_us, 4179375U);
  EXPECT_EQ(stalls->full_total_us, 978202U);
}

TEST(MemoryText, NonsenseInStallsIsNoStalls) {
  for (const char* text :
       {"", "full avg10=0.50 avg60=0.00 avg300=0.00 total=978202\n", "some\n", "some avg10=1.0\n",
        "some avg10=x total=1\n", "some avg10=1.0 total=-1\n", "some avg10=1.0.0 total=1\n",
        "some avg10=101.00 total=1\n", "some avg10= total=1\n"})
    EXPECT_FALSE(parse_stalls(text)) << text;
  EXPECT_TRUE(parse_stalls("some avg10=100.00 total=1"));
}

TEST(MemoryText, ReadsGroupBytes) {
  EXPECT_EQ(parse_group_bytes("max\n"), kNoMemoryLimit);
  EXPECT_EQ(parse_group_bytes("9223372036854771712\n"), kNoMemoryLimit);  // Version 1's "no limit".
  EXPECT_EQ(parse_group_bytes("8589934592\n"), 8 * kGiB);
  EXPECT_EQ(parse_group_bytes("0\n"), 0U);
  for (const char* text : {"", "\n", "-1\n", "maximum", "12 34", "1e9", "0x10", "99999999999999999999999"})
    EXPECT_FALSE(parse_group_bytes(text)) << text;
}

TEST(MemoryText, FindsAStatByItsWholeName) {
  constexpr const char* kText = "cache 7\ninactive_file 100\ntotal_inactive_file 300\nbroken\nlast 5";
  EXPECT_EQ(find_stat(kText, "inactive_file"), 100U);
  EXPECT_EQ(find_stat(kText, "total_inactive_file"), 300U);
  EXPECT_EQ(find_stat(kText, "last"), 5U);
  EXPECT_FALSE(find_stat(kText, "broken"));
  EXPECT_FALSE(find_stat(kText, "file"));
}

constexpr const char* kV2Mount =
    "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(FindGroups, WalksFromOurGroupToTheRoot) {
  const auto groups = find_groups("0::/user.slice/app.scope\n", kV2Mount);
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_EQ(groups[0].version, GroupVersion::kV2);
  EXPECT_THAT(groups[0].folders, ElementsAre("/sys/fs/cgroup/user.slice/app.scope",
                                             "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"));
}

TEST(FindGroups, InsideItsOwnNameSpaceAContainerSeesItsGroupAsTheRoot) {
  const auto groups = find_groups("0::/\n", kV2Mount);
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_THAT(groups[0].folders, ElementsAre("/sys/fs/cgroup"));
}

TEST(FindGroups, ReadsHybridHierarchies) {
  const auto groups =
      find_groups("9:name=systemd:/x\n4:cpu,memory:/a/b\n3:memoryless:/c\n0::/\n",
                  "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
                  "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,cpu,memory\n"
                  "36 31 0:33 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
                  "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups[0].version, GroupVersion::kV1);
  EXPECT_THAT(groups[0].folders,
              ElementsAre("/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"));
  EXPECT_THAT(groups[1].folders, ElementsAre("/sys/fs/cgroup/unified"));
}

TEST(FindGroups, AContainersBindMountStartsAtItsOwnGroup) {
  const auto groups =
      find_groups("4:memory:/docker/abc/inner\n",
                  "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_THAT(groups[0].folders, ElementsAre("/sys/fs/cgroup/memory/inner", "/sys/fs/cgroup/memory"));
}

TEST(FindGroups, AMountThatShowsAnotherGroupLeavesItsTop) {
  // The host's path of the group, seen from a container; "/docker/abcdef" is not below "/docker/abc".
  for (const char* path : {"/docker/other", "/docker/abcdef"}) {
    const auto groups = find_groups(std::string("4:memory:") + path + "\n",
                                    "35 31 0:32 /docker/abc /cg ro - cgroup cgroup rw,memory\n");
    ASSERT_EQ(groups.size(), 1U);
    EXPECT_THAT(groups[0].folders, ElementsAre("/cg"));
  }
}

TEST(FindGroups, TheMountThatShowsMostWins) {
  const auto groups =
      find_groups("0::/a/b\n", std::string("1 1 0:1 /a /inner rw - cgroup2 cgroup2 rw\n") + kV2Mount);
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_THAT(groups[0].folders, ElementsAre("/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"));
}

TEST(FindGroups, OutsideItsNameSpaceAProcessIsNotLimitedByIt) {
  EXPECT_TRUE(find_groups("0::/../elsewhere\n", kV2Mount).empty());
  // A mount made outside shows a group above ours.
  const auto above = find_groups("0::/\n", "41 31 0:38 /../.. /cg rw - cgroup2 cgroup2 rw\n");
  ASSERT_EQ(above.size(), 1U);
  EXPECT_THAT(above[0].folders, ElementsAre("/cg"));
}

TEST(FindGroups, UnescapesTheMountPoint) {
  const auto groups = find_groups("0::/\n", "41 31 0:38 / /my\\040cg\\134x\\04 rw - cgroup2 cgroup2 rw\n");
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_THAT(groups[0].folders, ElementsAre("/my cg\\x\\04"));
}

TEST(FindGroups, NonsenseFindsNothing) {
  EXPECT_TRUE(find_groups("", "").empty());
  EXPECT_TRUE(find_groups("0::/a\n", "").empty());
  EXPECT_TRUE(find_groups("0::/a\n", "41 31\n - cgroup2\n41 31 0:38 / /x rw cgroup2 cgroup2 rw\n").empty());
  EXPECT_TRUE(find_groups("0::relative\n0:\n::\n\n", kV2Mount).empty());
  const std::string deep = "0::" + std::string(20000, '/') + "\n";
  for (const GroupPath& path : find_groups(deep, kV2Mount)) EXPECT_LE(path.folders.size(), 32U);
}

#if defined(__linux__)

// A folder that stands for "/".
class MemorySourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mlxf-memory-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    put("/proc/meminfo", kMeminfo);
  }
  void TearDown() override { fs::remove_all(root_); }

  // Written in place, as the kernel's files change under an open descriptor.
  void put(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path, std::ios::binary) << text;
  }
  void put_v2(const std::string& group, const std::string& max, uint64_t current, uint64_t cache) const {
    const std::string folder = "/sys/fs/cgroup" + group;
    put(folder + "/cgroup.type", "domain\n");
    put(folder + "/memory.max", max + "\n");
    put(folder + "/memory.high", "max\n");
    put(folder + "/memory.current", std::to_string(current) + "\n");
    put(folder + "/memory.stat", "anon 5\ninactive_file " + std::to_string(cache) + "\nactive_file 9\n");
  }
  void use_v2(const std::string& group) const {
    put("/proc/self/cgroup", "0::" + group + "\n");
    put("/proc/self/mountinfo", kV2Mount);
  }
  [[nodiscard]] MemorySource source() const {
    auto opened = MemorySource::open(root_);
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }
  [[nodiscard]] static MemoryReading read(MemorySource& source) {
    const auto reading = source.read();
    EXPECT_TRUE(reading) << reading.error().message;
    return reading.value_or(MemoryReading{});
  }

  std::string root_;
};

TEST_F(MemorySourceTest, WithoutGroupsNothingLimits) {
  MemorySource memory = source();
  const MemoryReading reading = read(memory);
  EXPECT_EQ(reading.total_bytes, 16 * kGiB);
  EXPECT_EQ(reading.available_bytes, 8 * kGiB);
  EXPECT_EQ(reading.limit_bytes, kNoMemoryLimit);
  EXPECT_EQ(reading.limit_room_bytes, kNoMemoryLimit);
  EXPECT_FALSE(reading.host_stalls.known);
  EXPECT_FALSE(reading.group_stalls.known);
}

TEST_F(MemorySourceTest, WithoutMeminfoItSaysWhichFileIsMissing) {
  fs::remove(root_ + "/proc/meminfo");
  const auto opened = MemorySource::open(root_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(opened.error().message, HasSubstr("/proc/meminfo"));
}

TEST_F(MemorySourceTest, TheTightestLimitAndTheLeastRoomMayBeOfDifferentGroups) {
  use_v2("/slice/app");
  put_v2("", "max", 0, 0);
  fs::remove(root_ + "/sys/fs/cgroup/memory.max");  // The root group has none.
  put_v2("/slice", std::to_string(6 * kGiB), 5 * kGiB + 512 * kMiB, 256 * kMiB);
  put_v2("/slice/app", std::to_string(4 * kGiB), kGiB, 0);
  MemorySource memory = source();
  const MemoryReading reading = read(memory);
  EXPECT_EQ(reading.limit_bytes, 4 * kGiB);
  EXPECT_EQ(reading.limit_room_bytes, 512 * kMiB + 256 * kMiB);  // Of the slice; inactive file cache is room.
}

TEST_F(MemorySourceTest, MemoryHighLimitsToo) {
  use_v2("/app");
  put_v2("/app", "max", kGiB, 0);
  put("/sys/fs/cgroup/app/memory.high", std::to_string(3 * kGiB));
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_bytes, 3 * kGiB);
  EXPECT_EQ(read(memory).limit_room_bytes, 2 * kGiB);
}

TEST_F(MemorySourceTest, SeesChangesWithoutReopening) {
  use_v2("/app");
  put_v2("/app", "max", kGiB, 0);
  put("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=10\n");
  put("/sys/fs/cgroup/app/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=20\n");
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_room_bytes, kNoMemoryLimit);
  put_v2("/app", std::to_string(2 * kGiB), kGiB, 0);
  put("/proc/pressure/memory", "some avg10=1.50 avg60=0.00 avg300=0.00 total=11\n");
  put("/sys/fs/cgroup/app/memory.pressure", "some avg10=2.50 avg60=0.00 avg300=0.00 total=21\n");
  put("/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 4194304 kB\n");
  const MemoryReading reading = read(memory);
  EXPECT_EQ(reading.available_bytes, 4 * kGiB);
  EXPECT_EQ(reading.limit_bytes, 2 * kGiB);
  EXPECT_EQ(reading.limit_room_bytes, kGiB);
  EXPECT_EQ(reading.host_stalls.some_total_us, 11U);
  EXPECT_DOUBLE_EQ(reading.group_stalls.some_avg10, 2.5);
  EXPECT_EQ(reading.group_stalls.some_total_us, 21U);
}

TEST_F(MemorySourceTest, TheRootGroupsStallsAreTheHostsAndNotOurs) {
  use_v2("/");
  put("/sys/fs/cgroup/memory.pressure", "some avg10=2.50 avg60=0.00 avg300=0.00 total=21\n");
  MemorySource memory = source();
  EXPECT_FALSE(read(memory).group_stalls.known);
}

TEST_F(MemorySourceTest, AGroupOverItsLimitHasNoRoom) {
  use_v2("/app");
  put_v2("/app", std::to_string(kGiB), 2 * kGiB, 5 * kMiB);
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_room_bytes, 0U);
  put_v2("/app", std::to_string(kGiB), kGiB,
         9 * kGiB);  // More cache than use: rounding in the kernel's counters.
  EXPECT_EQ(read(memory).limit_room_bytes, kGiB);
}

TEST_F(MemorySourceTest, WhicheverGroupIsTheTightestIsReadAnew) {
  use_v2("/a/b");
  put_v2("/a", std::to_string(4 * kGiB), 3 * kGiB, 0);
  put_v2("/a/b", std::to_string(4 * kGiB), 2 * kGiB, 0);
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_room_bytes, kGiB);
  put_v2("/a", std::to_string(4 * kGiB), 3 * kGiB,
         2 * kGiB);  // Now it has 3 GiB, and the inner one is tighter.
  EXPECT_EQ(read(memory).limit_room_bytes, 2 * kGiB);
  put_v2("/a/b", std::to_string(4 * kGiB), 2 * kGiB, 2 * kGiB);
  EXPECT_EQ(read(memory).limit_room_bytes, 3 * kGiB);
  put_v2("/a/b", std::to_string(4 * kGiB), 2 * kGiB,
         0);  // Its cache is gone: seen at the latest after 16 readings.
  uint64_t room = 0;
  for (int i = 0; i < 16; ++i) room = read(memory).limit_room_bytes;
  EXPECT_EQ(room, 2 * kGiB);
}

TEST_F(MemorySourceTest, NonsenseInAGroupIsNoLimit) {
  use_v2("/slice/app");
  put_v2("/slice", std::to_string(6 * kGiB), kGiB, 0);
  put_v2("/slice/app", "banana", kGiB, 0);
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_bytes, 6 * kGiB);
  put("/sys/fs/cgroup/slice/memory.current", "");
  EXPECT_EQ(read(memory).limit_bytes, kNoMemoryLimit);
}

TEST_F(MemorySourceTest, FindsItsNewGroupWhenTheOldOneIsGone) {
  use_v2("/old");
  put_v2("/old", std::to_string(2 * kGiB), kGiB, 0);
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_bytes, 2 * kGiB);
  use_v2("/new");
  put_v2("/new", std::to_string(3 * kGiB), kGiB, 0);
  put("/sys/fs/cgroup/old/memory.current", "");  // The kernel answers ENODEV, which reads as nothing, too.
  EXPECT_EQ(read(memory).limit_bytes, 3 * kGiB);
}

TEST_F(MemorySourceTest, ReadsVersionOneWithTheLimitsItHides) {
  put("/proc/self/cgroup", "4:memory:/docker/abc\n0::/\n");
  put("/proc/self/mountinfo", "35 31 0:32 /docker/abc /cg ro - cgroup cgroup rw,memory\n");
  put("/cg/memory.limit_in_bytes", "9223372036854771712\n");
  put("/cg/memory.usage_in_bytes", std::to_string(3 * kGiB) + "\n");
  put("/cg/memory.stat", "inactive_file 1\nhierarchical_memory_limit " + std::to_string(5 * kGiB) +
                             "\ntotal_inactive_file " + std::to_string(kGiB) + "\n");
  MemorySource memory = source();
  const MemoryReading reading = read(memory);
  EXPECT_EQ(reading.limit_bytes, 5 * kGiB);
  EXPECT_EQ(reading.limit_room_bytes, 3 * kGiB);
}

TEST_F(MemorySourceTest, VersionOneWithoutALimitIsNoLimit) {
  put("/proc/self/cgroup", "4:memory:/\n");
  put("/proc/self/mountinfo", "35 31 0:32 / /cg ro - cgroup cgroup rw,memory\n");
  put("/cg/memory.limit_in_bytes", "9223372036854771712\n");
  put("/cg/memory.usage_in_bytes", "4096\n");
  put("/cg/memory.stat", "hierarchical_memory_limit 9223372036854771712\ntotal_inactive_file 0\n");
  MemorySource memory = source();
  EXPECT_EQ(read(memory).limit_bytes, kNoMemoryLimit);
}

#endif

TEST(MemorySource, TellsAboutThisMachine) {
  auto memory = MemorySource::open();
  ASSERT_TRUE(memory) << memory.error().message;
  const auto before = memory->read();
  ASSERT_TRUE(before);
  EXPECT_GT(before->total_bytes, 64 * kMiB);
  EXPECT_GT(before->available_bytes, 0U);
  EXPECT_LE(before->available_bytes, before->total_bytes);
  EXPECT_LE(before->limit_room_bytes, before->limit_bytes);
}

}  // namespace
}  // namespace mlxf::platform
