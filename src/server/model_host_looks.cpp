// What ModelHost tells about its models.
#include <algorithm>
#include <utility>

#include "server/model_host.h"

namespace mlxf::server {

ModelHost::State ModelHost::state() const {
  const MutexLock lock(mutex_);
  return local_place().state;
}

std::shared_ptr<ServedModel> ModelHost::find_model() const {
  const MutexLock lock(mutex_);
  const Place& place = local_place();
  return place.uses->hand_out(place.model, ModelUses::Kind::kLook);
}

std::string ModelHost::name() const {
  const MutexLock lock(mutex_);
  return main_;
}

std::string ModelHost::next_name() const {
  const MutexLock lock(mutex_);
  return next_;
}

std::optional<std::chrono::milliseconds> ModelHost::Place::expires_in() const {
  if (model == nullptr) return std::nullopt;
  if (keep_alive == kForever) return kForever;
  const ModelUses::Counts counts = uses->counts();
  if (counts.work != 0) return keep_alive;
  const auto left = counts.idle_since + keep_alive - Clock::now();
  return std::max(std::chrono::milliseconds(0), std::chrono::duration_cast<std::chrono::milliseconds>(left));
}

std::optional<std::chrono::milliseconds> ModelHost::expires_in() const {
  const MutexLock lock(mutex_);
  return local_place().expires_in();
}

std::vector<ModelHost::Loaded> ModelHost::loaded() const {
  std::vector<Loaded> out;
  const MutexLock lock(mutex_);
  for (const auto& place : places_) {
    if (place->model == nullptr) continue;
    Loaded one;
    one.facts = place->source.facts;
    one.facts.name = place->source.name;
    one.facts.context_tokens = place->model->context_tokens;
    one.facts.context_tokens_max = place->model->engine->model().spec().context_max;
    if (place->model->chat) one.facts.chat_template = place->model->chat->source();
    one.busy = place->uses->counts().work != 0;
    one.expires_in = *place->expires_in();
    one.claim_bytes = place->claim.bytes();
    one.model = place->uses->hand_out(place->model, ModelUses::Kind::kLook);
    out.push_back(std::move(one));
  }
  const std::string main = main_;
  std::sort(out.begin(), out.end(), [&](const Loaded& a, const Loaded& b) {
    const bool a_main = a.facts.name == main, b_main = b.facts.name == main;
    return a_main != b_main ? a_main : a.facts.name < b.facts.name;
  });
  return out;
}

std::vector<api::OllamaModel> ModelHost::servable() const {
  const auto named = [](const ModelSource& source) {
    api::OllamaModel facts = source.facts;
    facts.name = source.name;
    return facts;
  };
  std::vector<api::OllamaModel> out, rest;
  {
    const MutexLock lock(mutex_);
    out.push_back(named(main_place().source));
    for (const auto& place : places_)
      if (place->model != nullptr && options_.by_name) rest.push_back(named(place->source));
  }
  if (!options_.by_name || !options_.find) return out;
  rest.push_back(named(options_.model));
  if (options_.list)
    for (api::OllamaModel& facts : options_.list()) rest.push_back(std::move(facts));
  std::stable_sort(rest.begin(), rest.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (api::OllamaModel& facts : rest)
    if (facts.name != out.front().name && facts.name != out.back().name) out.push_back(std::move(facts));
  return out;
}

std::vector<std::string> ModelHost::others() const {
  std::vector<std::string> names;
  if (options_.list)
    for (const api::OllamaModel& facts : options_.list()) names.push_back(facts.name);
  names.push_back(options_.model.name);
  const std::string main = name();
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  names.erase(std::remove(names.begin(), names.end(), main), names.end());
  return names;
}

Result<api::OllamaModel> ModelHost::facts_of(const Wanted& wanted) const {
  Result<ModelSource> source = wanted.name == options_.model.name ? Result<ModelSource>(options_.model)
                                                                  : find_source(options_.find, wanted.name);
  if (!source) return tl::unexpected<Error>(source.error());
  source->facts.name = wanted.name;
  return std::move(source->facts);
}

}  // namespace mlxf::server
