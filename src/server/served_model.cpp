#include "server/served_model.h"

#include <algorithm>
#include <exception>

#include "engine/sampling_defaults.h"

namespace mlxf::server {
namespace {

constexpr uint64_t kNormalisedShare =
    4;  // Normalising a text (NFC, blanks) may make it shorter, not to less than this.

uint64_t longest_token(const text::Tokenizer& tokenizer) {
  uint64_t longest = 1;
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id)
    longest = std::max<uint64_t>(longest, tokenizer.token_bytes(static_cast<TokenId>(id)).size());
  return longest;
}

Result<std::shared_ptr<ServedModel>> open_now(const ModelSource& source, const ServingOptions& options,
                                              uint64_t held_bytes_min, Metrics& metrics) {
  auto served = std::make_shared<ServedModel>();
  served->name = source.name;
  ASSIGN_OR_RETURN(served->engine, source.open(held_bytes_min));
  const formats::ModelManifest& manifest = served->engine->manifest();
  served->tokenizer = served->engine->tokenizer();
  served->grammars = served->engine->grammars();
  if (!source.chat_template.empty()) {
    const auto spelled = [&](std::optional<TokenId> id) {
      return id ? served->tokenizer->token_text(*id) : std::string();
    };
    ASSIGN_OR_RETURN(served->chat,
                     text::parse_chat_template(source.chat_template, spelled(served->tokenizer->bos()),
                                               spelled(served->tokenizer->eos())));
  } else if (auto chat = text::load_chat_template(manifest); chat) {
    served->chat = std::move(*chat);
  } else if (chat.error().code != ErrorCode::kNotFound) {
    return tl::unexpected<Error>(chat.error());
  }
  if (served->chat) {
    served->answers = text::detect_answer_format(served->chat->source());
    served->turns = text::find_turn_rules(*served->chat);
    for (const std::string& spelling : text::marker_spellings(served->answers)) {
      const auto id = served->tokenizer->find_token(spelling);
      if (id && served->tokenizer->traits(*id).special) served->marker_tokens.push_back(*id);
    }
  }
  ASSIGN_OR_RETURN(served->defaults, engine::default_sampling(manifest));
  const model::Model& model = served->engine->model();
  const uint32_t most = model.spec().context_max != 0 ? model.spec().context_max : 1u << 20;
  served->context_tokens =
      std::max(2u, options.context_tokens == 0 ? most : std::min(most, options.context_tokens));
  served->prompt_bytes_max =
      uint64_t{served->context_tokens} * kNormalisedShare * longest_token(*served->tokenizer);
  engine::SchedulerOptions scheduler = options.scheduler;
  scheduler.context_max = served->context_tokens;
  if (options.neighbour_tokens != 0)
    scheduler.kv_bytes = model.sequence_bytes(served->context_tokens) +
                         (scheduler.parallel - 1) *
                             model.sequence_bytes(std::min(served->context_tokens, options.neighbour_tokens));
  served->scheduler =
      std::make_unique<engine::Scheduler>(*served->engine, &*served->tokenizer, scheduler, metrics);
  return served;
}

// What libraries throw where there is no memory or no thread to be had: this load's end, not the server's.
template <typename T, typename Work>
Result<T> guarded(const Work& work) {
  try {
    return work();
  } catch (const std::exception& problem) {
    return fail(ErrorCode::kInternal, problem.what());
  }
}

}  // namespace

Result<ModelSource> find_source(const FindModel& find, const std::string& name) {
  if (!find) return fail(ErrorCode::kNotFound, "this server has no other models");
  return guarded<ModelSource>([&] { return find(name); });
}

Result<ModelNeed> need_of(const ModelSource& source) {
  if (!source.need) return ModelNeed{};
  return guarded<ModelNeed>([&] { return source.need(); });
}

Result<std::shared_ptr<ServedModel>> open_served(const ModelSource& source, const ServingOptions& options,
                                                 uint64_t held_bytes_min, Metrics& metrics) {
  return guarded<std::shared_ptr<ServedModel>>(
      [&] { return open_now(source, options, held_bytes_min, metrics); });
}

}  // namespace mlxf::server
