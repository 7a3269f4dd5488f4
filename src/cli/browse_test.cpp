// `browse` as its users see it, with a profile that is stored first by a short measurement.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <thread>

#include "base/json.h"
#include "cli/run_program.h"

namespace mlxf {
namespace {

class Browse : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(cache_);
    ASSERT_EQ(run_as(program_, "doctor --quick 2> /dev/null").code, 0);
  }
  void TearDown() override { std::filesystem::remove_all(cache_); }
  Json models(const std::string& arguments) {
    const Outcome outcome = run_as(program_, "browse --json -t 1 " + arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    auto json = parse_json(outcome.output);
    EXPECT_TRUE(json) << outcome.output;
    return json ? (*json)["models"] : Json::array();
  }

  [[nodiscard]] size_t outlines() const {
    size_t count = 0;
    for (const auto& file : std::filesystem::directory_iterator(cache_))
      count += file.path().filename().string().find(".gguf") != std::string::npos ? 1 : 0;
    return count;
  }

  const std::string cache_ = temporary("browse");
  const std::string program_ =
      "HOME=" + cache_ + " XDG_CACHE_HOME=" + cache_ + " TMPDIR=" + cache_ + " " MLXF_PROGRAM;
};

TEST_F(Browse, SaysWhatFitsAndWhatToExpect) {
  const Json whole = models("--memory-budget none qwen3-8b");
  ASSERT_EQ(whole.size(), 1u);
  const Json& model = whole[0];
  EXPECT_EQ(model["name"], "Qwen/Qwen3-8B-GGUF:Q4_K_M");
  EXPECT_EQ(model["pull"], "mlx-flash pull Qwen/Qwen3-8B-GGUF:Q4_K_M");
  EXPECT_EQ(model["layers"], 36);
  EXPECT_NEAR(model["parameters"].get<double>(), 8.19e9, 0.01e9);
  EXPECT_NEAR(model["file_bytes"].get<double>(), 5.03e9, 0.05e9);
  EXPECT_EQ(model["cached"], false);
  const bool has_room = std::filesystem::space(cache_).available > model["file_bytes"].get<uint64_t>();
  EXPECT_EQ(model["fit"], has_room ? "whole" : "too big for the disk");
  const double speed = model["expected_decode_tok_s"];
  EXPECT_GT(speed, 0);
  const Json streams = models("--memory-budget 2GiB qwen3-8b");
  EXPECT_EQ(streams[0]["fit"], has_room ? "streams" : "too big for the disk");
  EXPECT_GT(streams[0]["read_bytes_per_token"], 2e9);
  EXPECT_GT(streams[0]["expected_decode_tok_s"], 0);
  const Json refused = models("--memory-budget 200MiB qwen3-8b");
  EXPECT_EQ(refused[0]["fit"], has_room ? "too big for the memory budget" : "too big for the disk");
  EXPECT_TRUE(refused[0]["expected_decode_tok_s"].is_null());
  EXPECT_GT(refused[0]["floor_bytes"], uint64_t{200} << 20);
  for (const auto& left : std::filesystem::directory_iterator(cache_))
    EXPECT_NE(left.path().extension(), ".gguf") << "nothing stays behind";
}

// A limit on the size of files stands for a disk that takes no more.
TEST_F(Browse, AModelThatCannotBeLaidOutIsLeftOutAndTheOthersAreShown) {
  const std::string limited = "trap '' XFSZ; ulimit -f 3000000; " + program_;  // 1.5 or 3 GB
  const Outcome outcome = run_as(limited, "browse --json -t 1 --memory-budget none qwen3 2> /dev/null");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  const auto json = parse_json(outcome.output);
  ASSERT_TRUE(json) << outcome.output;
  ASSERT_FALSE((*json)["models"].empty());
  EXPECT_EQ((*json)["models"][0]["title"], "Qwen3 0.6B");
  bool found = false;
  for (const Json& one : (*json)["left_out"]) {
    found = found || one["title"] == "Qwen3 8B";
    EXPECT_NE(one["why"].get<std::string>().find("laying out"), std::string::npos) << one;
  }
  EXPECT_TRUE(found) << outcome.output;
  const Outcome text = run_as(limited, "browse -t 1 --memory-budget none qwen3");
  EXPECT_NE(text.output.find("Qwen3 8B is left out: "), std::string::npos) << text.output;
  const Outcome none = run_as(limited, "browse -t 1 --memory-budget none qwen3-8b");
  EXPECT_EQ(none.code, 1) << none.output;
  EXPECT_NE(none.output.find("laying out Qwen3 8B"), std::string::npos) << none.output;
}

TEST_F(Browse, NothingStaysBehindAfterASignal) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      // The memory budget is none, so that nothing depends on what others take.
      const std::string command =
          "exec env " + program_ + " browse -t 1 --memory-budget none > /dev/null 2>&1";
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    int status = 0;
    bool told = false;
    while (waitpid(child, &status, WNOHANG) == 0) {
      if (told || outlines() == 0) {
        std::this_thread::yield();
        continue;
      }
      told = kill(child, signal) == 0;
    }
    EXPECT_TRUE(told);
    EXPECT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 1);
    EXPECT_EQ(outlines(), 0u);
  }
}

TEST_F(Browse, FiltersByName) {
  const Json mixtures = models("--memory-budget 4GiB a3b");
  ASSERT_GE(mixtures.size(), 3u);
  for (const Json& model : mixtures)
    EXPECT_LT(model["active_parameters"].get<double>(), 0.15 * model["parameters"].get<double>());
  const Outcome text = run_as(program_, "browse -t 1 --memory-budget 4GiB 'QWEN3 0.6'");
  EXPECT_EQ(text.code, 0);
  for (const char* part :
       {"Qwen3 0.6B", "Q4_K_M", "whole", "tok/s", "mlx-flash pull unsloth/Qwen3-0.6B-GGUF:Q4_K_M",
        "expected by plan under a memory budget of 4 GiB"})
    EXPECT_NE(text.output.find(part), std::string::npos) << text.output;
  const Outcome nothing = run_as(program_, "browse no-such-model");
  EXPECT_EQ(nothing.code, 2) << nothing.output;
}

}  // namespace
}  // namespace mlxf
