#include "hub/remove.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mlxf::hub {
namespace {

namespace fs = std::filesystem;

CachedModel model_of(const std::string& name, const std::string& variant, Source source) {
  CachedModel model;
  model.name = name;
  model.variant = variant;
  model.source = source;
  model.home = std::string("/cache/") + key_of(source) + "/" + name;
  model.bytes = 7;
  return model;
}

TEST(PlanRemoval, TakesOnlyWhatIsOursOrWasNamedAsHuggingFaces) {
  const std::vector<CachedModel> models = {
      model_of("a/own", "", Source::kOwn), model_of("a/hub", "Q4_0", Source::kHuggingFace),
      model_of("a/hub", "Q8_0", Source::kHuggingFace), model_of("qwen3", "8b", Source::kOllama),
      model_of("a/studio", "", Source::kLmStudio)};
  EXPECT_EQ(plan_removal(models, "a/own")->folder, "/cache/mlx-flash/a/own");
  EXPECT_EQ(plan_removal(models, "own").error().code, ErrorCode::kNotFound);  // Not by its last part.
  const auto hub = plan_removal(models, "hf:a/hub");
  ASSERT_TRUE(hub);
  EXPECT_EQ(hub->bytes, 14u);
  EXPECT_FALSE(plan_removal(models, "hf:a/hub:Q4_0"));
  const auto says = [&](const char* name, const char* remedy) {
    const auto removal = plan_removal(models, name);
    ASSERT_FALSE(removal) << name;
    EXPECT_NE(removal.error().message.find(remedy), std::string::npos) << removal.error().message;
  };
  says("a/hub:Q4_0", "mlx-flash rm hf:a/hub");
  says("qwen3", "ollama rm qwen3:8b");
  says("ollama:qwen3", "ollama rm qwen3:8b");
  says("a/studio", "LM Studio");
  says("a/../b", "..");
}

TEST(RemoveModel, RemovesLinksAndNotWhatTheyLeadTo) {
  const fs::path root = fs::path(testing::TempDir()) / ("mlx-flash-remove-" + std::to_string(getpid()));
  fs::create_directories(root / "org/name/main");
  fs::create_directories(root / "kept");
  std::ofstream(root / "kept/file") << "x";
  std::ofstream(root / "org/name/main/model.gguf") << "x";
  fs::create_symlink(root / "kept", root / "org/name/main/link");
  const Removal removal{"org/name", (root / "org/name/main").string(), 1, 2};
  EXPECT_TRUE(remove_model(removal));
  EXPECT_FALSE(fs::exists(root / "org"));
  EXPECT_TRUE(fs::exists(root / "kept/file"));
  EXPECT_EQ(remove_model(removal).error().code, ErrorCode::kNotFound);
  fs::create_symlink(root / "kept", root / "linked");
  EXPECT_FALSE(remove_model({"linked", (root / "linked").string(), 1, 0}));
  EXPECT_TRUE(fs::exists(root / "kept/file"));
  fs::remove_all(root);
}

}  // namespace
}  // namespace mlxf::hub
