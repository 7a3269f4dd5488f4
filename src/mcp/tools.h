// The tools that MCP's clients can call: their names, schemas and arguments.
//
// Pure values; any thread. Who runs them gives a ToolResult: what a model may read, whether it went well or not.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/call.h"
#include "api/errors.h"
#include "base/json.h"

namespace mlxf::mcp {

enum class Tool : uint8_t { kGenerate, kCheckMemory, kListModels, kGetStatus, kSwitchModel, kReleaseMemory };
// For whoever runs the server, not for everybody who may ask it.
[[nodiscard]] bool is_administrative(Tool tool);

[[nodiscard]] std::optional<Tool> find_tool(std::string_view name);
// Name, title, description and schemas of each, in an order that stays.
[[nodiscard]] const Json& tool_list();

// generate's arguments. A prompt is a user's message where the model has a chat template and `raw` is not set.
[[nodiscard]] tl::expected<api::Call, api::ApiError> parse_generate(const Json& arguments);
// switch_model's one argument, the model's name.
[[nodiscard]] tl::expected<std::string, api::ApiError> parse_switch(const Json& arguments);
// The other tools take none.
[[nodiscard]] std::optional<api::ApiError> check_no_arguments(const Json& arguments);

struct ToolResult {
  std::string text;
  Json structured = nullptr;  // As the tool's outputSchema says.
  bool is_error = false;
};
[[nodiscard]] ToolResult error_result(const api::ApiError& error);
// A result that is JSON alone.
[[nodiscard]] ToolResult json_result(Json structured);

}  // namespace mlxf::mcp
