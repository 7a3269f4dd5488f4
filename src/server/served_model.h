// ServedModel: a loaded model with all that requests need of it; ModelSource: one that can be loaded.
//
// Immutable once loaded, but for the scheduler, which is thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/ollama.h"
#include "base/metrics.h"
#include "base/result.h"
#include "decode/sampler.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "server/model_room.h"
#include "text/answer_format.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/turn_rules.h"

namespace mlxf::server {

struct ServedModel {
  std::string name;
  std::unique_ptr<engine::Engine> engine;  // The scheduler's thread's; constant facts may be read.
  std::optional<text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat;
  text::AnswerFormat answers;          // As the chat template tells it.
  text::TurnRules turns;               // As it follows them.
  std::vector<TokenId> marker_tokens;  // Special tokens that the format needs to see.
  std::optional<text::GrammarCompiler> grammars;
  decode::SamplingParams defaults;
  uint32_t context_tokens = 0;                   // Of one request.
  uint64_t prompt_bytes_max = 0;                 // A longer text cannot be so few tokens.
  std::unique_ptr<engine::Scheduler> scheduler;  // Last: its thread uses the others.
};

// A model that can be served, and how to open it.
struct ModelSource {
  std::string name;             // As clients call it.
  api::OllamaModel facts = {};  // Of its files; what depends on serving it is filled in elsewhere.
  std::string chat_template;    // Jinja source instead of the model's own; empty: the model's.
  std::function<Result<ModelNeed>()> need = {};  // From its headers. Unset: not known.
  // With a tokenizer and grammars. `held_bytes_min`: EngineOptions.
  std::function<Result<std::unique_ptr<engine::Engine>>(uint64_t held_bytes_min)> open;
};

struct ServingOptions {
  uint32_t context_tokens = 0;  // Wanted of one request; 0: the model's.
  // Room for keys and values is that of one whole context and of this many tokens for each further parallel request;
  // 0: of `parallel` whole contexts.
  uint32_t neighbour_tokens = 0;
  engine::SchedulerOptions scheduler;
};

// By a name that comes from a client: kInvalidArgument for what is none, kNotFound, or why it cannot be served.
using FindModel = std::function<Result<ModelSource>(const std::string& name)>;
[[nodiscard]] Result<ModelSource> find_source(const FindModel& find, const std::string& name);
[[nodiscard]] Result<ModelNeed> need_of(const ModelSource& source);

// Opens it and starts its scheduler. `metrics` outlives it.
[[nodiscard]] Result<std::shared_ptr<ServedModel>> open_served(const ModelSource& source,
                                                               const ServingOptions& options,
                                                               uint64_t held_bytes_min, Metrics& metrics);

}  // namespace mlxf::server
