#include "server/facts.h"

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
  const auto model = host.find_model();
  return model != nullptr ? model->scheduler->status() : engine::SchedulerStatus{};
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

Json status_facts(const ModelHost& host) {
  const platform::MemoryReading reading = read_memory();
  const auto model = host.find_model();
  const ModelHost::Names names = host.names();
  Json body = {{"model", names.now},
               {"model_loaded", model != nullptr},
               {"health", health_word(host)},
               {"hardware", {{"chip", platform::processor_name()}, {"ram_gb", gib(reading.total_bytes)}}},
               {"memory", memory_facts(reading)}};
  if (!names.next.empty()) body["switching_to"] = names.next;
  if (host.prefix_folder() != nullptr) {
    const engine::PrefixFolderStats disk = host.prefix_folder()->stats();
    body["prefix_disk"] = {{"bytes", disk.bytes},       {"entries", disk.entries},
                           {"hits", disk.hits},         {"writes", disk.writes},
                           {"rejected", disk.rejected}, {"writing", !disk.off && !disk.writes_off},
                           {"reading", !disk.off}};
  }
  if (model == nullptr) return body;
  const engine::SchedulerStatus scheduler = model->scheduler->status();
  body["scheduler"] = {{"running", scheduler.running},
                       {"waiting", scheduler.waiting},
                       {"parallel", model->scheduler->options().parallel},
                       {"context_tokens", model->context_tokens},
                       {"kv_bytes", scheduler.kv.held(memory::Tag::kKv)},
                       {"kv_bytes_max", scheduler.kv.budget_bytes},
                       {"prefix_bytes", scheduler.kv.held(memory::Tag::kPrefix)},
                       {"prefix_entries", scheduler.prefix_entries}};
  if (scheduler.streams)
    body["streaming"] = {{"cache_bytes", scheduler.weight_cache_bytes},
                         {"needed", scheduler.weights.needed},
                         {"hits", scheduler.weights.hits},
                         {"read_bytes", scheduler.weights.read_bytes},
                         {"stall_seconds", scheduler.weights.stall_seconds}};
  return body;
}

Json model_facts(const ModelHost& host, int64_t created) {
  Json entry = {{"id", host.name()}, {"object", "model"}, {"created", created}, {"owned_by", "mlx-flash"}};
  const auto served = host.find_model();
  entry["status"] = served != nullptr ? "loaded" : "not loaded";
  if (served != nullptr) entry["context_length"] = served->context_tokens;
  return entry;
}

}  // namespace mlxf::server
