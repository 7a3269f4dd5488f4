// Packed models against the ones that they were made from: one aligned extent per expert, the same bits out, damage
// found, interrupted runs continued, nothing overwritten.
#include "convert/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "compute/cpu.h"
#include "model/families/families.h"
#include "model/model.h"
#include "weights/record.h"

namespace mlxf::convert {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kData = MLXF_SOURCE_DIR "/tests/data/";

class PackTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("mlxf-pack-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] std::string out() const { return (folder_ / "packed").string(); }

  fs::path folder_;
};

formats::ModelManifest opened(const std::string& path) {
  auto manifest = formats::open_model(path);
  EXPECT_TRUE(manifest) << manifest.error().message;
  return std::move(*manifest);
}

std::vector<float> logits_of(const std::string& path) {
  const formats::ModelManifest manifest = opened(path);
  compute::ThreadPool pool(2);
  compute::Cpu cpu(kernels::select_kernels(), pool, {.arithmetic = compute::Arithmetic::kInt8});
  const auto model = model::Model::load(manifest, cpu, {});
  EXPECT_TRUE(model) << model.error().message;
  std::vector<TokenId> ids;
  ids.reserve(40);
  for (int i = 0; i < 40; ++i) ids.push_back(i * 7 % 200);
  std::vector<float> logits(ids.size() * (*model)->spec().vocab);
  const auto sequence = (*model)->make_sequence(64);
  const model::Chunk chunk{sequence.get(), ids, true};
  EXPECT_TRUE((*model)->forward({&chunk, 1}, logits.data()));
  return logits;
}

TEST_P(PackTest, GivesTheSameBitsFromOneExtentPerExpert) {
  const std::string source = kData + GetParam();
  const auto report = pack(opened(source), out(), {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_LT(report->plan.read_bytes_after, report->plan.read_bytes_before);
  const formats::ModelManifest packed = opened(out());
  const auto spec = model::make_spec(packed);
  ASSERT_TRUE(spec) << spec.error().message;
  uint64_t experts = 0;
  for (const model::LayerSpec& layer : spec->layers)
    if (const auto* moe = std::get_if<model::MoeSpec>(&layer.ffn))
      for (const model::ExpertSource& expert : moe->experts) {
        std::vector<weights::RecordSlice> slices;
        for (const model::MatrixSource* matrix : {&expert.gate, &expert.up, &expert.down})
          slices.push_back({weights::find_matrix(packed, matrix->name).value(), 0, matrix->rows});
        const weights::Record record = weights::make_record(slices);
        ASSERT_EQ(record.extents.size(), 1u) << expert.gate.name;
        EXPECT_EQ(record.extents[0].offset % kPackAlignment, 0u) << expert.gate.name;
        ++experts;
      }
  EXPECT_EQ(experts, report->plan.experts);
  EXPECT_EQ(logits_of(out()), logits_of(source));
  const auto verified = verify_pack(out(), {});
  ASSERT_TRUE(verified) << verified.error().message;
  EXPECT_GT(verified->extents, experts);
  EXPECT_FALSE(fs::exists(out() + ".packing"));
}

INSTANTIATE_TEST_SUITE_P(Models, PackTest,
                         testing::Values("oracles/qwen3_moe", "oracles/mixtral", "oracles/qwen2_moe",
                                         "oracles/olmoe", "oracles/gemma4-moe", "oracles/glm4_moe",
                                         "oracles/minimax_m2", "reference/mlx-qwen3_moe-q4",
                                         "reference/mlx-mixtral-q4", "reference/mlx-qwen3_moe-mixed-3-6"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           for (char& c : name)
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           return name;
                         });

TEST_F(PackTest, RefusesWhatItCannotPackAndNeverOverwrites) {
  EXPECT_THAT(pack(opened(kData + "reference/llamacpp-qwen3_moe/model.gguf"), out(), {}).error().message,
              HasSubstr("GGUF"));
  EXPECT_THAT(pack(opened(kData + "oracles/llama"), out(), {}).error().message, HasSubstr("nothing to pack"));
  for (const char* transposed : {"oracles/gpt_oss", "oracles/llama4"})
    EXPECT_THAT(pack(opened(kData + transposed), out(), {}).error().message,
                HasSubstr("experts.gate_up_proj: experts stored [in, out]"));
  EXPECT_FALSE(fs::exists(out()));
  const formats::ModelManifest source = opened(kData + "oracles/qwen3_moe");
  fs::create_directories(out());
  EXPECT_THAT(pack(source, out(), {}).error().message, HasSubstr("exists already"));
  fs::remove(out());
  ASSERT_TRUE(pack(source, out(), {}));
  EXPECT_THAT(pack(opened(out()), out() + "2", {}).error().message, HasSubstr("packed already"));
}

TEST_F(PackTest, GoesOnWhereItWasInterrupted) {
  const formats::ModelManifest source = opened(kData + "reference/mlx-qwen3_moe-q4");
  ASSERT_TRUE(pack(source, out(), {}));
  std::vector<std::string> whole;
  for (const auto& entry : fs::directory_iterator(out())) whole.push_back(entry.path().filename());
  fs::remove_all(out());
  // A name that a file of the pack must have is taken by a folder: the run ends there.
  const auto plan = plan_pack(source);
  ASSERT_TRUE(plan);
  ASSERT_GE(plan->files.size(), 3u);
  const fs::path obstacle = fs::path(out() + ".packing") / plan->files.back().name;
  fs::create_directories(obstacle / "x");
  ASSERT_FALSE(pack(source, out(), {}));
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_THAT(pack(opened(kData + "oracles/qwen3_moe"), out(), {}).error().message,
              HasSubstr("unfinished pack of another model"));
  fs::remove_all(obstacle);
  uint64_t last = 0;
  const auto report = pack(source, out(), [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    EXPECT_EQ(total, plan->bytes);
    last = done;
  });
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(last, plan->bytes);
  EXPECT_EQ(report->files_kept, plan->files.size() - 1);
  EXPECT_TRUE(verify_pack(out(), {}));
  std::vector<std::string> again;
  for (const auto& entry : fs::directory_iterator(out())) again.push_back(entry.path().filename());
  EXPECT_THAT(again, testing::UnorderedElementsAreArray(whole));
}

TEST_F(PackTest, VerifyNamesWhatIsDamaged) {
  const formats::ModelManifest source = opened(kData + "reference/mlx-qwen3_moe-q4");
  const auto report = pack(source, out(), {});
  ASSERT_TRUE(report);
  const fs::path file = fs::path(out()) / report->plan.files.back().name;
  const uint64_t bytes = fs::file_size(file);
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(bytes - report->plan.files.back().bytes + 5))
      .put('\x5a');
  const auto verified = verify_pack(out(), {});
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(verified.error().message, HasSubstr("expert 0"));
  EXPECT_THAT(verified.error().message, HasSubstr(file.string()));
  std::ofstream(fs::path(out()) / "packed.json") << "{\"version\": 2}";
  EXPECT_THAT(verify_pack(out(), {}).error().message, HasSubstr("packed.json"));
  EXPECT_FALSE(verify_pack(kData, {}));
}

}  // namespace
}  // namespace mlxf::convert
