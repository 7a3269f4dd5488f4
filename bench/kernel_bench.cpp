// How fast each instruction set reads weights in products of one token or N, and attends to a latent cache, beside a
// plain reading of the same memory:
//     kernel_bench [--threads T] [--rounds R] [--cols C] [--mib M] [--tokens N] [FORMAT…]
//
// A matrix larger than the caches is multiplied R times in chunks of rows, as the engine does; the cell is the best
// round in GB/s of stored bytes and its share of the reading. Without T, with one thread, whose processor time counts
// so that other work on the machine costs bandwidth alone, and with two. FORMAT: a name as printed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/thread_pool.h"
#include "kernels/kernel_table.h"
#include "platform/huge_memory.h"

namespace {

using mlxf::MatrixView;
using mlxf::WeightFormat;
using mlxf::compute::AlignedBuffer;
using mlxf::compute::ThreadPool;
using mlxf::kernels::ActivationView;
using mlxf::kernels::KernelTable;

struct Plan {
  std::vector<uint32_t> threads;
  int rounds = 7;
  uint32_t cols = 4096;
  uint32_t tokens = 1;
  uint64_t bytes = uint64_t{256} << 20;
  std::vector<std::string> formats;
};

struct Format {
  const char* name;
  WeightFormat format;
  uint32_t block_bytes, block_elements;
  uint8_t bits = 0;
  uint16_t group = 0;
};

constexpr Format kFormats[] = {{"q4_0", WeightFormat::kQ4_0, 18, 32},
                               {"q4_1", WeightFormat::kQ4_1, 20, 32},
                               {"q5_0", WeightFormat::kQ5_0, 22, 32},
                               {"q5_1", WeightFormat::kQ5_1, 24, 32},
                               {"q8_0", WeightFormat::kQ8_0, 34, 32},
                               {"q2_k", WeightFormat::kQ2_K, 84, 256},
                               {"q3_k", WeightFormat::kQ3_K, 110, 256},
                               {"q4_k", WeightFormat::kQ4_K, 144, 256},
                               {"q4_k-x16", WeightFormat::kQ4_Kx16, 144, 256},
                               {"q5_k", WeightFormat::kQ5_K, 176, 256},
                               {"q6_k", WeightFormat::kQ6_K, 210, 256},
                               {"q6_k-x16", WeightFormat::kQ6_Kx16, 210, 256},
                               {"iq4_nl", WeightFormat::kIQ4_NL, 18, 32},
                               {"iq4_xs", WeightFormat::kIQ4_XS, 136, 256},
                               {"mxfp4", WeightFormat::kMXFP4, 17, 32},
                               {"mlx-mxfp4", WeightFormat::kMlxMxfp4, 16, 32, 4, 32},
                               {"mlx-2", WeightFormat::kMlxAffine, 16, 64, 2, 64},
                               {"mlx-3", WeightFormat::kMlxAffine, 24, 64, 3, 64},
                               {"mlx-4", WeightFormat::kMlxAffine, 32, 64, 4, 64},
                               {"mlx-5", WeightFormat::kMlxAffine, 40, 64, 5, 64},
                               {"mlx-6", WeightFormat::kMlxAffine, 48, 64, 6, 64},
                               {"mlx-8", WeightFormat::kMlxAffine, 64, 64, 8, 64},
                               {"i8", WeightFormat::kI8Row, 32, 32, 8, 32}};

// The time of the clock; of one thread the processor's, in which nobody else takes part.
double seconds_now(const ThreadPool& pool) {
  if (pool.threads() == 1) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Work>
double best_gb_s(const ThreadPool& pool, int rounds, uint64_t bytes, const Work& work) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const double start = seconds_now(pool);
    work();
    best = std::max(best, static_cast<double>(bytes) / (seconds_now(pool) - start) / 1e9);
  }
  return best;
}

// Reads every byte; `chunks` pieces.
double read_gb_s(ThreadPool& pool, int rounds, const uint8_t* data, uint64_t bytes) {
  using Vector = uint64_t __attribute__((vector_size(16)));
  constexpr uint64_t kPiece = uint64_t{1} << 20;
  return best_gb_s(pool, rounds, bytes, [&] {
    pool.parallel_for(static_cast<uint32_t>(bytes / kPiece), [&](uint32_t chunk, uint32_t) {
      const auto* from = reinterpret_cast<const Vector*>(data + chunk * kPiece);
      Vector sum[4] = {};
      for (uint64_t i = 0; i < kPiece / sizeof(Vector); i += 4) {
        __builtin_prefetch(reinterpret_cast<const uint8_t*>(from + i) + 4096, 0, 0);
        for (uint64_t j = 0; j < 4; ++j) sum[j] += from[i + j];
      }
      for (const Vector& one : sum) __asm__ volatile("" : : "x"(one));
    });
  });
}

// Tokens, quantised for the matrix.
struct Tokens {
  std::vector<float> values, scales;
  std::vector<int8_t> codes;
  std::vector<int16_t> sums16, sums32;
  ActivationView view;

  Tokens(const KernelTable& kernels, const MatrixView& w, uint32_t tokens)
      : values(w.cols),
        scales(uint64_t{tokens} * w.cols / 32),
        codes(uint64_t{tokens} * w.cols),
        sums16(uint64_t{tokens} * w.cols / 16),
        sums32(uint64_t{tokens} * w.cols / 32) {
    for (uint32_t i = 0; i < w.cols; ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 37 % 201) - 100);
    const uint32_t block = mlxf::kernels::activation_block(w);
    for (uint64_t t = 0; t < tokens; ++t)
      kernels.quantize(values.data(), w.cols, block, &codes[t * w.cols], &scales[t * (w.cols / block)],
                       &sums16[t * (w.cols / 16)], &sums32[t * (w.cols / 32)]);
    view = {tokens, w.cols, nullptr, 0, codes.data(), scales.data(), sums16.data(), sums32.data(), block};
  }
};

// The matrix that the memory holds: its scales behind its codes, as safetensors have them.
MatrixView matrix_in(const uint8_t* data, uint64_t bytes, const Format& f, uint32_t cols) {
  MatrixView w;
  w.format = f.format;
  w.bits = f.bits;
  w.group = f.group;
  w.scale_type = mlxf::DType::kBF16;
  w.cols = cols;
  w.row_bytes = uint64_t{cols} / f.block_elements * f.block_bytes;
  if (f.group != 0) {
    const bool affine = f.format == WeightFormat::kMlxAffine;
    w.scale_row_bytes = uint64_t{cols} / f.group * (affine ? 2 : f.format == WeightFormat::kI8Row ? 4 : 1);
  }
  const uint64_t row = w.row_bytes + 2 * w.scale_row_bytes;
  w.rows = static_cast<uint32_t>(bytes / row / mlxf::kRowsSideBySide * mlxf::kRowsSideBySide);
  w.data = data;
  w.scales = data + w.rows * w.row_bytes;
  w.biases = w.scales + w.rows * w.scale_row_bytes;
  return w;
}

uint64_t stored_bytes(const MatrixView& w) {
  return w.rows * (w.row_bytes + w.scale_row_bytes * (w.format == WeightFormat::kMlxAffine ? 2 : 1));
}

double product_gb_s(const KernelTable& kernels, ThreadPool& pool, const Plan& plan, const MatrixView& w,
                    std::vector<AlignedBuffer>& scratch) {
  const Tokens x(kernels, w, plan.tokens);
  std::vector<float> y(uint64_t{w.rows} * plan.tokens);
  constexpr uint64_t kChunkBytes = uint64_t{1} << 17;
  const auto rows = static_cast<uint32_t>(std::max<uint64_t>(16, kChunkBytes / w.row_bytes / 16 * 16));
  const auto format = static_cast<uint32_t>(w.format);
  return best_gb_s(pool, plan.rounds, stored_bytes(w), [&] {
    pool.parallel_for((w.rows + rows - 1) / rows, [&](uint32_t chunk, uint32_t worker) {
      const uint32_t begin = chunk * rows;
      kernels.matmul_i8[format](w, begin, std::min(begin + rows, w.rows), x.view, y.data(), w.rows,
                                scratch[worker].data());
    });
  });
}

// DeepSeek's latent cache: rows of 512 + 64 elements, 128 heads. GB/s of rows, each read
// once per four heads.
double latent_gb_s(const KernelTable& kernels, ThreadPool& pool, int rounds, const uint8_t* data,
                   std::vector<AlignedBuffer>& scratch) {
  constexpr uint32_t kDim = 576, kValues = 512, kHeads = 128, kPages = 64;
  std::vector<const uint16_t*> pages(kPages);
  for (uint32_t i = 0; i < kPages; ++i)
    pages[i] = reinterpret_cast<const uint16_t*>(data) + uint64_t{i} * kDim * mlxf::kernels::kPagePositions;
  std::vector<float> q(kHeads * kDim, 0.01f), out(kHeads * kValues);
  std::vector<mlxf::kernels::AttentionQuery> queries;
  queries.reserve(kHeads);
  for (uint32_t h = 0; h < kHeads; ++h)
    queries.push_back({&q[h * kDim], &out[h * kValues], 0, kPages * mlxf::kernels::kPagePositions, -1e30f});
  mlxf::kernels::AttentionArgs args;
  args.head_dim = kDim;
  args.value_dim = kValues;
  args.scale = 0.01f;
  args.key_pages = pages.data();
  const uint64_t bytes = uint64_t{kHeads} / 4 * kPages * mlxf::kernels::kPagePositions * kDim * 2;
  return best_gb_s(pool, rounds, bytes, [&] {
    pool.parallel_for(kHeads / 16, [&](uint32_t chunk, uint32_t worker) {
      kernels.latent_attention(args, &queries[chunk * 16], 16, scratch[worker].data());
    });
  });
}

bool wanted(const Plan& plan, const char* name) {
  return plan.formats.empty() ||
         std::find(plan.formats.begin(), plan.formats.end(), name) != plan.formats.end();
}

void measure(const Plan& plan, uint32_t threads, const uint8_t* data) {
  ThreadPool pool(threads);
  std::vector<AlignedBuffer> scratch(threads);
  for (AlignedBuffer& buffer : scratch) buffer.at_least(mlxf::kernels::kMatmulScratchBytes);
  const mlxf::kernels::KernelSet& set = mlxf::kernels::available_kernels();
  double reading = read_gb_s(pool, plan.rounds, data, plan.bytes);
  std::printf("\n%u threads, reading %.1f GB/s\n\n| |", threads, reading);
  for (uint32_t i = set.count - 1; i-- > 0;) std::printf(" %s |", set.tables[i]->isa);
  std::printf("\n|---|");
  for (uint32_t i = set.count - 1; i-- > 0;) std::printf("---|");
  std::printf("\n");
  for (const Format& format : kFormats) {
    if (!wanted(plan, format.name)) continue;
    const MatrixView w =
        matrix_in(data, plan.bytes, format, plan.cols / format.block_elements * format.block_elements);
    std::printf("| %s |", format.name);
    for (uint32_t i = set.count - 1; i-- > 0;) {
      const double speed = product_gb_s(*set.tables[i], pool, plan, w, scratch);
      std::printf(" %.1f (%.0f %%) |", speed, 100 * speed / reading);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  if (!wanted(plan, "latent")) return;
  std::printf("| latent, 128 heads |");
  for (uint32_t i = set.count - 1; i-- > 0;)
    std::printf(" %.1f |", latent_gb_s(*set.tables[i], pool, plan.rounds, data, scratch));
  std::printf("\n");
}

bool parse(int argc, char** argv, Plan& plan) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--", 0) != 0) {
      plan.formats.push_back(argument);
      continue;
    }
    if (i + 1 == argc) return false;
    const long value = std::strtol(argv[++i], nullptr, 10);
    if (value < 1 || value > 65536) return false;
    if (argument == "--threads")
      plan.threads.assign(1, static_cast<uint32_t>(value));
    else if (argument == "--rounds")
      plan.rounds = static_cast<int>(value);
    else if (argument == "--cols")
      plan.cols = static_cast<uint32_t>(value);
    else if (argument == "--tokens")
      plan.tokens = static_cast<uint32_t>(value);
    else if (argument == "--mib")
      plan.bytes = static_cast<uint64_t>(value) << 20;
    else
      return false;
  }
  if (plan.threads.empty()) plan.threads = {1, 2};
  return plan.cols >= 256 && plan.bytes >= (uint64_t{1} << 20);
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  if (!parse(argc, argv, plan)) {
    std::fprintf(stderr,
                 "kernel_bench [--threads T] [--rounds R] [--cols C, from 256] [--mib M, from 1] [--tokens "
                 "N] [FORMAT...]\n");
    return 1;
  }
  auto memory = mlxf::platform::HugeMemory::allocate(std::max(plan.bytes, uint64_t{5} << 20) + (1 << 20));
  if (!memory) {
    std::fprintf(stderr, "kernel_bench: %s\n", memory.error().message.c_str());
    return 1;
  }
  // Bytes that are ordinary numbers in every encoding of a scale.
  uint64_t random = 1;
  for (uint64_t i = 0; i < memory->bytes(); ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    memory->data()[i] = static_cast<uint8_t>(0x20 + (random >> 60));
  }
  for (const uint32_t threads : plan.threads) measure(plan, threads, memory->data());
  return 0;
}
