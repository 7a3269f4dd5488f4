#include "api/anthropic_turns.h"

#include <string>

namespace mlxf::api {
namespace {

Json tool_call(const Json& block) {
  const Json* input = find_member(block, "input");
  return {{"id", find_string(block, "id").value_or("")},
          {"type", "function"},
          {"function",
           {{"name", find_string(block, "name").value_or("")},
            {"arguments", input == nullptr ? Json::object() : *input}}}};
}

Json tool_result(const Json& block) {
  const Json* content = find_member(block, "content");
  return {{"role", "tool"},
          {"tool_call_id", find_string(block, "tool_use_id").value_or("")},
          {"content", content == nullptr ? Json("") : *content}};
}

void add_turn(const Json& message, Json& out) {
  Json rest = message;
  Json parts = Json::array();
  Json calls = Json::array();
  bool results = false;
  std::string reasoning;
  for (const Json& block : message["content"]) {
    const std::string type = find_string(block, "type").value_or("");
    if (type == "tool_result") {
      out.push_back(tool_result(block));
      results = true;
    } else if (type == "tool_use") {
      calls.push_back(tool_call(block));
    } else if (type == "thinking") {
      reasoning += find_string(block, "thinking").value_or("");
    } else if (type != "redacted_thinking") {  // Of another service's model, and for it alone.
      parts.push_back(block);
    }
  }
  if (results && parts.empty()) return;
  rest["content"] = std::move(parts);
  if (!calls.empty()) rest["tool_calls"] = std::move(calls);
  if (!reasoning.empty()) rest["reasoning_content"] = reasoning;
  out.push_back(std::move(rest));
}

}  // namespace

Json plain_turns(const Json& messages) {
  Json out = Json::array();
  for (const Json& message : messages) {
    const Json* content = find_member(message, "content");
    if (content != nullptr && content->is_array()) {
      add_turn(message, out);
    } else {
      out.push_back(message);
    }
  }
  return out;
}

}  // namespace mlxf::api
