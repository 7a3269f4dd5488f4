#include "server/facts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "platform/machine.h"
#include "platform/process.h"

namespace mlxf::server {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

double gib(uint64_t bytes) { return static_cast<double>(bytes) / kGib; }

}  // namespace

platform::MemoryReading read_memory() {
  auto source = platform::MemorySource::open();
  if (!source) return {};
  return source->read().value_or(platform::MemoryReading{});
}

int pressure_level(const platform::MemoryReading& reading) {
  if (reading.pressure != platform::MemoryPressure::kNormal) return static_cast<int>(reading.pressure);
  if (reading.host_stalls.full_avg10 > 10.0) return 2;
  return reading.host_stalls.some_avg10 > 10.0 ? 1 : 0;
}

double used_ratio(const platform::MemoryReading& reading) {
  if (reading.total_bytes == 0) return 0.0;
  return 1.0 - static_cast<double>(reading.available_bytes) / static_cast<double>(reading.total_bytes);
}

engine::SchedulerStatus scheduler_status(const ModelHost& host) {
  engine::SchedulerStatus sum;
  for (const ModelHost::Loaded& one : host.loaded()) {
    const engine::SchedulerStatus status = one.model->scheduler->status();
    sum.running += status.running;
    sum.waiting += status.waiting;
    sum.kv.budget_bytes += status.kv.budget_bytes;
    sum.kv.held_bytes += status.kv.held_bytes;
    sum.kv_doubled_bytes += status.kv_doubled_bytes;
    for (size_t tag = 0; tag < memory::kTagCount; ++tag) sum.kv.by_tag[tag] += status.kv.by_tag[tag];
    sum.prefix_entries += status.prefix_entries;
    if (sum.last_error.empty()) sum.last_error = status.last_error;
    sum.streams = sum.streams || status.streams;
    sum.weights.needed += status.weights.needed;
    sum.weights.hits += status.weights.hits;
    sum.weights.needed_bytes += status.weights.needed_bytes;
    sum.weights.hit_bytes += status.weights.hit_bytes;
    sum.weights.read_bytes += status.weights.read_bytes;
    sum.weights.stall_seconds += status.weights.stall_seconds;
    sum.weight_cache_bytes += status.weight_cache_bytes;
  }
  return sum;
}

std::string health_word(const ModelHost& host) {
  switch (host.state()) {
    case ModelHost::State::kLoading:
      return "loading";
    case ModelHost::State::kFailed:
      return "failed";
    case ModelHost::State::kUnloaded:
    case ModelHost::State::kReady:
      break;
  }
  return scheduler_status(host).last_error.empty() ? "ok" : "degraded";
}

Json memory_facts(const platform::MemoryReading& reading) {
  static constexpr const char* kPressure[] = {"Normal", "Warning", "Critical"};
  return {{"total_gb", gib(reading.total_bytes)},
          {"available_gb", gib(reading.available_bytes)},
          {"own_gb", gib(platform::own_memory_bytes())},
          {"pressure", kPressure[pressure_level(reading)]}};
}

namespace {

// Of a loaded model: what it does and what it holds.
void add_scheduler(const ServedModel& model, Json& body) {
  const engine::SchedulerStatus scheduler = model.scheduler->status();
  body["scheduler"] = {{"running", scheduler.running},
                       {"waiting", scheduler.waiting},
                       {"parallel", model.scheduler->options().parallel},
                       {"context_tokens", model.context_tokens},
                       {"kv_bytes", scheduler.kv.held(memory::Tag::kKv)},
                       {"kv_bytes_max", scheduler.kv.budget_bytes},
                       {"prefix_bytes", scheduler.kv.held(memory::Tag::kPrefix)},
                       {"shared_bytes", scheduler.kv_doubled_bytes},
                       {"prefix_entries", scheduler.prefix_entries}};
  if (model.grammars)
    body["grammars"] = {{"kept_bytes", model.grammars->kept_bytes()},
                        {"kept_bytes_max", text::GrammarCompiler::kKeptBytesMax}};
  if (scheduler.streams)
    body["streaming"] = {{"cache_bytes", scheduler.weight_cache_bytes},
                         {"needed", scheduler.weights.needed},
                         {"hits", scheduler.weights.hits},
                         {"read_bytes", scheduler.weights.read_bytes},
                         {"stall_seconds", scheduler.weights.stall_seconds}};
}

Json loaded_facts(const ModelHost& host) {
  Json models = Json::array();
  for (const ModelHost::Loaded& one : host.loaded()) {
    Json entry = {{"model", one.facts.name}, {"busy", one.busy}};
    entry["expires_in_s"] =
        one.expires_in == kForever ? Json() : Json(static_cast<double>(one.expires_in.count()) / 1e3);
    if (one.claim_bytes != 0) entry["claimed_bytes"] = one.claim_bytes;
    add_scheduler(*one.model, entry);
    models.push_back(std::move(entry));
  }
  return models;
}

}  // namespace

Json status_facts(const ModelHost& host) {
  const platform::MemoryReading reading = read_memory();
  const auto model = host.find_model();
  const std::string next = host.next_name();
  Json body = {{"model", host.name()},
               {"model_loaded", model != nullptr},
               {"health", health_word(host)},
               {"hardware", {{"chip", platform::processor_name()}, {"ram_gb", gib(reading.total_bytes)}}},
               {"memory", memory_facts(reading)},
               {"models", loaded_facts(host)}};
  const memory::LedgerSnapshot claims = host.claims();
  if (claims.budget_bytes != 0) {
    body["memory"]["budget_bytes"] = claims.budget_bytes;
    body["memory"]["claimed_bytes"] = claims.held_bytes;
  }
  if (!next.empty()) body["switching_to"] = next;
  if (host.prefix_folder() != nullptr) {
    const engine::PrefixFolderStats disk = host.prefix_folder()->stats();
    body["prefix_disk"] = {{"bytes", disk.bytes},       {"entries", disk.entries},
                           {"hits", disk.hits},         {"writes", disk.writes},
                           {"rejected", disk.rejected}, {"writing", !disk.off && !disk.writes_off},
                           {"reading", !disk.off}};
  }
  if (model != nullptr) add_scheduler(*model, body);
  return body;
}

namespace {

Json entry_of(const std::string& name, const std::vector<ModelHost::Loaded>& loaded, int64_t created) {
  Json entry = {{"id", name}, {"object", "model"}, {"created", created}, {"owned_by", "mlx-flash"}};
  const auto there = std::find_if(loaded.begin(), loaded.end(),
                                  [&](const ModelHost::Loaded& one) { return one.facts.name == name; });
  entry["status"] = there != loaded.end() ? "loaded" : "not loaded";
  if (there != loaded.end()) entry["context_length"] = there->model->context_tokens;
  return entry;
}

}  // namespace

Json models_facts(const ModelHost& host, int64_t created) {
  const std::vector<ModelHost::Loaded> loaded = host.loaded();
  Json models = Json::array();
  for (const api::OllamaModel& one : host.servable()) models.push_back(entry_of(one.name, loaded, created));
  return models;
}

Json model_facts(const ModelHost& host, const std::string& name, int64_t created) {
  return entry_of(name, host.loaded(), created);
}

}  // namespace mlxf::server
