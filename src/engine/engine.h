// Engine: an opened model with all that it runs on, in the order in which they depend on each other.
//
// Owned by a command. One thread uses it at a time: the one that calls the model.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "compute/cpu.h"
#include "engine/drive_care.h"
#include "formats/manifest.h"
#include "memory/governor.h"
#include "model/model.h"
#include "platform/memory_info.h"
#include "storage/open_storage.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace mlxf::engine {

// kAuto: int8 activations for quantised weights, f32 for 16- and 32-bit ones. kF32: f32 throughout, weights
// dequantised, keys and values in f32. kInt8: 16-bit weights are quantised at load as well.
enum class Activations : uint8_t { kAuto, kF32, kInt8 };

struct EngineOptions {
  uint32_t threads = 0;  // 0: one per processor that this process may use.
  Activations activations = Activations::kAuto;
  bool bf16_rope_frequencies = false;  // model::LoadOptions
  // Memory that the whole process may take, in bytes; 0: no limit. Weights that do not fit are read from the SSD when
  // they are needed; answers are the same, byte for byte.
  uint64_t memory_budget = 0;
  // Of the budget, what the process is taken to hold before this model, where that is more than it does: other models
  // of this process do not hold all that they may come to.
  uint64_t held_bytes_min = 0;
  uint64_t granule_bytes = weights::RecordCache::kGranuleBytes;  // model::MemoryOptions
  uint32_t context_tokens = 2048;  // With a budget: positions that room is kept for from the start,
  uint32_t sequences = 1;          // and sequences that are sampled from at once.
  storage::StorageOptions storage;
  weights::Policy policy = weights::Policy::kLfu;
  bool look_ahead = true;
  bool guess_experts = false;   // With look_ahead: also of experts that the next layer may choose.
  bool with_tokenizer = false;  // Loads it before the weights, so that the budget covers it.
  bool with_grammars = false;   // With a tokenizer: what constraints are compiled with, likewise.
  // What the memory for weights follows while a model runs: the running system and its clock, or a test's.
  std::string system_root;
  std::function<std::chrono::nanoseconds()> clock = {};
  std::function<void(uint64_t bytes_done, uint64_t bytes_total)> progress = {};
};

class Engine {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Engine>> open(const std::string& path,
                                                            const EngineOptions& options);

  [[nodiscard]] const formats::ModelManifest& manifest() const { return manifest_; }
  [[nodiscard]] model::Model& model() { return *model_; }
  [[nodiscard]] compute::Cpu& cpu() { return *cpu_; }
  // With `with_tokenizer` only.
  [[nodiscard]] const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  // With `with_grammars` only.
  [[nodiscard]] const text::GrammarCompiler& grammars() const { return *grammars_; }
  // Null without a budget.
  [[nodiscard]] const storage::Storage* storage() const { return storage_.get(); }
  // Between two tokens: lets the cache of streamed experts, or those of a dense model's layers that stay, follow the
  // pressure on the machine's memory. At most a few readings a second, of some 20 us each; none without a budget.
  void adapt_memory();
  // Between two tokens: reads more gently while the drive is hot.
  void spare_drive();
  // Of the drive that weights are streamed from, as looked at last; nothing where it does not tell.
  [[nodiscard]] std::optional<double> drive_celsius() const;
  // Names what, besides the program, makes the bits of keys and values: the model's files, as they are now, and the
  // arithmetic. Reads a few pages of each.
  [[nodiscard]] Result<std::string> cache_maker() const;
  // Of the budget, what this model may come to take, its tokenizer included; 0 without a budget.
  [[nodiscard]] uint64_t claimed_bytes() const;
  [[nodiscard]] double load_seconds() const { return load_seconds_; }
  // What the process held before the weights: the program, the tokenizer.
  [[nodiscard]] uint64_t held_before_weights() const { return held_before_weights_; }

 private:
  Engine() = default;
  Status govern(const EngineOptions& options);
  formats::ModelManifest manifest_;
  std::optional<text::Tokenizer> tokenizer_;
  std::optional<text::GrammarCompiler> grammars_;
  std::unique_ptr<storage::Storage> storage_;
  std::unique_ptr<compute::ThreadPool> pool_;
  std::unique_ptr<compute::Cpu> cpu_;
  std::unique_ptr<model::Model> model_;
  std::string arithmetic_;
  double load_seconds_ = 0.0;
  uint64_t held_before_weights_ = 0;
  uint64_t tokenizer_bytes_ = 0;  // With grammars, those that may come to be kept included.
  std::optional<platform::MemorySource> memory_source_;
  std::optional<memory::Governor> governor_;
  std::optional<DriveCare> drive_care_;
  std::function<std::chrono::nanoseconds()> clock_;
  std::chrono::nanoseconds read_at_{0};
  uint64_t reserved_bytes_ = 0;  // Of the budget, for all but the cache: what was planned, touched or not.
};

}  // namespace mlxf::engine
