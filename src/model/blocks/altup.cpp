#include "model/blocks/altup.h"

#include <algorithm>
#include <cmath>

namespace mlxf::model {
namespace {

using compute::MatmulJob;

// Below this a row counts as zero.
constexpr float kSmallestMeanSquare = 1e-5f;

float mean_square(const float* row, uint32_t count) {
  double sum = 0.0;
  for (uint32_t i = 0; i < count; ++i) sum += double{row[i]} * row[i];
  return static_cast<float>(sum / count);
}

// Gives `row` the magnitude of `like`.
void match_magnitude(const float* like, uint32_t count, float* row) {
  const float target = std::sqrt(mean_square(like, count));
  const float own = std::sqrt(std::max(mean_square(row, count), kSmallestMeanSquare));
  for (uint32_t i = 0; i < count; ++i) row[i] = row[i] * target / own;
}

}  // namespace

Altup::Scratch Altup::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  if (!spec.altup) return {};
  const uint64_t width = uint64_t{rows} * spec.hidden;
  return {arena.take<float>(spec.altup->streams * width), arena.take<float>(width),
          arena.take<float>(uint64_t{rows} * spec.altup->streams)};
}

template <typename Fn>
void Altup::for_rows(uint32_t rows, const Fn& fn) {
  if (rows == 1)
    fn(0, 0);
  else
    cpu_.for_each_row(rows, fn);
}

void Altup::expand(const BoundAltup& weights, const Scratch& scratch, const float* x, uint32_t rows) {
  std::copy_n(x, uint64_t{rows} * spec_.hidden, scratch.streams);
  std::array<MatmulJob, AltupSpec::kStreamsMax> jobs;
  const uint32_t others = spec_.altup->streams - 1;
  for (uint32_t s = 0; s < others; ++s)
    jobs[s] = product(weights.projections[s], scratch.streams, rows, stream(scratch, s + 1, rows));
  cpu_.matmul({jobs.data(), others});
  for_rows(rows, [&](uint32_t row, uint32_t) {
    const uint64_t at = uint64_t{row} * spec_.hidden;
    for (uint32_t s = 1; s <= others; ++s)
      match_magnitude(scratch.streams + at, spec_.hidden, stream(scratch, s, rows) + at);
  });
}

// scores = tanh(router · norm(x) * router_scale)
void Altup::route(const BoundAltupLayer& weights, const Scratch& scratch, const float* x, uint32_t rows) {
  const uint32_t hidden = spec_.hidden;
  cpu_.rms_norm({x, hidden, scratch.normed, hidden, rows, hidden}, weights.router_norm.data(),
                spec_.norm_eps);
  for (uint64_t i = 0; i < uint64_t{rows} * hidden; ++i) scratch.normed[i] *= spec_.altup->router_scale;
  MatmulJob job = product(weights.router, scratch.normed, rows, scratch.scores);
  job.force_f32 = true;
  cpu_.matmul({&job, 1});
  const uint64_t count = uint64_t{rows} * spec_.altup->streams;
  for (uint64_t i = 0; i < count; ++i) scratch.scores[i] = std::tanh(scratch.scores[i]);
}

void Altup::predict(const BoundAltupLayer& weights, const Scratch& scratch, uint32_t rows, float* x) {
  const uint32_t n = spec_.altup->streams;
  const uint32_t hidden = spec_.hidden;
  route(weights, scratch, stream(scratch, spec_.altup->active, rows), rows);
  for_rows(rows, [&](uint32_t row, uint32_t) {
    const float* scores = scratch.scores + uint64_t{row} * n;
    std::array<float, AltupSpec::kStreamsMax * AltupSpec::kStreamsMax> from;  // [to, from]
    for (uint32_t k = 0; k < n * n; ++k) {
      from[k] = 0.0f;
      for (uint32_t m = 0; m < n; ++m) from[k] += weights.prediction[k * n + m] * scores[m];
    }
    std::array<float*, AltupSpec::kStreamsMax> streams;
    for (uint32_t s = 0; s < n; ++s) streams[s] = stream(scratch, s, rows) + uint64_t{row} * hidden;
    std::array<float, AltupSpec::kStreamsMax> before;
    for (uint32_t i = 0; i < hidden; ++i) {
      for (uint32_t s = 0; s < n; ++s) before[s] = streams[s][i];
      for (uint32_t to = 0; to < n; ++to) {
        float sum = 0.0f;
        for (uint32_t s = 0; s < n; ++s) sum += before[s] * from[to * n + s];
        streams[to][i] = sum + before[to];
      }
    }
  });
  std::copy_n(stream(scratch, spec_.altup->active, rows), uint64_t{rows} * hidden, x);
}

void Altup::correct(const BoundAltupLayer& weights, const Scratch& scratch, uint32_t rows, float* x) {
  const uint32_t n = spec_.altup->streams;
  const uint32_t hidden = spec_.hidden;
  const uint32_t active = spec_.altup->active;
  route(weights, scratch, x, rows);
  for_rows(rows, [&](uint32_t row, uint32_t) {
    const float* scores = scratch.scores + uint64_t{row} * n;
    float* changed = x + uint64_t{row} * hidden;
    const float* predicted = stream(scratch, active, rows) + uint64_t{row} * hidden;
    for (uint32_t i = 0; i < hidden; ++i) changed[i] -= predicted[i];
    for (uint32_t s = 0; s < n; ++s) {
      float share = 0.0f;
      for (uint32_t m = 0; m < n; ++m) share += weights.correction[s * n + m] * scores[m];
      share += 1.0f;
      float* target = stream(scratch, s, rows) + uint64_t{row} * hidden;
      for (uint32_t i = 0; i < hidden; ++i) target[i] = changed[i] * share + target[i];
    }
    for (uint32_t i = 0; i < hidden; ++i)
      changed[i] = weights.output_scale.empty() ? predicted[i] : predicted[i] * weights.output_scale[i];
  });
}

void Altup::add_to_others(const Scratch& scratch, const float* x, uint32_t rows) {
  const uint64_t count = uint64_t{rows} * spec_.hidden;
  for (uint32_t s = 1; s < spec_.altup->streams; ++s) {
    float* target = stream(scratch, s, rows);
    for (uint64_t i = 0; i < count; ++i) target[i] += x[i];
  }
}

void Altup::merge(const BoundAltup& weights, const Scratch& scratch, uint32_t rows, float* x) {
  const uint32_t n = spec_.altup->streams;
  const uint32_t hidden = spec_.hidden;
  const uint64_t count = uint64_t{rows} * hidden;
  std::copy_n(scratch.streams, count, x);
  for (uint32_t s = 1; s < n; ++s) {
    const MatmulJob job = product(weights.merge[s - 1], stream(scratch, s, rows), rows, scratch.normed);
    cpu_.matmul({&job, 1});
    for_rows(rows, [&](uint32_t row, uint32_t) {
      const uint64_t at = uint64_t{row} * hidden;
      match_magnitude(scratch.streams + at, hidden, scratch.normed + at);
      for (uint32_t i = 0; i < hidden; ++i) x[at + i] += scratch.normed[at + i];
    });
  }
  for (uint64_t i = 0; i < count; ++i) x[i] /= static_cast<float>(n);
}

}  // namespace mlxf::model
