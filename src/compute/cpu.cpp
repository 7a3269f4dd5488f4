#include "compute/cpu.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "compute/aligned_buffer.h"
#include "kernels/code_row.h"

namespace mlxf::compute {
namespace {

// A chunk should take some 10-50 us: long against handing it out (0.1 us), short against a scheduler's time
// slice. Decoding streams 10 to 40 GB/s per core, so 128 KiB of weights; a batch multiplies the work per
// weight byte.
constexpr uint64_t kChunkBytes = 128 << 10;
constexpr uint32_t kChunkRowsAlign = 16;  // Panels of the int8 kernels start at multiples of their height.
// Rows of a chunk for many tokens: from the first on, unpacking its weights is paid by them; up to the second, a kernel
// reads the activations once for all its rows.
constexpr uint64_t kBatchChunkRows = 32;
constexpr uint64_t kBatchChunkRowsMax = 128;
// Work below this many elements is done by the calling thread: a barrier costs about as much as 16 Ki
// elements.
constexpr uint64_t kSerialElements = 16 << 10;
constexpr uint32_t kAttentionChunkQueries = 64;

struct RowChunk {
  uint32_t job;
  uint32_t begin, end;
};

// One matrix of activations in int8 form; several jobs may share it.
struct QuantisedInput {
  const float* x = nullptr;
  uint64_t x_stride = 0;
  uint32_t rows = 0, cols = 0, block = 0;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  int16_t* sums16 = nullptr;
  int16_t* sums32 = nullptr;
  bool held = false;  // Quantised before this call; its memory is not this call's.

  [[nodiscard]] uint64_t bytes() const {
    const uint64_t elements = uint64_t{rows} * cols;
    return elements + elements / block * 4 + elements / 16 * 2 + elements / 32 * 2 + 4 * 64;
  }
  void place(uint8_t* memory) {
    const uint64_t elements = uint64_t{rows} * cols;
    const auto take = [&memory](uint64_t bytes) {
      uint8_t* taken = memory;
      memory += (bytes + 63) / 64 * 64;
      return taken;
    };
    codes = reinterpret_cast<int8_t*>(take(elements));
    scales = reinterpret_cast<float*>(take(elements / block * 4));
    sums16 = reinterpret_cast<int16_t*>(take(elements / 16 * 2));
    sums32 = reinterpret_cast<int16_t*>(take(elements / 32 * 2));
  }
  [[nodiscard]] kernels::ActivationView view(uint32_t row, uint32_t count) const {
    kernels::ActivationView view;
    view.tokens = count;
    view.cols = cols;
    view.codes = codes + uint64_t{row} * cols;
    view.scales = scales + uint64_t{row} * (cols / block);
    view.sums16 = sums16 + uint64_t{row} * (cols / 16);
    view.sums32 = sums32 + uint64_t{row} * (cols / 32);
    view.block = block;
    return view;
  }
  void copy_row(uint32_t to, const QuantisedInput& from, uint32_t row) const {
    std::copy_n(from.codes + uint64_t{row} * cols, cols, codes + uint64_t{to} * cols);
    std::copy_n(from.scales + uint64_t{row} * (cols / block), cols / block,
                scales + uint64_t{to} * (cols / block));
    std::copy_n(from.sums16 + uint64_t{row} * (cols / 16), cols / 16, sums16 + uint64_t{to} * (cols / 16));
    std::copy_n(from.sums32 + uint64_t{row} * (cols / 32), cols / 32, sums32 + uint64_t{to} * (cols / 32));
  }
};

// What a job became: its kernel and the rows it multiplies.
struct PreparedJob {
  kernels::MatmulFn kernel = nullptr;
  kernels::ActivationView x;
  int32_t source = -1;        // Index of its quantised input; -1: f32.
  int32_t gathered = -1;      // Index of the gathered rows; -1: rows of the source as they are.
  uint64_t gathered_f32 = 0;  // Offset in floats of its gathered f32 rows.
};

}  // namespace

struct Cpu::State {
  const kernels::KernelTable& kernels;
  ThreadPool& pool;
  Arithmetic arithmetic;
  AlignedBuffer worker_scratch;  // [threads, kMatmulScratchBytes]
  AlignedBuffer quantised;       // Backs `inputs` and `gathers`.
  AlignedBuffer gathered_f32;
  std::vector<QuantisedInput> inputs;
  std::vector<QuantisedInput> gathers;
  const float* held_x = nullptr;           // hold_input(),
  std::vector<QuantisedInput> held;        // its forms by block,
  std::vector<AlignedBuffer> held_memory;  // and their memory, kept for reuse.
  std::vector<PreparedJob> prepared;
  std::vector<RowChunk> chunks;

  [[nodiscard]] void* scratch(uint32_t worker) {
    return worker_scratch.data() + worker * kernels::kMatmulScratchBytes;
  }

  int32_t find_input(const MatmulJob& job, uint32_t block);
  const QuantisedInput& held_form(const QuantisedInput& input);
  void quantise(const QuantisedInput& input);
  void prepare(std::span<const MatmulJob> jobs);
  void quantise_inputs();
  void gather_rows(std::span<const MatmulJob> jobs);
  void split(std::span<const MatmulJob> jobs);
};

int32_t Cpu::State::find_input(const MatmulJob& job, uint32_t block) {
  const uint32_t rows = job.x_rows != 0 ? job.x_rows : job.tokens;
  for (size_t i = 0; i < inputs.size(); ++i) {
    QuantisedInput& input = inputs[i];
    if (input.x == job.x && input.block == block && input.cols == job.w.cols &&
        input.x_stride == job.x_stride) {
      input.rows = std::max(input.rows, rows);
      return static_cast<int32_t>(i);
    }
  }
  QuantisedInput input;
  input.x = job.x;
  input.x_stride = job.x_stride;
  input.rows = rows;
  input.cols = job.w.cols;
  input.block = block;
  inputs.push_back(job.x == held_x ? held_form(input) : input);
  return static_cast<int32_t>(inputs.size()) - 1;
}

// The held input in the form that `input` describes, quantised by the first who asks.
const QuantisedInput& Cpu::State::held_form(const QuantisedInput& input) {
  for (const QuantisedInput& form : held)
    if (form.block == input.block && form.cols == input.cols && form.rows == input.rows) return form;
  held.push_back(input);
  if (held_memory.size() < held.size()) held_memory.emplace_back();
  QuantisedInput& form = held.back();
  form.place(held_memory[held.size() - 1].at_least(form.bytes()));
  quantise(form);
  form.held = true;
  return form;
}

void Cpu::State::prepare(std::span<const MatmulJob> jobs) {
  inputs.clear();
  gathers.clear();
  prepared.clear();
  uint64_t gathered_floats = 0;
  for (const MatmulJob& job : jobs) {
    PreparedJob p;
    const auto format = static_cast<uint32_t>(job.w.format);
    const uint32_t block = kernels::activation_block(job.w);
    const bool gather = job.token_index != nullptr && job.tokens > 1;
    if (arithmetic == Arithmetic::kInt8 && !job.force_f32 && block != 0 && job.w.cols % block == 0) {
      p.kernel = kernels.matmul_i8[format];
      p.source = find_input(job, block);
      if (gather) {
        QuantisedInput rows = inputs[static_cast<size_t>(p.source)];
        rows.rows = job.tokens;
        rows.held = false;
        p.gathered = static_cast<int32_t>(gathers.size());
        gathers.push_back(rows);
      }
    } else {
      p.kernel = kernels.matmul_f32[format];
      p.x.tokens = job.tokens;
      p.x.cols = job.w.cols;
      p.x.f32 = job.x + job.x_row * job.x_stride;
      p.x.f32_stride = job.x_stride;
      if (gather) {
        p.gathered_f32 = gathered_floats;
        gathered_floats += uint64_t{job.tokens} * job.w.cols;
      } else if (job.token_index != nullptr) {
        p.x.f32 = job.x + job.token_index[0] * job.x_stride;
      }
    }
    prepared.push_back(p);
  }
  uint64_t bytes = 0;
  for (const auto* list : {&inputs, &gathers})
    for (const QuantisedInput& input : *list)
      if (!input.held) bytes += (input.bytes() + 63) / 64 * 64;
  uint8_t* memory = quantised.at_least(bytes);
  for (auto* list : {&inputs, &gathers})
    for (QuantisedInput& input : *list) {
      if (input.held) continue;
      input.place(memory);
      memory += (input.bytes() + 63) / 64 * 64;
    }
  gathered_f32.at_least(gathered_floats * sizeof(float));
}

void Cpu::State::quantise(const QuantisedInput& input) {
  const auto row = [&](uint32_t r, uint32_t) {
    const kernels::ActivationView v = input.view(r, 1);
    kernels.quantize(input.x + r * input.x_stride, input.cols, input.block, const_cast<int8_t*>(v.codes),
                     const_cast<float*>(v.scales), const_cast<int16_t*>(v.sums16),
                     const_cast<int16_t*>(v.sums32));
  };
  if (uint64_t{input.rows} * input.cols <= kSerialElements) {
    for (uint32_t r = 0; r < input.rows; ++r) row(r, 0);
  } else {
    pool.parallel_for(input.rows, row);
  }
}

void Cpu::State::quantise_inputs() {
  for (const QuantisedInput& input : inputs)
    if (!input.held) quantise(input);
}

void Cpu::State::gather_rows(std::span<const MatmulJob> jobs) {
  auto* floats = reinterpret_cast<float*>(gathered_f32.data());
  bool any = false;
  for (size_t i = 0; i < jobs.size(); ++i) {
    PreparedJob& p = prepared[i];
    const MatmulJob& job = jobs[i];
    if (p.source >= 0) {
      const QuantisedInput& source = inputs[static_cast<size_t>(p.source)];
      if (p.gathered >= 0) {
        p.x = gathers[static_cast<size_t>(p.gathered)].view(0, job.tokens);
        any = true;
      } else {
        p.x = source.view(job.token_index != nullptr ? job.token_index[0] : job.x_row, job.tokens);
      }
    } else if (job.token_index != nullptr && job.tokens > 1) {
      p.x.f32 = floats + p.gathered_f32;
      p.x.f32_stride = job.w.cols;
      any = true;
    }
  }
  if (!any) return;
  pool.parallel_for(static_cast<uint32_t>(jobs.size()), [&](uint32_t i, uint32_t) {
    const PreparedJob& p = prepared[i];
    const MatmulJob& job = jobs[i];
    if (job.token_index == nullptr || job.tokens <= 1) return;
    for (uint32_t t = 0; t < job.tokens; ++t) {
      if (p.gathered >= 0) {
        gathers[static_cast<size_t>(p.gathered)].copy_row(t, inputs[static_cast<size_t>(p.source)],
                                                          job.token_index[t]);
      } else {
        std::copy_n(job.x + job.token_index[t] * job.x_stride, job.w.cols,
                    floats + p.gathered_f32 + uint64_t{t} * job.w.cols);
      }
    }
  });
}

void Cpu::State::split(std::span<const MatmulJob> jobs) {
  chunks.clear();
  const auto row_cost = [](const MatmulJob& job) {
    return std::max<uint64_t>(1, job.w.row_bytes + 2 * job.w.scale_row_bytes) * std::max(job.tokens, 1u);
  };
  uint64_t total = 0, total_rows = 0;
  for (const MatmulJob& job : jobs) {
    if (job.tokens == 0) continue;
    total += job.w.rows * row_cost(job);
    total_rows += job.w.rows;
  }
  // At least four chunks per thread over all jobs, so that no thread waits long for another's last one.
  const uint64_t chunk = std::min(kChunkBytes, total / (4 * pool.threads()) + 1);
  const uint64_t batch_rows =
      std::clamp(total_rows / (4 * pool.threads()) / kBatchChunkRows * kBatchChunkRows, kBatchChunkRows,
                 kBatchChunkRowsMax);
  for (uint32_t i = 0; i < jobs.size(); ++i) {
    const MatmulJob& job = jobs[i];
    if (job.tokens == 0) continue;
    const uint64_t least = job.tokens == 1 ? kChunkRowsAlign : batch_rows;
    const uint64_t rows = std::max(chunk / row_cost(job) / kChunkRowsAlign * kChunkRowsAlign, least);
    for (uint64_t begin = 0; begin < job.w.rows; begin += rows)
      chunks.push_back({i, static_cast<uint32_t>(begin),
                        static_cast<uint32_t>(std::min<uint64_t>(job.w.rows, begin + rows))});
  }
}

Cpu::Cpu(const kernels::KernelTable& kernels, ThreadPool& pool, const Options& options)
    : state_(new State{kernels, pool, options.arithmetic, {}, {}, {}, {}, {}, nullptr, {}, {}, {}, {}}) {
  state_->worker_scratch.at_least(pool.threads() * kernels::kMatmulScratchBytes);
}

Cpu::~Cpu() = default;

void Cpu::matmul(std::span<const MatmulJob> jobs) {
  State& s = *state_;
  s.prepare(jobs);
  s.quantise_inputs();
  s.gather_rows(jobs);
  s.split(jobs);
  s.pool.parallel_for(static_cast<uint32_t>(s.chunks.size()), [&](uint32_t c, uint32_t worker) {
    const RowChunk& chunk = s.chunks[c];
    const PreparedJob& p = s.prepared[chunk.job];
    const MatmulJob& job = jobs[chunk.job];
    p.kernel(job.w, chunk.begin, chunk.end, p.x, job.y, job.y_stride, s.scratch(worker));
  });
}

void Cpu::hold_input(const float* x) {
  state_->held.clear();
  state_->held_x = x;
}

void Cpu::release_input() {
  state_->held.clear();
  state_->held_x = nullptr;
}

void Cpu::attention(std::span<const AttentionJob> jobs) {
  State& s = *state_;
  s.chunks.clear();
  for (uint32_t i = 0; i < jobs.size(); ++i)
    for (uint32_t begin = 0; begin < jobs[i].count; begin += kAttentionChunkQueries)
      s.chunks.push_back({i, begin, std::min(jobs[i].count, begin + kAttentionChunkQueries)});
  s.pool.parallel_for(static_cast<uint32_t>(s.chunks.size()), [&](uint32_t c, uint32_t worker) {
    // The last chunks of a job attend to the most positions: every thread begins with its longest.
    const RowChunk& chunk = s.chunks[s.chunks.size() - 1 - c];
    const AttentionJob& job = jobs[chunk.job];
    const auto attend = job.latent ? s.kernels.latent_attention : s.kernels.attention;
    attend(job.args, job.queries + chunk.begin, chunk.end - chunk.begin, s.scratch(worker));
  });
}

void Cpu::rms_norm(const Rows& rows, const float* weight, float eps) {
  State& s = *state_;
  const auto row = [&](uint32_t r, uint32_t) {
    s.kernels.rms_norm(rows.in + r * rows.in_stride, weight, rows.width, eps, rows.out + r * rows.out_stride);
  };
  if (uint64_t{rows.rows} * rows.width <= kSerialElements) {
    for (uint32_t r = 0; r < rows.rows; ++r) row(r, 0);
  } else {
    for_each_row(rows.rows, row);
  }
}

void Cpu::gated_activation(Activation kind, const float* gate, const float* up, float* out, uint64_t stride,
                           uint32_t rows, uint32_t width) {
  State& s = *state_;
  const auto fn = kind == Activation::kSilu       ? s.kernels.silu_mul
                  : kind == Activation::kGeluTanh ? s.kernels.gelu_mul
                  : kind == Activation::kSigmoid  ? s.kernels.sigmoid_mul
                                                  : s.kernels.clamped_swiglu;
  // A row is cut into pieces so that a single wide one is shared by the threads as well.
  constexpr uint32_t kPiece = 4096;
  const uint32_t pieces = (width + kPiece - 1) / kPiece;
  const auto piece = [&](uint32_t index, uint32_t) {
    const uint64_t offset = index / pieces * stride + uint64_t{index % pieces} * kPiece;
    fn(gate + offset, up + offset, std::min(kPiece, width - index % pieces * kPiece), out + offset);
  };
  if (uint64_t{rows} * width <= kSerialElements / 4) {
    for (uint32_t index = 0; index < rows * pieces; ++index) piece(index, 0);
  } else {
    s.pool.parallel_for(rows * pieces, piece);
  }
}

void Cpu::for_each_row(uint32_t rows, ChunkFn fn) { state_->pool.parallel_for(rows, fn); }

void Cpu::decode_row(const MatrixView& w, uint32_t row, float* out) const {
  state_->kernels.decode[static_cast<uint32_t>(w.format)](w, row, 0, w.cols, out);
}

const kernels::KernelTable& Cpu::kernels() const { return state_->kernels; }
ThreadPool& Cpu::pool() const { return state_->pool; }
Arithmetic Cpu::arithmetic() const { return state_->arithmetic; }
kernels::SideBySideFn Cpu::put_side_by_side() const {
  return state_->arithmetic == Arithmetic::kInt8 ? state_->kernels.put_side_by_side : nullptr;
}

}  // namespace mlxf::compute
