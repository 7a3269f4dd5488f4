#include "api/anthropic_turns.h"

#include <string>

#include "api/messages.h"

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

// What a tool returned, as text parts.
Json result_parts(const Json& content, const std::string& where, std::vector<std::string>& warnings) {
  if (!content.is_array()) return content;
  Json parts = Json::array();
  LeftOutParts out;
  for (const Json& part : content) {
    const std::string type = find_string(part, "type").value_or("text");
    if (type == "text") {
      parts.push_back(part);
      continue;
    }
    parts.push_back({{"type", "text"}, {"text", left_out(type)}});
    out.add(type);
  }
  out.warn(where, warnings);
  return parts;
}

Json tool_result(const Json& block, const std::string& where, std::vector<std::string>& warnings) {
  const Json* content = find_member(block, "content");
  Json parts = content == nullptr ? Json("") : result_parts(*content, where, warnings);
  // Templates have no word of their own for it.
  if (find_bool(block, "is_error").value_or(false)) {
    if (!parts.is_array()) parts = Json::array({{{"type", "text"}, {"text", std::move(parts)}}});
    parts.insert(parts.begin(), Json{{"type", "text"}, {"text", "The tool failed:"}});
  }
  return {{"role", "tool"},
          {"tool_call_id", find_string(block, "tool_use_id").value_or("")},
          {"content", std::move(parts)}};
}

void add_turn(const Json& message, const std::string& where, Json& out, std::vector<std::string>& warnings) {
  Json rest = message;
  Json parts = Json::array();
  Json calls = Json::array();
  bool results = false;
  std::string reasoning;
  for (const Json& block : message["content"]) {
    const std::string type = find_string(block, "type").value_or("");
    if (type == "tool_result") {
      out.push_back(tool_result(block, where, warnings));
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

Json plain_turns(const Json& messages, std::vector<std::string>& warnings) {
  Json out = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json* content = find_member(messages[i], "content");
    if (content != nullptr && content->is_array()) {
      add_turn(messages[i], "messages[" + std::to_string(i) + "]", out, warnings);
    } else {
      out.push_back(messages[i]);
    }
  }
  return out;
}

}  // namespace mlxf::api
