#include "api/messages.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>

namespace mlxf::api {
namespace {

using Unexpected = tl::unexpected<ApiError>;
constexpr size_t kIgnoredMax = 32;  // Names of members that are told.

Unexpected refused(ErrorKind kind, const std::string& where, const std::string& what) {
  return Unexpected({kind, where + " " + what, where});
}

tl::expected<std::string, ApiError> content_text(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) return std::string();
  if (!content.is_array())
    return refused(ErrorKind::kInvalidRequest, where, "must be a string or an array of parts");
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_at = where + "[" + std::to_string(i) + "]";
    const std::optional<std::string> type = find_string(content[i], "type");
    if (!type) return refused(ErrorKind::kInvalidRequest, part_at, "has no type");
    if (*type != "text" && *type != "input_text")
      return refused(ErrorKind::kUnsupported, part_at,
                     "is of type " + *type + "; only text is understood here");
    const std::optional<std::string> part = find_string(content[i], "text");
    if (!part) return refused(ErrorKind::kInvalidRequest, part_at, "has no text");
    text += (i == 0 ? "" : "\n") + *part;
  }
  return text;
}

// The calls of an assistant's earlier turn. Their names are added to `names` by id.
tl::expected<OrderedJson, ApiError> tool_calls(const Json& calls, const std::string& where,
                                               std::map<std::string, std::string>& names) {
  if (!calls.is_array()) return refused(ErrorKind::kInvalidRequest, where, "must be an array");
  OrderedJson out = OrderedJson::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = where + "[" + std::to_string(i) + "]";
    const Json* function = find_member(calls[i], "function");
    const auto name = function == nullptr ? std::nullopt : find_string(*function, "name");
    if (!name || name->empty()) return refused(ErrorKind::kInvalidRequest, at, "has no function with a name");
    OrderedJson arguments = OrderedJson::object();
    if (const auto text = find_string(*function, "arguments"); text && !text->empty()) {
      auto object = parse_ordered_json(*text);
      if (!object) return refused(ErrorKind::kInvalidRequest, at + ".function.arguments", "are no JSON");
      arguments = std::move(*object);
    } else if (const Json* object = text ? nullptr : find_member(*function, "arguments")) {
      arguments = OrderedJson(*object);
    }
    if (!arguments.is_object())
      return refused(ErrorKind::kInvalidRequest, at + ".function.arguments", "must be an object");
    OrderedJson call = OrderedJson::object();
    if (const auto id = find_string(calls[i], "id")) {
      call["id"] = *id;
      names[*id] = *name;
    }
    call["type"] = "function";
    call["function"] = {{"name", *name}, {"arguments", std::move(arguments)}};
    out.push_back(std::move(call));
  }
  return out;
}

// What was thought before an earlier answer, whatever the client calls it.
std::optional<std::string> reasoning_of(const Json& message) {
  for (const char* name : {"reasoning_content", "reasoning", "thinking"})
    if (auto text = find_string(message, name); text && !text->empty()) return text;
  return std::nullopt;
}

std::optional<ApiError> check_role(const Json& message, const std::string& role, const std::string& where) {
  if (role == "function" || find_member(message, "function_call") != nullptr)
    return ApiError{ErrorKind::kUnsupported,
                    where + " is of the older function calls; send tool_calls and role tool", where};
  if (role != "system" && role != "user" && role != "assistant" && role != "tool")
    return ApiError{
        ErrorKind::kInvalidRequest,
        where + ".role is \"" + role + "\"; it must be system, developer, user, assistant or tool",
        where + ".role"};
  const Json* images = find_member(message, "images");
  if (images != nullptr && !(images->is_array() && images->empty()))
    return ApiError{ErrorKind::kUnsupported, where + ".images are not understood here; only text is",
                    where + ".images"};
  const bool calls = role == "assistant" && find_member(message, "tool_calls") != nullptr;
  if (!calls && (!message.contains("content") || (message["content"].is_null() && role != "assistant")))
    return ApiError{ErrorKind::kInvalidRequest, where + ".content is missing", where + ".content"};
  return std::nullopt;
}

// What a message says beside that; each name once.
void warn_of_members(const Json& message, const std::string& where, std::set<std::string>& ignored,
                     std::vector<std::string>& warnings) {
  static constexpr std::string_view kKnown[] = {
      "role",     "content",      "name",   "tool_calls",    "tool_call_id", "tool_name", "reasoning_content",
      "thinking", "reasoning",    "images", "cache_control", "annotations",  "id",        "object",
      "created",  "function_call"};
  for (const auto& [name, value] : message.items()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), name) != std::end(kKnown)) continue;
    if (value.is_null() || value == Json(false) || value == Json("") ||
        (value.is_structured() && value.empty()))
      continue;
    if (ignored.size() < kIgnoredMax && ignored.insert(name).second)
      warnings.push_back(std::string(where).append(".").append(name).append(" ignored"));
  }
}

// Nine letters and digits, always the same for the same id: FNV-1a in base 36.
std::string short_id(const std::string& id) {
  const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0; };
  if (id.size() == 9 && std::all_of(id.begin(), id.end(), is_plain)) return id;
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::string out;
  for (int i = 0; i < 9; ++i, hash /= 36) out += "0123456789abcdefghijklmnopqrstuvwxyz"[hash % 36];
  return out;
}

}  // namespace

tl::expected<OrderedJson, ApiError> chat_messages(const Json& messages, std::vector<std::string>& warnings) {
  if (!messages.is_array() || messages.empty())
    return refused(ErrorKind::kInvalidRequest, "messages", "must be a non-empty array");
  OrderedJson out = OrderedJson::array();
  std::map<std::string, std::string> names;  // Of the functions called, by the call's id.
  std::set<std::string> ignored;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = "messages[" + std::to_string(i) + "]";
    const Json& message = messages[i];
    std::optional<std::string> role = find_string(message, "role");
    if (!role) return refused(ErrorKind::kInvalidRequest, where + ".role", "must be a string");
    if (*role == "developer") role = "system";
    if (const auto error = check_role(message, *role, where)) return Unexpected(*error);
    warn_of_members(message, where, ignored, warnings);
    auto text = message.contains("content") ? content_text(message["content"], where + ".content")
                                            : tl::expected<std::string, ApiError>("");
    if (!text) return Unexpected(text.error());
    OrderedJson plain = {{"role", *role}, {"content", *text}};
    if (const auto name = find_string(message, "name")) plain["name"] = *name;
    if (*role == "tool") {
      const auto id = find_string(message, "tool_call_id");
      if (id) plain["tool_call_id"] = *id;
      if (const auto name = find_string(message, "tool_name")) plain["name"] = *name;
      if (id && !plain.contains("name") && names.count(*id) != 0) plain["name"] = names[*id];
    }
    if (*role == "assistant") {
      if (const auto reasoning = reasoning_of(message)) plain["reasoning_content"] = *reasoning;
      if (const Json* calls = find_member(message, "tool_calls"); calls != nullptr && !calls->empty()) {
        auto list = tool_calls(*calls, where + ".tool_calls", names);
        if (!list) return Unexpected(list.error());
        plain["tool_calls"] = std::move(*list);
      }
    }
    out.push_back(std::move(plain));
  }
  return out;
}

std::string left_out(const std::string& type) {
  return "[a part of type " + type.substr(0, 40) + " is left out: this model reads text alone]";
}

void LeftOutParts::add(const std::string& type) {
  constexpr size_t kTypeShown = 40;
  if (count++ == 0) first_type = type.substr(0, kTypeShown);
}

void LeftOutParts::warn(const std::string& where, std::vector<std::string>& warnings) const {
  if (count == 0) return;
  std::string line = where + ": a result's part of type " + first_type + " is left out";
  if (count > 1) line += ", and " + std::to_string(count - 1) + " more";
  warnings.push_back(std::move(line));
}

OrderedJson in_turns(OrderedJson messages, const text::TurnRules& rules, std::vector<std::string>& warnings) {
  if (rules.system_first && rules.system_later && rules.users_in_a_row) return messages;
  OrderedJson out = OrderedJson::array();
  const auto join = [&out](const OrderedJson& message) {
    out.back()["content"] =
        out.back()["content"].get<std::string>() + "\n\n" + message["content"].get<std::string>();
  };
  size_t moved = 0;
  for (OrderedJson& message : messages) {
    if (message["role"] == "system") {
      const bool leads = out.empty() || (out.size() == 1 && out.back()["role"] == "system");
      if (leads && rules.system_first && !out.empty() && !rules.system_later) {
        join(message);
        continue;
      }
      if (leads ? !rules.system_first : !rules.system_later) {
        message["role"] = "user";
        ++moved;
      }
    }
    if (message["role"] == "user" && !rules.users_in_a_row && !out.empty() && out.back()["role"] == "user") {
      join(message);
    } else {
      out.push_back(std::move(message));
    }
  }
  if (moved != 0)
    warnings.push_back(std::to_string(moved) + " of the" +
                       " system messages given as the user's: the model's chat template takes none there");
  return out;
}

OrderedJson adapted_messages(OrderedJson messages, text::CallStyle style) {
  for (OrderedJson& message : messages) {
    const bool calls = message.contains("tool_calls");
    if (style == text::CallStyle::kHarmony && message.contains("reasoning_content")) {
      // Its template takes only one of them before a call.
      const OrderedJson& content = message["content"];
      if (!calls || (content.is_string() && content.get_ref<const std::string&>().empty()))
        message["thinking"] = message["reasoning_content"];
      message.erase("reasoning_content");
    }
    if (style == text::CallStyle::kMistral && message.contains("tool_call_id"))
      message["tool_call_id"] = short_id(message["tool_call_id"].get<std::string>());
    if (!calls) continue;
    for (OrderedJson& call : message["tool_calls"]) {
      if (style == text::CallStyle::kMistral && call.contains("id"))
        call["id"] = short_id(call["id"].get<std::string>());
      if (style == text::CallStyle::kDeepSeek)
        call["function"]["arguments"] = dump_ordered_json(call["function"]["arguments"]);
    }
  }
  return messages;
}

}  // namespace mlxf::api
