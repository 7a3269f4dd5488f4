#include "convert/known_models.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "formats/manifest.h"
#include "formats/test_bytes.h"

namespace mlxf::convert {
namespace {

namespace fs = std::filesystem;

TEST(KnownModels, HaveShapesAndNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const KnownModel& model : known_models()) {
    EXPECT_TRUE(find_shape(model.shape)) << model.shape;
    EXPECT_TRUE(names.insert(model.name()).second) << model.name();
  }
  EXPECT_GE(names.size(), 13u);
}

// Lengths of files that are published under these names.
TEST(KnownModels, AreAsLargeAsThePublishedFiles) {
  const std::pair<const char*, double> kPublished[] = {
      {"qwen3-8b", 5.03e9}, {"qwen3-30b-a3b", 18.56e9}, {"llama3-70b", 42.52e9}};
  const formats::testing::TempFolder folder;
  for (const auto& [shape, bytes] : kPublished) {
    SynthOptions options;
    options.shape = *find_shape(shape);
    options.format = SynthFormat::kQ4KM;
    options.out = folder / (std::string(shape) + ".gguf");
    options.outline = true;
    const Status made = synthesise(options, {});
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_NEAR(static_cast<double>(fs::file_size(options.out)), bytes, bytes * 0.01) << shape;
    const auto manifest = formats::open_model(options.out);
    ASSERT_TRUE(manifest) << manifest.error().message;
    EXPECT_EQ(manifest->file_bytes.at(0), fs::file_size(options.out));
  }
}

}  // namespace
}  // namespace mlxf::convert
