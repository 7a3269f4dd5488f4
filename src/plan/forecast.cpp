#include "plan/forecast.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "plan/model_work.h"

namespace mlxf::plan {
namespace {

constexpr const char* kSsd = "ssd";
// Dense layers are read in pieces, which keeps the queue full.
constexpr double kLayerDepth = 16;
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

double streamed_layers(const ForecastInputs& inputs, const model::Residency& residency) {
  double total = 0;
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

// Seconds of a pass that computes for `compute` and reads `bytes`, and what most of them are spent on.
struct Pass {
  double seconds = 0;
  bool reads = false;
};
Pass pass_of(const ForecastInputs& inputs, double compute, double bytes, double reads_at_once) {
  if (bytes == 0) return {compute, false};
  const double block = block_bytes(inputs);
  const double steady_rate = ssd_rate(inputs.ssd, block, reads_at_once);
  const double steady = bytes / steady_rate;
  if (inputs.experts.layers() == 0) return {std::max(compute, steady), steady > compute};
  // Small reads take their time, however much of its allowance a disk has saved up.
  const double largest_rate = ssd_rate(inputs.ssd, static_cast<double>(kBurstBlockBytes), kBurstBlocks);
  const bool allowance_binds = steady_rate > kAllowancePart * largest_rate;
  const double gain = allowance_binds ? std::max(1.0, inputs.ssd_burst_bytes_s / largest_rate) : 1;
  const double burst = steady / gain;
  return {std::max(steady, compute + burst), std::max(burst, steady - compute) > compute};
}

Status forecast_decode(const ForecastInputs& inputs, Forecast& out) {
  const PassWork work = decode_work(inputs, out);
  const double reads_at_once = decode_depth(inputs, out.hit_rate);
  MachineRates rates = inputs.rates;
  rates.ssd_bytes_s = out.ssd_bytes_s = ssd_rate(inputs.ssd, block_bytes(inputs), reads_at_once);
  ASSIGN_OR_RETURN(out.limit, limit_tok_s(work, rates));
  // What a token uses is in stored bytes already, the records may be int8.
  const double used = static_cast<double>(inputs.experts.top_k) * inputs.experts.layers();
  const double stored = used > 0 ? work.expert_bytes / used : 0;
  const double wider =
      stored > 0 ? std::max(1.0, static_cast<double>(inputs.sizes.expert_read_bytes) / stored) : 1;
  out.read_bytes_per_token = wider * work.expert_bytes * (1 - work.hit_rate) + work.streamed_dense_bytes;
  const Pass pass = pass_of(inputs, inputs.decode_seconds, out.read_bytes_per_token, reads_at_once);
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
  if (!residency.stream_experts)
    return pass_of(inputs, compute, streamed_layers(inputs, residency), kLayerDepth);
  const double bytes = widening(inputs) * static_cast<double>(inputs.sizes.experts);
  const double held = held_share(inputs, residency);
  const double chosen = 1 - std::pow(1 - inputs.experts.top_k / experts_of(inputs).per_layer, tokens);
  const double in_turn = std::min(1.0, 2.0 / inputs.experts.layers());
  if (chosen < model::WeightStream::kSweepShare || held < in_turn)
    return pass_of(inputs, compute, bytes * chosen * (1 - held), kLayerDepth);
  const double hits = in_turn < 1 ? (held - in_turn) / (1 - in_turn) : held;
  const double read = bytes * (1 - hits) / ssd_rate(inputs.ssd, block_bytes(inputs), kLayerDepth);
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

// Between the values of `by_depth` (ascending), on a logarithmic scale.
double between(const std::vector<std::pair<double, double>>& points, double at) {
  if (at <= points.front().first) return points.front().second;
  if (at >= points.back().first) return points.back().second;
  size_t i = 1;
  while (points[i].first < at) ++i;
  const auto [x0, y0] = points[i - 1];
  const auto [x1, y1] = points[i];
  return y0 + (y1 - y0) * std::log(at / x0) / std::log(x1 / x0);
}

}  // namespace

double ssd_rate(std::span<const SsdRate> table, double block_bytes, double depth) {
  std::set<uint64_t> blocks;
  for (const SsdRate& row : table) blocks.insert(row.block_bytes);
  std::vector<std::pair<double, double>> by_block;
  for (const uint64_t block : blocks) {
    std::vector<std::pair<double, double>> by_depth;
    for (const SsdRate& row : table)
      if (row.block_bytes == block && row.depth > 0) by_depth.emplace_back(row.depth, row.bytes_s);
    std::sort(by_depth.begin(), by_depth.end());
    if (!by_depth.empty()) by_block.emplace_back(static_cast<double>(block), between(by_depth, depth));
  }
  if (by_block.empty()) return 0;
  const auto [smallest, rate] = by_block.front();
  if (block_bytes >= smallest || by_block.size() < 2) return between(by_block, block_bytes);
  // Each read costs some time of its own: the line through the two smallest blocks.
  const auto [second, second_rate] = by_block[1];
  const double per_byte = (second / second_rate - smallest / rate) / (second - smallest);
  const double seconds = smallest / rate - per_byte * (smallest - block_bytes);
  return std::min(rate, block_bytes / std::max(seconds, block_bytes / rate));
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
