// What a token of context costs in memory, by family at its real sizes: what sequences hold, against arithmetic from
// the published configurations. docs/measurements/2026-11-families.md has the table.
//
// The shapes are those of `mlx-flash synth`; headers alone are made of them, no weights.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "convert/synth_metadata.h"
#include "convert/synth_plan.h"
#include "formats/gguf_writer.h"
#include "formats/test_bytes.h"
#include "kv/sequence.h"
#include "model/blocks/attention.h"
#include "model/blocks/delta_net.h"
#include "model/blocks/latent_attention.h"
#include "model/families/families.h"
#include "model/memory_plan.h"

namespace mlxf {
namespace {

using convert::ModelShape;

// A model's manifest as if its file lay there.
formats::ModelManifest manifest_of(const ModelShape& shape) {
  const formats::testing::TempFolder folder;
  const std::string path = folder / "header.gguf";
  auto writer = formats::GgufWriter::create(path, convert::synth_metadata(shape, convert::GgufMix::kQ4KM),
                                            {{"nothing", DType::kF32, {1}}});
  EXPECT_TRUE(writer) << writer.error().message;
  const std::vector<uint8_t> number(sizeof(float));
  EXPECT_TRUE(writer->append("nothing", number) && writer->finish());
  auto manifest = formats::open_model(path);
  EXPECT_TRUE(manifest) << manifest.error().message;
  manifest->tensors.clear();
  const std::vector<convert::PlannedTensor> plan = convert::plan_tensors(shape, false);
  manifest->tensors.reserve(plan.size());
  for (const convert::PlannedTensor& tensor : plan)
    manifest->tensors.push_back(
        {.name = tensor.gguf.empty() ? convert::gguf_name(tensor.role, tensor.layer) : tensor.gguf,
         .shape = tensor.shape});
  const auto twice = manifest->tensor_index.build(
      manifest->tensors.size(), [&](size_t i) { return std::string_view(manifest->tensors[i].name); });
  EXPECT_FALSE(twice);
  return std::move(*manifest);
}

std::vector<kv::LayerShape> caches_of(const model::ModelSpec& spec) {
  std::vector<kv::LayerShape> caches;
  caches.reserve(spec.layers.size());
  for (const model::LayerSpec& layer : spec.layers)
    caches.push_back(std::visit([](const auto& mixer) { return model::cache_shape(mixer); }, layer.mixer));
  return caches;
}

uint64_t held_bytes(const std::vector<kv::LayerShape>& caches, uint32_t positions) {
  kv::PagePool pool;
  kv::Sequence sequence(pool, caches, positions);
  EXPECT_TRUE(sequence.fill(positions));
  return sequence.bytes();
}

constexpr uint64_t kHalf = 2;  // Bytes of an f16.
constexpr uint64_t kBoth = 2;  // Keys and values.

// Of `layers` layers, which hold each kind of layer in the model's proportion.
struct Case {
  const char* shape;
  uint32_t layers;
  uint64_t short_token;                         // Bytes that a token adds before any window is full,
  uint64_t long_token;                          // and after.
  uint64_t fixed = 0;                           // Bytes whatever the length.
  uint64_t ring_token = 0, ring_positions = 0;  // What sliding layers keep, of that many positions.
};

void PrintTo(const Case& which, std::ostream* out) { *out << which.shape; }

constexpr uint64_t kDeltaState = (32 * 128 * 128 + 3 * (2 * 16 + 32) * 128) * sizeof(float);

const Case kCases[] = {
    // One row of 512 latents and 64 rotated elements for all 128 heads; as keys and values it were 81,920 bytes.
    {"deepseek-v3", 1, 576 * kHalf, 576 * kHalf},
    // Three delta nets and one attention layer of 2 heads of 256. The nets keep four states.
    {"qwen3-next-80b-a3b", 4, kBoth * 2 * 256 * kHalf, kBoth * 2 * 256 * kHalf, 3 * 4 * kDeltaState},
    {"qwen3.5-35b-a3b", 4, kBoth * 2 * 256 * kHalf, kBoth * 2 * 256 * kHalf, 3 * 4 * kDeltaState},
    // A sliding and a full layer, alike but for the window.
    {"gpt-oss-120b", 2, 2 * kBoth * 8 * 64 * kHalf, kBoth * 8 * 64 * kHalf, 0, kBoth * 8 * 64 * kHalf, 128},
    {"gpt-oss-20b", 2, 2 * kBoth * 8 * 64 * kHalf, kBoth * 8 * 64 * kHalf, 0, kBoth * 8 * 64 * kHalf, 128},
    // Five sliding layers of 8 heads of 256, one full layer of 2 heads of 512.
    {"gemma4-26b-a4b", 6, kBoth*(5 * 8 * 256 + 2 * 512) * kHalf, kBoth * 2 * 512 * kHalf, 0,
     5 * kBoth * 8 * 256 * kHalf, 1024},
    // Likewise, of 2 heads each, and six layers that read those of the first six.
    {"gemma4-e4b", 12, kBoth*(5 * 2 * 256 + 2 * 512) * kHalf, kBoth * 2 * 512 * kHalf, 0,
     5 * kBoth * 2 * 256 * kHalf, 512},
    {"glm-4.5-air", 1, kBoth * 8 * 128 * kHalf, kBoth * 8 * 128 * kHalf},
    // Three layers that see chunks of 8192 and one that sees all. Where a chunk begins the one before is there still,
    // to go back to.
    {"llama4-scout", 4, 4 * kBoth * 8 * 128 * kHalf, kBoth * 8 * 128 * kHalf, 0, 3 * kBoth * 8 * 128 * kHalf,
     8192},
};

class ContextMemoryTest : public testing::TestWithParam<Case> {};

TEST_P(ContextMemoryTest, IsWhatTheArithmeticSays) {
  const Case& c = GetParam();
  const ModelShape whole = *convert::find_shape(c.shape);
  const auto spec = model::make_spec(manifest_of(convert::cut_layers(whole, c.layers)));
  ASSERT_TRUE(spec) << spec.error().message;
  const std::vector<kv::LayerShape> caches = caches_of(*spec);
  constexpr uint32_t kPage = kernels::kPagePositions;
  EXPECT_EQ(held_bytes(caches, kPage), kPage * c.short_token + c.fixed);
  EXPECT_EQ(held_bytes(caches, 2 * kPage), 2 * kPage * c.short_token + c.fixed);
  // Lengths at which chunks of 8192 begin; sequences grow by steps of 512 positions.
  constexpr uint32_t kLong = 16384;
  constexpr uint32_t kLonger = 24576;
  const uint64_t held = held_bytes(caches, kLong);
  EXPECT_EQ(held_bytes(caches, kLonger) - held, (kLonger - kLong) * c.long_token);
  // The window, what going back needs, and the pages at both ends that these only touch.
  const uint64_t rings = held - kLong * c.long_token - c.fixed;
  EXPECT_GE(rings, c.ring_positions * c.ring_token);
  EXPECT_LE(rings, (c.ring_positions + kv::kRollbackPositions + 2 * kPage) * c.ring_token);
  RecordProperty("ring_bytes", std::to_string(rings));
}

// A budget is charged for what is held, not for positions that sliding layers have forgotten; several sequences share
// the positions and have a window each.
TEST_P(ContextMemoryTest, IsWhatABudgetIsChargedFor) {
  const Case& c = GetParam();
  const auto spec =
      model::make_spec(manifest_of(convert::cut_layers(*convert::find_shape(c.shape), c.layers)));
  ASSERT_TRUE(spec) << spec.error().message;
  constexpr uint32_t kContext = 24576;
  constexpr uint32_t kChunk = 512;
  for (const uint32_t sequences : {1u, 3u}) {
    const auto plan = model::plan_memory(
        *spec, {}, {.budget_bytes = uint64_t{1} << 40, .context_tokens = kContext, .sequences = sequences});
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_EQ(plan->chunk_tokens, kChunk);
    // A sequence's rings: what is seen, what going back needs and what is on its way.
    const uint64_t rings =
        c.ring_token * (c.ring_positions + kv::kRollbackPositions + kChunk + 2 * kernels::kPagePositions);
    const uint64_t last_pages =
        sequences > 1 ? sequences * uint64_t{kernels::kPagePositions} * c.long_token : 0;
    EXPECT_LE(plan->kv_bytes, kContext * c.long_token + last_pages + sequences * (c.fixed + rings));
    EXPECT_GE(plan->kv_bytes, sequences * held_bytes(caches_of(*spec), kContext / sequences));
  }
}

// The same by the whole model: each of its layers is one of the kinds above.
TEST_P(ContextMemoryTest, OfTheWholeModelIsThatOfItsLayers) {
  const Case& c = GetParam();
  const ModelShape whole = *convert::find_shape(c.shape);
  const auto spec = model::make_spec(manifest_of(whole));
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->layers.size(), whole.layers);
  // E4B's layers that share are 18 of 42, where a cut has 6 of 12.
  const uint32_t own = whole.layers - whole.kv_shared_layers;
  const uint32_t own_cut = c.layers - convert::cut_layers(whole, c.layers).kv_shared_layers;
  const uint64_t times = own / own_cut;
  EXPECT_EQ(own % own_cut, 0u);
  constexpr uint32_t kPage = kernels::kPagePositions;
  EXPECT_EQ(held_bytes(caches_of(*spec), kPage), times * (kPage * c.short_token + c.fixed));
  RecordProperty("short_token", std::to_string(times * c.short_token));
  RecordProperty("long_token", std::to_string(times * c.long_token));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ContextMemoryTest, testing::ValuesIn(kCases), [](const auto& parameter) {
  std::string name = parameter.param.shape;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
});

}  // namespace
}  // namespace mlxf
