#include "model/blocks/delta_net.h"

#include <algorithm>
#include <cmath>

namespace mlxf::model {
namespace {

using compute::MatmulJob;

// Of the squared length of q and k, as in the reference implementation.
constexpr float kLengthEps = 1e-6f;
// Channels that one chunk of work convolves: a row in decoding is shared by the threads.
constexpr uint32_t kConvPiece = 2048;

float softplus(float value) { return value > 20.0f ? value : std::log1p(std::exp(value)); }
float sigmoid(float value) { return 1.0f / (1.0f + std::exp(-value)); }

// The inputs of the last taps - 1 positions, oldest first, behind the heads' matrices.
uint64_t tail_offset(const DeltaNetSpec& spec) { return spec.value_heads * spec.head_state_floats(); }

uint32_t inputs_width(const DeltaNetSpec& spec) {
  return spec.channels() + (spec.inputs_by_key_head ? spec.value_width() : 0);
}

// One row ordered by key head, into that of the other order.
void split_by_key_head(const DeltaNetSpec& spec, const float* row, float* inputs, float* z) {
  const uint32_t values = spec.heads_per_key() * spec.value_dim;
  for (uint32_t h = 0; h < spec.key_heads; ++h) {
    std::copy_n(row, spec.key_dim, inputs + h * spec.key_dim);
    std::copy_n(row + spec.key_dim, spec.key_dim, inputs + spec.key_width() + h * spec.key_dim);
    row += 2 * spec.key_dim;
    std::copy_n(row, values, inputs + 2 * spec.key_width() + h * values);
    std::copy_n(row + values, values, z + h * values);
    row += 2 * values;
  }
}

}  // namespace

void arrange_vectors(const DeltaNetSpec& spec, BoundDeltaNet& bound) {
  Vector by_tap(bound.conv.size());
  for (uint32_t c = 0; c < spec.channels(); ++c)
    for (uint32_t j = 0; j < spec.taps; ++j)
      by_tap[uint64_t{j} * spec.channels() + c] = bound.conv[uint64_t{c} * spec.taps + j];
  bound.conv = std::move(by_tap);
  if (spec.decay_is_log)
    for (float& decay : bound.decay) decay = -std::exp(decay);
}

kv::LayerShape cache_shape(const DeltaNetSpec& spec) { return kv::RecurrentShape{spec.state_floats()}; }

DeltaNet::Scratch DeltaNet::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t channels = 0, values = 0, heads = 0, mixed = 0;  // The largest of any layer, per row.
  for (const LayerSpec& layer : spec.layers) {
    const auto* net = std::get_if<DeltaNetSpec>(&layer.mixer);
    if (net == nullptr) continue;
    channels = std::max<uint64_t>(channels, net->channels());
    values = std::max<uint64_t>(values, net->value_width());
    heads = std::max<uint64_t>(heads, net->value_heads);
    mixed = std::max<uint64_t>(mixed, inputs_width(*net));
  }
  Scratch scratch;
  scratch.inputs = arena.take<float>(rows * channels);
  scratch.z = arena.take<float>(rows * values);
  scratch.projected_gates = arena.take<float>(rows * 2 * heads);
  scratch.gates = arena.take<float>(rows * 2 * heads);
  scratch.mixed = arena.take<float>(rows * mixed);
  return scratch;
}

void DeltaNet::run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
                   uint32_t rows, float* out) {
  project(layer, scratch, x, rows);
  arrange(layer, scratch, rows);
  begin(layer, chunks);
  convolve(layer, scratch);
  normalise_keys(layer, scratch, rows);
  recur(layer, scratch);
  keep_inputs(layer, scratch);
  gate(layer, scratch, rows);
  const MatmulJob job = product(layer.weights.out, scratch.z, rows, out);
  cpu_.matmul({&job, 1});
}

void DeltaNet::project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows) {
  const BoundDeltaNet& weights = layer.weights;
  const uint32_t heads = layer.spec.value_heads;
  std::array<MatmulJob, 4> jobs;
  uint32_t count = 0;
  jobs[count++] =
      product(weights.inputs, x, rows, layer.spec.inputs_by_key_head ? scratch.mixed : scratch.inputs);
  if (!layer.spec.inputs_by_key_head) jobs[count++] = product(weights.z, x, rows, scratch.z);
  cpu_.matmul({jobs.data(), count});
  // Few rows, whose errors would add up over all later positions.
  count = 0;
  jobs[count++] = product(weights.beta, x, rows, scratch.projected_gates);
  if (!layer.spec.gates_by_key_head)
    jobs[count++] = product(weights.alpha, x, rows, scratch.projected_gates + heads);
  for (MatmulJob& job : std::span(jobs).first(count)) {
    job.y_stride = 2 * heads;
    job.force_f32 = true;
  }
  cpu_.matmul({jobs.data(), count});
}

// Undoes the orders by key head; turns the projected gates into each head's decay and beta.
void DeltaNet::arrange(const Layer& layer, const Scratch& scratch, uint32_t rows) {
  const DeltaNetSpec& spec = layer.spec;
  const uint32_t heads = spec.value_heads, group = spec.heads_per_key();
  cpu_.for_each_row(rows, [&](uint32_t row, uint32_t) {
    const float* projected = scratch.projected_gates + uint64_t{row} * 2 * heads;
    float* gates = scratch.gates + uint64_t{row} * 2 * heads;
    for (uint32_t h = 0; h < heads; ++h) {
      const uint32_t beta = spec.gates_by_key_head ? h / group * 2 * group + h % group : h;
      const uint32_t alpha = beta + (spec.gates_by_key_head ? group : heads);
      gates[h] = std::exp(layer.weights.decay[h] * softplus(projected[alpha] + layer.weights.time_bias[h]));
      gates[heads + h] = sigmoid(projected[beta]);
    }
    if (!spec.inputs_by_key_head) return;
    split_by_key_head(spec, scratch.mixed + uint64_t{row} * inputs_width(spec),
                      scratch.inputs + uint64_t{row} * spec.channels(),
                      scratch.z + uint64_t{row} * spec.value_width());
  });
}

void DeltaNet::begin(const Layer& layer, std::span<const Chunk> chunks) {
  runs_.clear();
  uint32_t row = 0;
  for (const Chunk& chunk : chunks) {
    const uint32_t start = chunk.sequence->length();
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    runs_.push_back({row, start, chunk.sequence->recurrent(layer.index).begin(start + count)});
    row += count;
  }
}

void DeltaNet::convolve(const Layer& layer, const Scratch& scratch) {
  const DeltaNetSpec& spec = layer.spec;
  const uint32_t channels = spec.channels();
  tap_rows_.clear();
  for (const Run& run : runs_) {
    const float* tail = run.steps.front().from + tail_offset(spec);
    const uint32_t count = run.steps.back().end - run.start;
    for (uint32_t t = 0; t < count; ++t)
      for (uint32_t j = 0; j < spec.taps; ++j) {
        const uint32_t at = t + j;  // In tail followed by rows.
        tap_rows_.push_back(at < spec.taps - 1
                                ? tail + uint64_t{at} * channels
                                : scratch.inputs +
                                      (uint64_t{run.first_row} + at - (spec.taps - 1)) * channels);
      }
  }
  const auto rows = static_cast<uint32_t>(tap_rows_.size() / spec.taps);
  const uint32_t pieces = (channels + kConvPiece - 1) / kConvPiece;
  cpu_.for_each_row(rows * pieces, [&](uint32_t index, uint32_t) {
    const uint32_t row = index / pieces, begin = index % pieces * kConvPiece;
    constexpr uint32_t kTapsMax = 16;
    std::array<const float*, kTapsMax> taps;
    for (uint32_t j = 0; j < spec.taps; ++j) taps[j] = tap_rows_[uint64_t{row} * spec.taps + j] + begin;
    cpu_.kernels().conv_silu({spec.taps, std::min(kConvPiece, channels - begin), taps.data(),
                              layer.weights.conv.data() + begin, channels,
                              scratch.mixed + uint64_t{row} * channels + begin});
  });
}

// q and k to length one, q then divided by sqrt(key_dim): x / sqrt(sum + eps) is the norm by the mean with eps / n,
// divided by sqrt(n).
void DeltaNet::normalise_keys(const Layer& layer, const Scratch& scratch, uint32_t rows) {
  const DeltaNetSpec& spec = layer.spec;
  const auto dim = static_cast<float>(spec.key_dim);
  query_scale_.assign(spec.key_dim, 1.0f / dim);
  key_scale_.assign(spec.key_dim, 1.0f / std::sqrt(dim));
  cpu_.for_each_row(rows, [&](uint32_t row, uint32_t) {
    float* head = scratch.mixed + uint64_t{row} * spec.channels();
    for (uint32_t h = 0; h < 2 * spec.key_heads; ++h, head += spec.key_dim)
      cpu_.kernels().rms_norm(head, (h < spec.key_heads ? query_scale_ : key_scale_).data(), spec.key_dim,
                              kLengthEps / dim, head);
  });
}

void DeltaNet::recur(const Layer& layer, const Scratch& scratch) {
  const DeltaNetSpec& spec = layer.spec;
  const uint32_t heads = spec.value_heads;
  const auto jobs = static_cast<uint32_t>(runs_.size()) * heads;
  cpu_.for_each_row(jobs, [&](uint32_t job, uint32_t) {
    const Run& run = runs_[job / heads];
    const uint32_t head = job % heads;
    kernels::DeltaRuleArgs args;
    args.key_dim = spec.key_dim;
    args.value_dim = spec.value_dim;
    args.key_stride = args.value_stride = args.out_stride = spec.channels();
    args.gate_stride = 2 * heads;
    uint32_t position = run.start;
    for (const kv::Recurrent::Step& step : run.steps) {
      const uint64_t row = run.first_row + (position - run.start);
      float* mixed = scratch.mixed + row * spec.channels();
      args.positions = step.end - position;
      args.q = mixed + spec.key_head_of(head) * spec.key_dim;
      args.k = args.q + spec.key_width();
      args.out = mixed + 2 * spec.key_width() + head * spec.value_dim;
      args.v = args.out;
      args.decay = scratch.gates + row * 2 * heads + head;
      args.beta = args.decay + heads;
      args.state_before = step.from + head * spec.head_state_floats();
      args.state_after = step.to + head * spec.head_state_floats();
      cpu_.kernels().delta_rule(args);
      position = step.end;
    }
  });
}

// The inputs that later positions convolve with, beside each state that is kept.
void DeltaNet::keep_inputs(const Layer& layer, const Scratch& scratch) {
  const DeltaNetSpec& spec = layer.spec;
  const uint32_t kept = spec.taps - 1, channels = spec.channels();
  for (const Run& run : runs_)
    for (const kv::Recurrent::Step& step : run.steps)
      for (uint32_t j = 0; j < kept; ++j) {
        // Row `t` of this pass, or of the tail before it.
        const int64_t t = int64_t{step.end} - run.start - kept + j;
        const float* row = t >= 0 ? scratch.inputs + (run.first_row + t) * channels
                                  : run.steps.front().from + tail_offset(spec) + (kept + t) * channels;
        std::copy_n(row, channels, step.to + tail_offset(spec) + uint64_t{j} * channels);
      }
}

void DeltaNet::gate(const Layer& layer, const Scratch& scratch, uint32_t rows) {
  const DeltaNetSpec& spec = layer.spec;
  cpu_.for_each_row(rows, [&](uint32_t row, uint32_t) {
    float* out = scratch.mixed + uint64_t{row} * spec.channels() + 2 * spec.key_width();
    float* z = scratch.z + uint64_t{row} * spec.value_width();
    for (uint32_t h = 0; h < spec.value_heads; ++h)
      cpu_.kernels().rms_norm(out + h * spec.value_dim, layer.weights.norm.data(), spec.value_dim,
                              layer.norm_eps, out + h * spec.value_dim);
    cpu_.kernels().silu_mul(z, out, spec.value_width(), z);
  });
}

}  // namespace mlxf::model
