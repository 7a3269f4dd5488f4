// Naming, listing and removing models, through the program itself and caches made for the purpose.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/json.h"
#include "cli/run_program.h"

namespace mlxf {
namespace {

namespace fs = std::filesystem;

const std::string kBundled = MLXF_SOURCE_DIR "/models/classics-moe-4bit";

// A home of its own, with nothing in it.
class Models : public testing::Test {
 protected:
  Models() : home_(temporary("home")) {
    fs::remove_all(home_);
    fs::create_directories(home_);
  }
  ~Models() override { fs::remove_all(home_); }

  Outcome run(const std::string& arguments, const std::string& input = "/dev/null") {
    return run_as(
        "env -u HF_HOME -u HF_HUB_CACHE -u OLLAMA_MODELS -u MLX_FLASH_MODELS -u XDG_CACHE_HOME HOME=" +
            home_ + " " MLXF_PROGRAM,
        arguments + " < " + input);
  }
  void copy_bundled(const std::string& folder) {
    fs::create_directories((home_ / fs::path(folder)).parent_path());
    fs::copy(kBundled, home_ / fs::path(folder), fs::copy_options::recursive);
  }

  const std::string home_;
  const std::string own_ = ".cache/mlx-flash/models/";
};

TEST_F(Models, AreFoundByNameInEveryCommand) {
  copy_bundled(own_ + "classics/moe/main");
  copy_bundled(".cache/huggingface/hub/models--other--thing/snapshots/abc");
  for (const char* command : {"tokenize -m classics/moe hello", "tokenize -m moe hello", "inspect thing",
                              "tokenize -m hf:other/thing hello", "run -m moe -p The -n 2 --temp 0"})
    EXPECT_EQ(run(command).code, 0) << command << ": " << run(command).output;
  const Outcome missing = run("run -m org/none -p x");
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.output.find("mlx-flash pull org/none"), std::string::npos) << missing.output;
  EXPECT_EQ(std::count(missing.output.begin(), missing.output.end(), '\n'), 1) << missing.output;
  EXPECT_EQ(run("run -m 'a/../../b' -p x").code, 2);
  copy_bundled(own_ + "another/thing/main");
  const Outcome ambiguous = run("inspect thing");
  EXPECT_EQ(ambiguous.code, 2);
  EXPECT_NE(ambiguous.output.find("another/thing, other/thing"), std::string::npos) << ambiguous.output;
}

TEST_F(Models, WithoutOneTheLargestThatStaysInMemoryIsUsedElseTheBundledOne) {
  const Outcome bundled = run("tokenize hello");
  EXPECT_EQ(bundled.code, 0);
  EXPECT_NE(bundled.output.find("using the bundled model"), std::string::npos) << bundled.output;
  copy_bundled(own_ + "classics/moe/main");
  const Outcome cached = run("run -p The -n 1 --memory-budget none");
  EXPECT_EQ(cached.code, 0) << cached.output;
  EXPECT_NE(cached.output.find("using classics/moe,"), std::string::npos) << cached.output;
#if !defined(__SANITIZE_ADDRESS__)
  // Its weights alone are more than that.
  const Outcome small = run("plan --memory-budget 16MiB");
  EXPECT_NE(small.output.find("using the bundled model"), std::string::npos) << small.output;
#endif
}

TEST_F(Models, AreListedBrokenOnesToo) {
  EXPECT_NE(run("list").output.find("mlx-flash pull"), std::string::npos);
  copy_bundled(own_ + "classics/moe/main");
  fs::create_directories(home_ + "/.lmstudio/models/pub/bad");
  std::ofstream(home_ + "/.lmstudio/models/pub/bad/bad-Q4_0.gguf") << "no such thing";
  const Outcome table = run("list");
  EXPECT_EQ(table.code, 0);
  EXPECT_NE(table.output.find("classics/moe"), std::string::npos);
  EXPECT_NE(table.output.find("broken: \"bad-Q4_0.gguf\" is not a GGUF file"), std::string::npos)
      << table.output;
  const auto rows = parse_json(run("list --json").output);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0]["name"], "classics/moe");
  EXPECT_EQ((*rows)[0]["source"], "mlx-flash");
  EXPECT_GT((*rows)[0]["bytes"], 1'000'000);
  EXPECT_TRUE((*rows)[0]["fault"].is_null());
  EXPECT_EQ((*rows)[1]["source"], "lmstudio");
  EXPECT_TRUE((*rows)[1]["fault"].is_string());
}

TEST_F(Models, AreRemovedAfterAQuestion) {
  copy_bundled(own_ + "classics/moe/main");
  copy_bundled(".cache/huggingface/hub/models--other--thing/snapshots/abc");
  const std::string model = home_ + "/" + own_ + "classics/moe/main";
  EXPECT_EQ(run("rm classics/moe").code, 1);  // No answer is no.
  EXPECT_TRUE(fs::exists(model));
  EXPECT_EQ(run("rm other/thing --yes").code, 2);
  EXPECT_EQ(run("rm nothing --yes").code, 1);
  const std::string yes = home_ + "/yes";
  std::ofstream(yes) << "y\n";
  EXPECT_EQ(run("rm classics/moe", yes).code, 0);
  EXPECT_FALSE(fs::exists(home_ + "/" + own_ + "classics"));
  EXPECT_EQ(run("rm hf:other/thing --yes").code, 0);
  EXPECT_FALSE(fs::exists(home_ + "/.cache/huggingface/hub/models--other--thing"));
}

}  // namespace
}  // namespace mlxf
