// What the server tells about itself as JSON: the same facts for /status, /v1/models and MCP's tools.
//
// Pure functions of the model host and the system; any thread. Sizes named _gb are GiB, others bytes.
#pragma once

#include <string>

#include "base/json.h"
#include "engine/scheduler.h"
#include "platform/memory_info.h"
#include "server/model_host.h"

namespace mlxf::server {

// What the system says now; zeros where it does not.
[[nodiscard]] platform::MemoryReading read_memory();
// 0 normal, 1 warning, 2 critical: by what macOS says, or by how long programs waited for memory lately.
[[nodiscard]] int pressure_level(const platform::MemoryReading& reading);
[[nodiscard]] double used_ratio(const platform::MemoryReading& reading);  // 1 - available / total.

// Of all loaded models: sums, and the last error of one of them. Zeros while none is loaded.
[[nodiscard]] engine::SchedulerStatus scheduler_status(const ModelHost& host);
// "ok", "loading", "failed" (the model could not be loaded) or "degraded" (its last pass failed).
[[nodiscard]] std::string health_word(const ModelHost& host);

[[nodiscard]] Json memory_facts(const platform::MemoryReading& reading);
// The main model, health, machine, memory, and of each loaded model its scheduler and, where its weights are streamed,
// what that costs; of the one that "local" means at the top as well.
[[nodiscard]] Json status_facts(const ModelHost& host);
// Models in /v1/models' form: all that can be asked for, the main one first. `created`: seconds since 1970.
[[nodiscard]] Json models_facts(const ModelHost& host, int64_t created);
// One of them, by its name.
[[nodiscard]] Json model_facts(const ModelHost& host, const std::string& name, int64_t created);

}  // namespace mlxf::server
