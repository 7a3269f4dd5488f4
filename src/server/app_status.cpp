// What the app tells about itself: /status and /metrics.
#include "platform/process.h"
#include "server/app.h"
#include "server/facts.h"

namespace mlxf::server {

void App::status(const Exchange& exchange, const std::string& id) {
  const http::Server* server = listening_;
  Json body = status_facts(host_);
  body["stats"] = {{"requests", requests_total_.value()}, {"uptime_s", uptime_seconds()}};
  body["connections"] = server != nullptr ? server->connections() : 0;
  exchange->respond({200, "application/json", dump_json(body), {{"X-Request-Id", id}}, false});
}

void App::metrics_text(const Exchange& exchange, const std::string& id) {
  exchange->respond(
      {200, "text/plain; version=0.0.4; charset=utf-8", metrics_.expose(), {{"X-Request-Id", id}}, false});
}

void App::register_metrics() {
  metrics_.info("mlx_flash_info", "1, with the main model as a label.", [this] {
    return MetricLabels{{"model", host_.name()}};
  });
  metrics_.gauge("mlx_flash_uptime_seconds", "Since the server started.",
                 [this] { return uptime_seconds(); });
  metrics_.gauge("mlx_flash_model_loaded", "1 once a model is in memory.",
                 [this] { return host_.loaded().empty() ? 0.0 : 1.0; });
  metrics_.gauge("mlx_flash_models_loaded", "Models in memory.",
                 [this] { return static_cast<double>(host_.loaded().size()); });
  metrics_.gauge("mlx_flash_memory_total_bytes", "The machine's memory.",
                 [] { return static_cast<double>(read_memory().total_bytes); });
  metrics_.gauge("mlx_flash_memory_available_bytes", "What could be had without swapping.",
                 [] { return static_cast<double>(read_memory().available_bytes); });
  metrics_.gauge("mlx_flash_memory_used_ratio", "1 - available / total.",
                 [] { return used_ratio(read_memory()); });
  metrics_.gauge("mlx_flash_memory_pressure", "0 normal, 1 warning, 2 critical.",
                 [] { return static_cast<double>(pressure_level(read_memory())); });
  metrics_.gauge("mlx_flash_own_memory_bytes", "What only this process can give back.",
                 [] { return static_cast<double>(platform::own_memory_bytes()); });
  metrics_.gauge("mlx_flash_requests_running", "Generations that run.",
                 [this] { return static_cast<double>(scheduler_status(host_).running); });
  metrics_.gauge("mlx_flash_requests_waiting", "Generations that wait.",
                 [this] { return static_cast<double>(scheduler_status(host_).waiting); });
  metrics_.gauge("mlx_flash_kv_bytes", "Keys and values of running generations.",
                 [this] { return static_cast<double>(scheduler_status(host_).kv.held(memory::Tag::kKv)); });
  metrics_.gauge("mlx_flash_prefix_bytes", "Keys and values kept for prompts to come.", [this] {
    return static_cast<double>(scheduler_status(host_).kv.held(memory::Tag::kPrefix));
  });
  register_disk_metrics();
  metrics_.counter_of("mlx_flash_cache_hits_total", "Streamed weights that were in memory when needed.",
                      [this] { return static_cast<double>(scheduler_status(host_).weights.hits); });
  metrics_.counter_of("mlx_flash_cache_misses_total", "Streamed weights that had to be read, or waited for.",
                      [this] {
                        const weights::RecordCacheStats stats = scheduler_status(host_).weights;
                        return static_cast<double>(stats.needed - stats.hits);
                      });
  metrics_.gauge("mlx_flash_cache_hit_ratio",
                 "Of streamed weights' bytes, those in memory; 1 if none is streamed.", [this] {
                   const weights::RecordCacheStats stats = scheduler_status(host_).weights;
                   return stats.needed_bytes == 0 ? 1.0
                                                  : static_cast<double>(stats.hit_bytes) /
                                                        static_cast<double>(stats.needed_bytes);
                 });
  metrics_.counter_of("mlx_flash_weight_read_bytes_total", "Read from the disk for streamed weights.",
                      [this] { return static_cast<double>(scheduler_status(host_).weights.read_bytes); });
  metrics_.counter_of("mlx_flash_stall_seconds_total", "Spent waiting for streamed weights.",
                      [this] { return scheduler_status(host_).weights.stall_seconds; });
}

void App::register_disk_metrics() {
  const engine::PrefixFolder* folder = host_.prefix_folder();
  if (folder == nullptr) return;
  metrics_.gauge("mlx_flash_prefix_disk_bytes", "Keys and values kept on the disk.",
                 [folder] { return static_cast<double>(folder->stats().bytes); });
  metrics_.gauge("mlx_flash_prefix_disk_entries", "Beginnings of conversations kept on the disk.",
                 [folder] { return static_cast<double>(folder->stats().entries); });
  metrics_.counter_of("mlx_flash_prefix_disk_hits_total", "Of them, those that were restored.",
                      [folder] { return static_cast<double>(folder->stats().hits); });
  metrics_.counter_of("mlx_flash_prefix_disk_writes_total", "Of them, those that were written.",
                      [folder] { return static_cast<double>(folder->stats().writes); });
  metrics_.counter_of("mlx_flash_prefix_disk_rejected_total",
                      "Files that were removed because of a fault, unused.",
                      [folder] { return static_cast<double>(folder->stats().rejected); });
}

}  // namespace mlxf::server
