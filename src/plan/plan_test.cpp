// The stored profile, what is measured for it, and the advice drawn from it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "plan/hardware_profile.h"
#include "plan/measure.h"
#include "plan/warnings.h"

namespace mlxf::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class TestFolder {
 public:
  TestFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mlxf-plan-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

HardwareProfile sample() {
  HardwareProfile profile;
  profile.machine = {"A Processor", 16, "avx512", "Linux 6.1 x86_64"};
  profile.measured = "2026-11-24T01:02:03Z";
  profile.ram_read_bytes_s = {31.5e9, 180e9};
  profile.fresh_copy_bytes_s = 4.25e9;
  profile.peaks = {{"avx512", "vpdpbusd zmm", {400e9, 6e12}, {100e9, 1.5e12}},
                   {"avx2", "vpmaddubsw", {150e9, 2e12}, {90e9, 1.25e12}}};
  profile.ssd = {{262144, 1, 1.5e9}, {1048576, 16, 6.5e9}};
  profile.ssd_path = "/models/a.gguf";
  profile.ssd_file_bytes = 123456789012;
  profile.ssd_storage = "io_uring, 16 deep";
  return profile;
}

TEST(ProfileTest, SurvivesJson) {
  for (const bool quick : {false, true}) {
    HardwareProfile profile = sample();
    profile.quick = quick;
    profile.ssd_scratch = quick;
    profile.ssd_burst_bytes_s = quick ? 0 : 7e9;
    const auto back = parse_profile(dump_json(to_json(profile)));
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->machine, profile.machine);
    EXPECT_EQ(back->ram_read_bytes_s.all, 180e9);
    EXPECT_EQ(back->peaks.at(1).f32_ops_s.one, 90e9);
    EXPECT_EQ(back->ssd.at(1).depth, 16u);
    EXPECT_EQ(back->ssd_burst_bytes_s, quick ? 0 : 7e9);
    EXPECT_EQ(dump_json(to_json(*back)), dump_json(to_json(profile)));
  }
}

TEST(ProfileTest, EveryFieldIsNeeded) {
  const Json whole = to_json(sample());
  for (const auto& [name, value] : whole.items()) {
    Json less = whole;
    less.erase(name);
    const auto result = parse_profile(dump_json(less));
    ASSERT_FALSE(result) << name;
    EXPECT_EQ(result.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(result.error().message, HasSubstr("\"" + name + "\""));
  }
  for (const char* name : {"cpu", "cores", "isa", "kernel"}) {
    Json less = whole;
    less["machine"].erase(name);
    EXPECT_FALSE(parse_profile(dump_json(less))) << name;
  }
}

TEST(ProfileTest, RefusesWhatIsNotOne) {
  const auto refused = [](const char* name, const Json& value) {
    Json json = to_json(sample());
    json[name] = value;
    const auto result = parse_profile(dump_json(json));
    EXPECT_FALSE(result) << name << " " << value;
    return result ? ErrorCode::kInternal : result.error().code;
  };
  EXPECT_EQ(refused("version", 2), ErrorCode::kUnsupported);
  EXPECT_EQ(refused("version", "1"), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("machine", 3), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("fresh_copy_bytes_s", -1.0), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("fresh_copy_bytes_s", "4 GB/s"), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("ram_read_bytes_s", {{"one", 1.0}}), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("ram_read_bytes_s", {{"one", 1.0}, {"all", -1.0}}), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("peaks", Json::array({1})), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("ssd", Json::array({{{"block_bytes", 1}, {"depth", -1}, {"bytes_s", 1}}})),
            ErrorCode::kCorrupt);
  EXPECT_EQ(refused("ssd", Json::object()), ErrorCode::kCorrupt);
  EXPECT_EQ(refused("ssd_file_bytes", 1.5), ErrorCode::kCorrupt);
  for (const char* text : {"", "[]", "7", "{", "{\"version\":1,\"version\":1}"})
    EXPECT_FALSE(parse_profile(text));
}

TEST(ProfileTest, CountsOnlyOnItsMachine) {
  const TestFolder folder;
  const std::string path = folder / "new/folders/profile.json";
  const HardwareProfile profile = sample();
  EXPECT_EQ(load_profile(path, profile.machine).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(save_profile(profile, path));
  ASSERT_TRUE(save_profile(profile, path));  // Replaces.
  EXPECT_TRUE(load_profile(path, profile.machine));
  for (int field = 0; field < 4; ++field) {
    MachineIdentity other = profile.machine;
    if (field == 0) other.cpu = "B";
    if (field == 1) other.cores = 15;
    if (field == 2) other.isa = "avx2";
    if (field == 3) other.kernel = "Linux 6.2 x86_64";
    const auto result = load_profile(path, other);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kUnavailable);
    EXPECT_THAT(result.error().message, HasSubstr("run mlx-flash doctor"));
  }
  std::ofstream(path, std::ios::trunc) << "{}";
  EXPECT_THAT(load_profile(path, profile.machine).error().message, HasSubstr(path));
}

// Sets or (null) removes an environment variable, and puts it back as it was.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) { value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> before_;
};

TEST(ProfileTest, LiesInTheCacheFolder) {
  const Variable home("HOME", "/here/me");
  {
    const Variable cache("XDG_CACHE_HOME", "/somewhere");
    EXPECT_EQ(profile_path().value_or(""), "/somewhere/mlx-flash/profile.json");
  }
  const Variable cache("XDG_CACHE_HOME", "relative");  // The specification says to ignore it.
  EXPECT_EQ(profile_path().value_or(""), "/here/me/.cache/mlx-flash/profile.json");
  const Variable no_home("HOME", nullptr);
  EXPECT_EQ(profile_path().error().code, ErrorCode::kNotFound);
}

TEST(MeasureTest, RatesArePositive) {
  compute::ThreadPool pool(2);
  const auto memory = ProbeMemory::touch(pool, 8 * kMiB);
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->bytes(), 8 * kMiB);
  EXPECT_GE(memory->huge_page_share(), 0);
  EXPECT_LE(memory->huge_page_share(), 1);
  EXPECT_GT(measure_ram_read(pool, *memory, 0), 0);
  EXPECT_GT(measure_fresh_copy(pool, *memory, 0).value_or(0), 0);
  const auto hurried = ProbeMemory::touch(pool, 192 * kMiB, 0);
  ASSERT_TRUE(hurried);
  EXPECT_EQ(hurried->bytes(), 64 * kMiB);
  EXPECT_GT(measure_peak(pool, kernels::peak_loops("reference").int8, 0), 0);
}

TEST(MeasureTest, ScratchFilesAreReadAndRemoved) {
  const TestFolder folder;
  const std::string path = folder / "deep/scratch.bin";
  {
    const auto scratch = ScratchFile::write(path, 20 * kMiB, 100);
    ASSERT_TRUE(scratch) << scratch.error().message;
    EXPECT_EQ(std::filesystem::file_size(path), 20 * kMiB);
    const SsdOptions options{{64 << 10, 1 << 20}, {1, 2}, 0, 100};
    const auto table = measure_ssd(path, options);
    ASSERT_TRUE(table) << table.error().message;
    EXPECT_EQ(table->file_bytes, 20 * kMiB);
    EXPECT_NE(table->storage, "");
    ASSERT_EQ(table->rates.size(), 4u);
    EXPECT_EQ(table->rates[3].block_bytes, kMiB);
    EXPECT_EQ(table->rates[3].depth, 2u);
    for (const SsdRate& rate : table->rates) EXPECT_GT(rate.bytes_s, 0);
    const auto late = measure_ssd(path, {{1 << 20}, {1}, 0, -1});  // Out of time before the first row.
    ASSERT_TRUE(late);
    EXPECT_THAT(late->rates, IsEmpty());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto cut = ScratchFile::write(path, 1 << 30, 0);  // Out of time after the first piece.
  ASSERT_TRUE(cut);
  EXPECT_EQ(std::filesystem::file_size(path), 4 * kMiB);
  const auto result = measure_ssd(path, {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(result.error().message, HasSubstr("at least 64 MiB"));
}

platform::MemoryReading memory_with(uint64_t available) {
  platform::MemoryReading memory;
  memory.total_bytes = 100;
  memory.available_bytes = available;
  return memory;
}

std::vector<std::string> advice(const Measurement& now, const std::string& huge_pages = "madvise",
                                uint64_t available = 50, const std::optional<HardwareProfile>& earlier = {}) {
  return warnings({now, memory_with(available), huge_pages, 1.0, earlier});
}

TEST(WarningsTest, AGoodMachineGetsNone) {
  const Measurement good{sample(), 1.0, true, ""};
  EXPECT_THAT(advice(good), IsEmpty());
  EXPECT_THAT(advice(good, "madvise", 50, sample()), IsEmpty());
}

TEST(WarningsTest, EachTroubleIsNamed) {
  const Measurement good{sample(), 1.0, true, ""};
  EXPECT_THAT(advice(good, "never"), ElementsAre(HasSubstr("huge pages are off")));
  EXPECT_THAT(advice(good, "madvise", 9), ElementsAre(HasSubstr("only 9 % of the memory is available")));
  platform::MemoryReading limited = memory_with(50);
  limited.limit_bytes = 60;
  limited.limit_room_bytes = 3;
  EXPECT_THAT(warnings({good, limited, "madvise", 1.0, {}}),
              ElementsAre(HasSubstr("only 5 % of the memory")));
  EXPECT_THAT(warnings({good, {}, "madvise", 9.25, {}}),
              ElementsAre(HasSubstr("load average 9.2 on 16 cores")));
  Measurement now = good;
  now.huge_page_share = 0.5;
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("only 50 % of the memory asked for")));
  now = good;
  now.profile.machine.isa = "avx2";
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("unset MLXF_ISA")));
  now.profile.machine.isa = "reference";
  now.profile.peaks = {{"reference", "portable", {}, {}}};
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("no AVX2")));
  now = good;
  now.profile.ssd_storage = "pread, 16 threads (io_uring is not permitted)";
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("do not use io_uring: pread, 16 threads (io_uring is not")));
  now = good;
  now.ssd_direct = false;
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("/models/a.gguf refuses direct reads")));
  now = good;
  now.profile.ssd = {{262144, 16, 0.5e9}};
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("reads at most 0.5 GB/s")));
  now.ssd_failure = "no space";
  EXPECT_THAT(advice(now), ElementsAre(HasSubstr("not measured: no space")));
  HardwareProfile faster = sample();
  faster.ram_read_bytes_s.all *= 2;
  EXPECT_THAT(advice(good, "madvise", 50, faster), ElementsAre(HasSubstr("it was 360.0 GB/s on 2026-11-24")));
}

}  // namespace
}  // namespace mlxf::plan
