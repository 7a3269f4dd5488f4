#include "plan/forecast.h"

#include <algorithm>
#include <cmath>

#include "plan/disk_time.h"
#include "plan/model_work.h"
#include "storage/storage.h"

namespace mlxf::plan {
namespace {

constexpr const char* kSsd = "ssd";
// Layers are read in pieces, which keeps the queue full.
constexpr storage::QueueOptions kQueue;
constexpr double kLayerDepth = kQueue.depth;
// Reads that are as fast as large ones, nearly, are held back by what holds back large ones.
constexpr double kAllowancePart = 0.9;
// The part of the shorter of reading and computing that has nothing of the longer beside it, in a sweep: fitted by hand
// to four measured prompts of one model, with estimates for what was not measured (docs/measurements/2026-11-plan.md).
constexpr double kSweepAlone = 0.25;

double sum(const std::vector<uint64_t>& values) {
  double total = 0;
  for (const uint64_t value : values) total += static_cast<double>(value);
  return total;
}

struct Experts {
  double records = 0;       // In all layers.
  double per_layer = 0;     // Mean.
  double record_bytes = 0;  // Mean.
};
Experts experts_of(const ForecastInputs& inputs) {
  Experts out;
  for (const uint32_t count : inputs.experts.experts) out.records += count;
  if (out.records == 0) return out;
  out.per_layer = out.records / inputs.experts.layers();
  out.record_bytes = static_cast<double>(inputs.sizes.experts) / out.records;
  return out;
}

// The share of the experts that the cache holds.
double held_share(const ForecastInputs& inputs, const model::Residency& residency) {
  return std::min(
      1.0, static_cast<double>(residency.cache_bytes) / static_cast<double>(inputs.sizes.expert_whole));
}

double expected_hit_rate(const ForecastInputs& inputs, const model::Residency& residency) {
  if (!residency.stream_experts) return 1;
  const double share = held_share(inputs, residency);
  return inputs.trace == nullptr ? share : weights::steady_hit_rate(*inputs.trace, inputs.policy, share);
}

// Of the layers that each pass reads. No more than the ring has slots stay in these.
double streamed_layers(const ForecastInputs& inputs, const model::Residency& residency) {
  double total = 0;
  if (residency.streamed_layers.size() <= model::kRingSlots) return total;
  for (const uint32_t layer : residency.streamed_layers)
    total += static_cast<double>(inputs.sizes.layers[layer]);
  return total;
}

PassWork decode_work(const ForecastInputs& inputs, const Forecast& out) {
  PassWork work;
  work.streamed_dense_bytes = streamed_layers(inputs, out.memory.residency);
  work.dense_bytes =
      static_cast<double>(inputs.sizes.trunk) + sum(inputs.sizes.layers) - work.streamed_dense_bytes;
  work.expert_bytes = static_cast<double>(inputs.sizes.active_experts);
  work.hit_rate = out.hit_rate;
  work.kv_bytes = kv_bytes_read(inputs.spec, inputs.memory.element, inputs.depth);
  const ActiveParameters active = active_parameters(inputs.spec);
  work.active_parameters = static_cast<double>(active.layers + active.head);
  return work;
}

// What the disk moves for each byte of an expert.
double widening(const ForecastInputs& inputs) {
  if (inputs.experts.layers() == 0 || inputs.sizes.expert_read_bytes == 0) return 1;
  return std::max(1.0, static_cast<double>(inputs.sizes.expert_read_bytes) / experts_of(inputs).record_bytes);
}
double reads_per_expert(const ForecastInputs& inputs) {
  return static_cast<double>(std::max<uint64_t>(1, inputs.sizes.expert_reads));
}
// All that one layer misses is asked for at once.
double decode_depth(const ForecastInputs& inputs, double hit_rate) {
  if (inputs.experts.layers() == 0) return kLayerDepth;
  return std::max(1.0, reads_per_expert(inputs) * inputs.experts.top_k * (1 - hit_rate));
}
double block_bytes(const ForecastInputs& inputs) {
  if (inputs.experts.layers() == 0) return double{1 << 22};
  return widening(inputs) * experts_of(inputs).record_bytes / reads_per_expert(inputs);
}

double pieces_of(double block) {
  return std::max(1.0, std::ceil(block / static_cast<double>(kQueue.piece_bytes)));
}

// Seconds of a pass, and what most of them are spent on.
struct Pass {
  double seconds = 0;
  bool reads = false;
};

// Dense layers in turn.
Pass dense_pass(const ForecastInputs& inputs, double compute, double bytes) {
  if (bytes == 0) return {compute, false};
  const double read = bytes / ssd_rate(inputs.ssd, block_bytes(inputs), kLayerDepth);
  return {std::max(compute, read), read > compute};
}

// Layers that each wait for the experts that they miss, of `experts` with a chance of `miss` each.
Pass waiting_pass(const ForecastInputs& inputs, double compute, uint32_t experts, double miss) {
  if (miss <= 0) return {compute, false};
  double reads = reads_per_expert(inputs);
  const double block = block_bytes(inputs);
  const double pieces = pieces_of(block);
  const BatchTime batch(inputs.ssd, block / pieces);
  const double layers = inputs.experts.layers();
  const double wait = layers * batch.expected(experts, miss, reads * pieces);
  const double steady_rate = ssd_rate(inputs.ssd, block, kLayerDepth);
  const double steady = layers * experts * miss * reads * block / steady_rate;
  // Small reads take their time, however much of its allowance a disk has saved up.
  const double largest_rate = ssd_rate(inputs.ssd, static_cast<double>(kBurstBlockBytes), kBurstBlocks);
  const bool allowance_binds = steady_rate > kAllowancePart * largest_rate;
  const double gain = allowance_binds ? std::max(1.0, inputs.ssd_burst_bytes_s / largest_rate) : 1;
  const double burst = wait / gain;
  return {std::max(steady, compute + burst), std::max(burst, steady - compute) > compute};
}

Status forecast_decode(const ForecastInputs& inputs, Forecast& out) {
  const PassWork work = decode_work(inputs, out);
  MachineRates rates = inputs.rates;
  rates.ssd_bytes_s = out.ssd_bytes_s =
      ssd_rate(inputs.ssd, block_bytes(inputs), decode_depth(inputs, out.hit_rate));
  ASSIGN_OR_RETURN(out.limit, limit_tok_s(work, rates));
  // What a token uses is in stored bytes already, the records may be int8.
  const double used = static_cast<double>(inputs.experts.top_k) * inputs.experts.layers();
  const double stored = used > 0 ? work.expert_bytes / used : 0;
  const double wider =
      stored > 0 ? std::max(1.0, static_cast<double>(inputs.sizes.expert_read_bytes) / stored) : 1;
  out.read_bytes_per_token = wider * work.expert_bytes * (1 - work.hit_rate) + work.streamed_dense_bytes;
  const Pass pass = out.memory.residency.stream_experts
                        ? waiting_pass(inputs, inputs.decode_seconds, inputs.experts.top_k, 1 - out.hit_rate)
                        : dense_pass(inputs, inputs.decode_seconds, out.read_bytes_per_token);
  out.decode_tok_s = 1 / pass.seconds;
  out.decode_bound = pass.reads ? kSsd : out.limit.cpu_seconds > out.limit.ram_seconds ? "cpu" : "ram";
  return {};
}

// A prompt's chunk of `tokens` through a cache that others like it went through before. It reads each of the experts
// that it chooses once, those apart that the cache holds. One that chooses nearly all is a sweep: it reads whole
// layers, through the slots of two of them, while the others keep what they hold for the next one
// (weights::RecordCache::begin()). What is read for the next layer is read under the computing of this one, but for a
// part.
Pass chunk_pass(const ForecastInputs& inputs, const model::Residency& residency, double tokens) {
  const double compute = inputs.prompt_seconds * tokens;
  if (!residency.stream_experts) return dense_pass(inputs, compute, streamed_layers(inputs, residency));
  const double held = held_share(inputs, residency);
  const double per_layer = experts_of(inputs).per_layer;
  const double chosen = 1 - std::pow(1 - inputs.experts.top_k / per_layer, tokens);
  const double layers = inputs.experts.layers();
  const double in_turn = std::min(1.0, 2.0 / layers);
  if (chosen < model::WeightStream::kSweepShare || held < in_turn)
    return waiting_pass(inputs, compute, static_cast<uint32_t>(std::lround(per_layer)), chosen * (1 - held));
  const double hits = in_turn < 1 ? (held - in_turn) / (1 - in_turn) : held;
  const double bytes = widening(inputs) * static_cast<double>(inputs.sizes.experts) * (1 - hits);
  const double read = bytes / ssd_rate(inputs.ssd, block_bytes(inputs), kLayerDepth);
  return {std::max(compute, read) + kSweepAlone * std::min(compute, read), read > compute};
}

// All of its chunks.
void forecast_prompt(const ForecastInputs& inputs, Forecast& out) {
  double seconds = 0, reading = 0;
  for (uint32_t left = inputs.prompt_tokens, tokens = 0; left > 0; left -= tokens) {
    tokens = std::min(left, out.memory.chunk_tokens);
    const Pass pass = chunk_pass(inputs, out.memory.residency, tokens);
    seconds += pass.seconds;
    reading += pass.reads ? pass.seconds : 0;
  }
  out.prompt_tok_s = inputs.prompt_tokens / seconds;
  out.prompt_bound = 2 * reading > seconds ? kSsd : "cpu";
}

}  // namespace

double expert_read_bytes(const ForecastInputs& inputs) {
  if (inputs.experts.layers() == 0) return 0;
  const double block = block_bytes(inputs);
  return block / pieces_of(block);
}

Result<Forecast> forecast(const ForecastInputs& inputs, uint64_t budget_bytes) {
  Forecast out;
  model::MemoryRequest request = inputs.memory;
  request.budget_bytes = budget_bytes != 0 ? budget_bytes : UINT64_MAX / 2;
  ASSIGN_OR_RETURN(out.memory, model::plan_memory(inputs.spec, inputs.sizes, request));
  if (out.memory.residency.streams() && inputs.ssd.empty())
    return fail(ErrorCode::kInvalidArgument,
                "this model is streamed, but the disk was not measured: run mlx-flash doctor --file with one "
                "of its files");
  out.hit_rate = expected_hit_rate(inputs, out.memory.residency);
  RETURN_IF_ERROR(forecast_decode(inputs, out));
  if (inputs.prompt_tokens != 0) forecast_prompt(inputs, out);
  return out;
}

}  // namespace mlxf::plan
