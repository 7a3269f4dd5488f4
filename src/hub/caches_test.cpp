#include "hub/caches.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "hub/model_name.h"
#include "hub/ollama_manifest.h"

namespace mlxf::hub {
namespace {

namespace fs = std::filesystem;

class Caches : public testing::Test {
 protected:
  Caches() : root_(fs::path(testing::TempDir()) / ("mlx-flash-caches-" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~Caches() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << text;
  }
  void link(const std::string& target, const std::string& path) {
    fs::create_directories((root_ / path).parent_path());
    fs::create_symlink(target, root_ / path);
  }
  std::vector<CachedModel> find(Source source, const std::string& folder) {
    return find_models({{source, (root_ / folder).string()}});
  }

  fs::path root_;
  const std::string gguf_ = std::string("GGUF\3\0\0\0", 8) + std::string(92, 'x');
  const std::string safetensors_ = std::string("\2\0\0\0\0\0\0\0{}", 10);
  const std::string digest_ = std::string(64, 'a');
};

TEST_F(Caches, HuggingFaceIsReadThroughItsLinksAndNoFurther) {
  const std::string good = "hub/models--org--good/", snapshot = good + "snapshots/abc/";
  write(good + "refs/main", "abc");
  write(good + "blobs/one", safetensors_);
  write(good + "blobs/two", "{}");
  link("../../blobs/one", snapshot + "model.safetensors");
  link("../../blobs/two", snapshot + "config.json");
  write(good + "snapshots/zzz/config.json", "{}");  // Another revision.
  write("secret.gguf", gguf_);
  link("../../../../secret.gguf", "hub/models--org--out/snapshots/abc/model-Q4_0.gguf");
  link("../../blobs/none", "hub/models--org--lost/snapshots/abc/model-Q4_0.gguf");
  write("hub/models--org--half/snapshots/abc/config.json", "{}");
  write("hub/models--org--half/snapshots/abc/model-00001-of-00002.safetensors", safetensors_);
  write("hub/models--org--pickle/snapshots/abc/config.json", "{}");
  write("hub/models--org--pickle/snapshots/abc/pytorch_model.bin", "x");
  write("hub/datasets--org--data/snapshots/abc/config.json", "{}");
  const std::vector<CachedModel> models = find(Source::kHuggingFace, "hub");
  ASSERT_EQ(models.size(), 5u);
  EXPECT_EQ(models[0].name, "org/good");
  EXPECT_EQ(models[0].fault, "");
  EXPECT_EQ(models[0].bytes, 10u);
  EXPECT_EQ(models[0].path, fs::canonical(root_ / snapshot).string());
  EXPECT_EQ(models[1].fault, "1 of its 2 files are there");
  EXPECT_NE(models[2].fault.find("missing"), std::string::npos);
  EXPECT_NE(models[3].fault.find("leads out of the cache"), std::string::npos);
  EXPECT_EQ(models[3].bytes, 0u);
  EXPECT_NE(models[4].fault.find("pickles"), std::string::npos);
}

TEST_F(Caches, GgufFilesAreModelsAndSplitOnesAreOne) {
  const std::string folder = "models/org/name/";
  write(folder + "name-Q4_K_M.gguf", gguf_);
  write(folder + "name-Q8_0-00001-of-00002.gguf", gguf_);
  write(folder + "name-Q8_0-00002-of-00002.gguf", gguf_);
  write(folder + "name-BF16-00001-of-00003.gguf", gguf_);
  write(folder + "mmproj-F16.gguf", gguf_);
  write("models/org/other/other.gguf", "<html>not found</html>");
  const std::vector<CachedModel> models = find(Source::kLmStudio, "models");
  ASSERT_EQ(models.size(), 4u);
  EXPECT_EQ(models[0].title(), "org/name:BF16");
  EXPECT_EQ(models[0].fault, "1 of its 3 files are there");
  EXPECT_EQ(models[1].title(), "org/name:Q4_K_M");
  EXPECT_EQ(models[2].title(), "org/name:Q8_0");
  EXPECT_EQ(models[2].bytes, 200u);
  EXPECT_EQ(models[2].fault, "");
  EXPECT_NE(models[3].fault.find("not a GGUF file"), std::string::npos);
}

TEST_F(Caches, OllamaIsReadByItsManifests) {
  const auto manifest = [&](const std::string& size) {
    return R"({"layers": [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:1", "size": 1},)"
           R"({"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:)" +
           digest_ + "\", \"size\": " + size + "}]}";
  };
  write("o/blobs/sha256-" + digest_, gguf_);
  write("o/manifests/registry.ollama.ai/library/qwen3/latest", manifest("100"));
  write("o/manifests/registry.ollama.ai/library/qwen3/8b", manifest("99"));
  write("o/manifests/registry.ollama.ai/me/mine/q4", manifest("100"));
  write("o/manifests/hf.co/org/name/Q4_K_M", manifest("100"));
  write("o/manifests/registry.ollama.ai/library/bad/latest", "{");
  const std::vector<CachedModel> models = find(Source::kOllama, "o");
  ASSERT_EQ(models.size(), 5u);
  EXPECT_FALSE(models[0].fault.empty());
  EXPECT_EQ(models[1].title(), "hf.co/org/name:Q4_K_M");
  EXPECT_EQ(models[2].title(), "me/mine:q4");
  EXPECT_EQ(models[3].fault, "its file has 100 bytes, not 99");
  EXPECT_EQ(models[4].title(), "qwen3:latest");
  EXPECT_EQ(models[4].fault, "");
  EXPECT_EQ(find_model(models, "qwen3")->title(), "qwen3:latest");
  EXPECT_EQ(find_model(models, "hf.co/org/name")->title(), "hf.co/org/name:Q4_K_M");
}

TEST_F(Caches, OwnFoldersCarryRevisionAndQuantisation) {
  write("own/org/name/main/config.json", "{}");
  write("own/org/name/main/model.safetensors", safetensors_);
  write("own/org/name/v2~Q4_0/x-Q4_0.gguf", gguf_);
  write("own/.partial/org--name/x-Q4_0.gguf", gguf_);
  const std::vector<CachedModel> models = find(Source::kOwn, "own");
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].title(), "org/name");
  EXPECT_EQ(models[1].title(), "org/name:Q4_0@v2");
  EXPECT_EQ(find_model(models, "org/name:q4_0@v2")->path, models[1].path);
  EXPECT_EQ(find_model(models, "name")->path, models[0].path);
}

TEST_F(Caches, FoldersThatAreLinksOrAbsentAreNotFollowed) {
  write("elsewhere/name/model-Q4_0.gguf", gguf_);
  link("../elsewhere", "models/org");
  EXPECT_TRUE(find(Source::kLmStudio, "models").empty());
  EXPECT_TRUE(find(Source::kOllama, "nowhere").empty());
}

CachedModel model_of(const std::string& name, const std::string& variant, Source source = Source::kOwn) {
  CachedModel model;
  model.name = name;
  model.variant = variant;
  model.source = source;
  model.path = name + variant + key_of(source);
  return model;
}

TEST(FindModel, TakesWholeNamesThenLastPartsAndNeverGuesses) {
  const std::vector<CachedModel> models = {model_of("a/one", ""),
                                           model_of("b/one", "Q4_0"),
                                           model_of("b/two", "Q4_0"),
                                           model_of("b/two", "Q8_0"),
                                           model_of("c/three", "", Source::kHuggingFace),
                                           model_of("c/three", "")};
  EXPECT_EQ(find_model(models, "a/one")->path, "a/onemlx-flash");
  EXPECT_EQ(find_model(models, "two:q8_0")->variant, "Q8_0");
  EXPECT_EQ(find_model(models, "three")->source, Source::kOwn);
  EXPECT_EQ(find_model(models, "hf:three")->source, Source::kHuggingFace);
  const auto ambiguous = find_model(models, "one");
  ASSERT_FALSE(ambiguous);
  EXPECT_EQ(ambiguous.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(ambiguous.error().message.find("a/one, b/one:Q4_0"), std::string::npos);
  EXPECT_FALSE(find_model(models, "b/two"));
  EXPECT_EQ(find_model(models, "four").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(find_model(models, "a/one@v2").error().code, ErrorCode::kNotFound);
}

TEST(FindModel, ABrokenModelIsAnErrorThatSaysWhy) {
  CachedModel broken = model_of("a/one", "");
  broken.fault = "has no weights";
  const auto found = find_model({broken}, "a/one");
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().message.find("has no weights"), std::string::npos);
  EXPECT_TRUE(find_model({broken}, "a/one", true));
}

TEST(ModelNames, ThatCouldLeadOutOfAFolderAreRefused) {
  for (const char* name :
       {"", "..", "a/..", "../a", "a/../b", "/etc/passwd", "a//b", "a/b/c/d", "a\\b", "a b", "a/b:", "a/b:..",
        "a/b@../x", ".hidden/a", "-rf/a", "a/b:c:d", "a%2e%2e", "a\x01"})
    EXPECT_FALSE(parse_model_name(name)) << name;
  EXPECT_FALSE(parse_model_name(std::string("a\0b", 3)));
  EXPECT_FALSE(parse_model_name(std::string(97, 'a')));
  const auto name = parse_model_name("hf:org/Name-1.5_x:Q4_K_M@v1.0");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->source, "hf");
  EXPECT_EQ(name->name, "org/Name-1.5_x");
  EXPECT_EQ(name->variant, "Q4_K_M");
  EXPECT_EQ(name->revision, "v1.0");
}

TEST(FilePaths, ThatCouldLeadOutOfAFolderAreRefused) {
  for (const char* path : {"", "/x", "../x", "a/../x", "a//x", "a/./x", "a/", "a\\x", "a\nx"})
    EXPECT_NE(file_path_fault(path), nullptr) << path;
  EXPECT_NE(file_path_fault(std::string("a\0x", 3)), nullptr);
  EXPECT_NE(file_path_fault(std::string(256, 'a')), nullptr);
  for (const char* path : {"model.safetensors", "Q4_K_M/model-00001-of-00002.gguf", "a..b", ".gitattributes"})
    EXPECT_EQ(file_path_fault(path), nullptr) << path;
}

TEST(Quantisations, AreReadFromFileNames) {
  EXPECT_EQ(quantisation_of("gemma-3-270m-q4_k_m.gguf"), "Q4_K_M");
  EXPECT_EQ(quantisation_of("Qwen3-8B-Q8_0-00001-of-00002.gguf"), "Q8_0");
  EXPECT_EQ(quantisation_of("Qwen3-8B-UD-Q4_K_XL.gguf"), "UD-Q4_K_XL");
  EXPECT_EQ(quantisation_of("llama.IQ4_XS.gguf"), "IQ4_XS");
  EXPECT_EQ(quantisation_of("x-BF16.gguf"), "BF16");
  EXPECT_EQ(quantisation_of("gpt-oss-20b-mxfp4.gguf"), "MXFP4");
  EXPECT_EQ(quantisation_of("Qwen3-8B.gguf"), "");
}

TEST(OllamaManifest, ThatMakesNoSenseIsRefused) {
  const auto layer = [](const std::string& digest, const std::string& size) {
    return R"({"mediaType": "application/vnd.ollama.image.model", "digest": ")" + digest + R"(", "size": )" +
           size + "}";
  };
  const std::string good = "sha256:" + std::string(64, '0');
  EXPECT_EQ(parse_ollama_manifest("{\"layers\": [" + layer(good, "7") + "]}")->bytes, 7u);
  for (const std::string& layers :
       {layer("sha256:../../etc/passwd", "7"), layer(good, "-1"), layer(good + "0", "7"), layer("", "7"),
        layer("sha256:" + std::string(64, 'G'), "7"), layer(good, "7") + "," + layer(good, "7"),
        std::string()})
    EXPECT_FALSE(parse_ollama_manifest("{\"layers\": [" + layers + "]}")) << layers;
  for (const char* text : {"", "[]", "{}", "{\"layers\": {}}", "{\"layers\": [1, null]}"})
    EXPECT_FALSE(parse_ollama_manifest(text)) << text;
}

}  // namespace
}  // namespace mlxf::hub
