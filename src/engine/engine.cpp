#include "engine/engine.h"

#include <algorithm>
#include <chrono>

#include "formats/fingerprint.h"
#include "model/weight_stream.h"
#include "platform/file.h"
#include "platform/process.h"

namespace mlxf::engine {
namespace {

// The governor wants to be asked once a second at least, and reacts within one.
constexpr std::chrono::milliseconds kReadEvery(250);

const char* name_of(Activations activations) {
  switch (activations) {
    case Activations::kAuto:
      return "auto";
    case Activations::kF32:
      return "f32";
    case Activations::kInt8:
      return "int8";
  }
  return "";
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const std::string& path, const EngineOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_ptr<Engine> engine(new Engine());
  ASSIGN_OR_RETURN(engine->manifest_, formats::open_model(path));
  const uint64_t held = platform::own_memory_bytes();
  if (options.with_tokenizer) {
    ASSIGN_OR_RETURN(engine->tokenizer_, text::load_tokenizer(engine->manifest_));
    if (options.with_grammars) {
      ASSIGN_OR_RETURN(engine->grammars_, text::GrammarCompiler::create(*engine->tokenizer_));
    }
  }
  engine->tokenizer_bytes_ = std::max(held, platform::own_memory_bytes()) - held;
  const uint64_t kept_bytes = engine->grammars_ ? text::GrammarCompiler::kKeptBytesMax : 0;
  engine->tokenizer_bytes_ += kept_bytes;
  engine->pool_ = std::make_unique<compute::ThreadPool>(options.threads != 0 ? options.threads
                                                                             : platform::usable_processors());
  compute::Cpu::Options cpu_options;
  engine->arithmetic_ = std::string("kernels ") + kernels::select_kernels().isa + ", activations " +
                        name_of(options.activations) + (options.bf16_rope_frequencies ? ", bf16 rope" : "");
  cpu_options.arithmetic =
      options.activations == Activations::kF32 ? compute::Arithmetic::kF32 : compute::Arithmetic::kInt8;
  engine->cpu_ = std::make_unique<compute::Cpu>(kernels::select_kernels(), *engine->pool_, cpu_options);
  model::LoadOptions load;
  load.int8_rows = options.activations == Activations::kInt8;
  load.bf16_rope_frequencies = options.bf16_rope_frequencies;
  load.progress = options.progress;
  if (options.memory_budget != 0) {
    ASSIGN_OR_RETURN(engine->storage_, storage::open_storage(options.storage));
    load.memory.budget_bytes = options.memory_budget;
    if (options.held_bytes_min != 0) {
      load.memory.held_bytes_min = options.held_bytes_min + engine->tokenizer_bytes_;
    } else if (kept_bytes != 0) {
      load.memory.held_bytes_min = platform::own_memory_bytes() + kept_bytes;
    }
    load.memory.storage = engine->storage_.get();
    load.memory.granule_bytes = options.granule_bytes;
    load.memory.context_tokens = options.context_tokens;
    load.memory.sequences = options.sequences;
    load.memory.policy = options.policy;
    load.memory.look_ahead = options.look_ahead;
    load.memory.guess = options.guess_experts;
  }
  engine->held_before_weights_ = platform::own_memory_bytes();
  ASSIGN_OR_RETURN(engine->model_, model::Model::load(engine->manifest_, *engine->cpu_, load));
  if (options.memory_budget != 0) RETURN_IF_ERROR(engine->govern(options));
  engine->clock_ =
      options.clock ? options.clock : [] { return std::chrono::steady_clock::now().time_since_epoch(); };
  if (engine->model_->may_stream())
    engine->drive_care_.emplace(
        *engine->storage_, platform::DriveTemperature::find(engine->manifest_.files[0], options.system_root));
  engine->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return engine;
}

Status Engine::govern(const EngineOptions& options) {
  const model::WeightStream* weights = model_->resizable();
  if (weights == nullptr) return {};
  const model::WeightStream::Room room = weights->room();
  memory::GovernorOptions governor;
  governor.budget_bytes = options.memory_budget;
  governor.floor_bytes = room.floor_bytes;
  governor.most_bytes = room.most_bytes;
  governor.chunk_bytes = room.chunk_bytes;
  governor_.emplace(governor);
  reserved_bytes_ = options.memory_budget - std::min(options.memory_budget, room.bytes);
  if (model_->expert_cache() == nullptr) {
    // Layers do not fill the budget to the last byte.
    const uint64_t kept_bytes = grammars_ ? text::GrammarCompiler::kKeptBytesMax : 0;
    const uint64_t before =
        std::max(held_before_weights_ + kept_bytes,
                 options.held_bytes_min == 0 ? 0 : options.held_bytes_min + tokenizer_bytes_);
    reserved_bytes_ = std::min(reserved_bytes_, before + model_->claimed_bytes() - room.bytes);
  }
  ASSIGN_OR_RETURN(memory_source_, platform::MemorySource::open(options.system_root));
  return {};
}

uint64_t Engine::claimed_bytes() const {
  const uint64_t model = model_->claimed_bytes();
  return model == 0 ? 0 : model + tokenizer_bytes_;
}

void Engine::spare_drive() {
  if (drive_care_ && model_->streams()) drive_care_->look(clock_());
}

Result<std::string> Engine::cache_maker() const {
  ASSIGN_OR_RETURN(std::string maker, formats::fingerprint(manifest_));
  maker = arithmetic_ + ", model " + maker;
  for (const std::string& path : manifest_.files) {
    ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path));
    // A fingerprint samples: what changes between its samples changes these.
    maker.append(", ").append(std::to_string(file.identity().bytes)).append(" bytes of ");
    maker.append(std::to_string(file.identity().modified_ns));
  }
  return maker;
}

std::optional<double> Engine::drive_celsius() const {
  return drive_care_ ? drive_care_->celsius() : std::nullopt;
}

void Engine::adapt_memory() {
  if (!governor_) return;
  const std::chrono::nanoseconds now = clock_();
  if (now - read_at_ < kReadEvery) return;
  read_at_ = now;
  const auto reading = memory_source_->read();
  if (!reading) return;  // The budget holds all the same.
  model::WeightStream& weights = *model_->resizable();
  // Not by room(), which takes memory to find out.
  const uint64_t slots = weights.cache() != nullptr ? weights.cache()->touched_bytes() : 0;
  const uint64_t held = platform::own_memory_bytes(), touched = weights.layer_bytes() + slots;
  const uint64_t others = std::max(reserved_bytes_, held - std::min(held, touched));
  const memory::Decision decision = governor_->decide(*reading, {touched, others}, now);
  switch (decision.cause) {
    case memory::Decision::Cause::kHold:
      return;
    case memory::Decision::Cause::kStart:
      // What was planned stands, untouched as most of it still is; but layers that were loaded are there.
      if (decision.slot_bytes < touched) weights.set_bytes(decision.slot_bytes);
      return;
    case memory::Decision::Cause::kLow:
    case memory::Decision::Cause::kStalls:
      if (grammars_) grammars_->forget();
      [[fallthrough]];
    case memory::Decision::Cause::kCalm:
    case memory::Decision::Cause::kCeiling:
      weights.set_bytes(decision.slot_bytes);
  }
}

}  // namespace mlxf::engine
