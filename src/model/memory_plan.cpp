#include "model/memory_plan.h"

#include "kernels/kernel_table.h"
#include "model/forward.h"

namespace mlxf::model {
namespace {

// A prompt's chunk: products are at full speed from a few hundred rows on.
constexpr uint32_t kChunkTokens = 512;
// Streamed weights are read once per chunk, so long chunks pay as far as their scratch memory stays a small part of the
// budget.
constexpr uint32_t kChunkTokensMax = 4096;
constexpr uint32_t kChunkTokensMin = 16;
constexpr uint64_t kScratchPart = 12;
// Resident weights end somewhere in a huge page.
constexpr uint64_t kArenaRounding = uint64_t{2} << 20;

// What is held at most on the way to that many positions, in the pages in which it grows.
uint64_t cache_bytes_max(const ModelSpec& spec, kv::Element element, uint32_t positions, uint32_t chunk) {
  std::vector<kv::LayerShape> shapes;
  shapes.reserve(spec.layers.size());
  for (const LayerSpec& layer : spec.layers)
    shapes.push_back(std::visit([](const auto& mixer) { return cache_shape(mixer); }, layer.mixer));
  return kv::Sequence::bytes_max(shapes, element, positions, chunk);
}

MemoryPlan with_chunk(const ModelSpec& spec, const MemoryRequest& request, uint32_t chunk) {
  MemoryPlan plan;
  plan.chunk_tokens = chunk;
  plan.held_bytes = request.held_bytes;
  // Equal shares take the most: whatever does not grow without end, each sequence has. But for pages that are not full.
  const uint64_t more = request.sequences > 1 ? request.sequences * uint64_t{kernels::kPagePositions} - 1 : 0;
  const auto share = static_cast<uint32_t>((request.context_tokens + more) / request.sequences);
  plan.kv_bytes = request.sequences * cache_bytes_max(spec, request.element, share, chunk);
  plan.scratch_bytes = Forward::scratch_bytes(spec, chunk, request.threads);
  plan.other_bytes = unseen_bytes(spec, request.sequences) + kArenaRounding;
  return plan;
}

}  // namespace

uint64_t cache_bytes(const ModelSpec& spec, kv::Element element, uint64_t positions) {
  uint64_t total = 0;
  for (const LayerSpec& layer : spec.layers) {
    const kv::LayerShape kept = std::visit([](const auto& mixer) { return cache_shape(mixer); }, layer.mixer);
    total += std::visit([&](const auto& shape) { return shape.bytes(positions, element); }, kept);
  }
  return total;
}

uint64_t unseen_bytes(const ModelSpec& spec, uint32_t sequences) {
  return uint64_t{sequences} * spec.vocab * 32 + (uint64_t{2} << 20);
}

Result<MemoryPlan> plan_memory(const ModelSpec& spec, const WeightSizes& sizes,
                               const MemoryRequest& request) {
  const uint64_t budget = request.budget_bytes;
  MemoryPlan plan = with_chunk(spec, request, kChunkTokens);
  if (plan.besides_weights() > budget || sizes.total() > budget - plan.besides_weights()) {
    uint32_t chunk = 2 * kChunkTokensMax;
    do {
      chunk /= 2;
      plan = with_chunk(spec, request, chunk);
    } while (chunk > kChunkTokensMin &&
             (plan.scratch_bytes > budget / kScratchPart || plan.besides_weights() + sizes.floor() > budget));
  }
  const uint64_t besides = plan.besides_weights();
  ASSIGN_OR_RETURN(plan.residency, plan_residency(sizes, budget > besides ? budget - besides : 0, besides));
  return plan;
}

uint64_t floor_budget(const ModelSpec& spec, const WeightSizes& sizes, const MemoryRequest& request) {
  return with_chunk(spec, request, kChunkTokensMin).besides_weights() + sizes.floor();
}

uint64_t resident_budget(const ModelSpec& spec, const WeightSizes& sizes, const MemoryRequest& request) {
  return with_chunk(spec, request, kChunkTokens).besides_weights() + sizes.total();
}

}  // namespace mlxf::model
