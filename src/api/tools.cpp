#include "api/tools.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace mlxf::api {
namespace {

constexpr size_t kToolsMax = 1024;
constexpr size_t kNameBytesMax = 256;

enum class Form : uint8_t { kChat, kResponses, kAnthropic };

// A tool that is none of the client's: of Anthropic's or OpenAI's own, on their servers, or of a kind that no
// model here writes.
template <typename AnyJson>
bool is_foreign(const AnyJson& tool, Form form) {
  if (form == Form::kChat) return false;
  const auto type = tool.find("type");
  const char* ours = form == Form::kAnthropic ? "custom" : "function";
  return type != tool.end() && type->is_string() && *type != ours;
}

// A tool of the request as a function.
template <typename AnyJson>
struct Listed {
  AnyJson tool;
  std::string at;        // Where it stands.
  const AnyJson* given;  // As it stands there.
  ToolOrigin origin = {};
};

template <typename AnyJson>
std::string text_of(const AnyJson& object, const char* name) {
  const auto member = object.find(name);
  return member != object.end() && member->is_string() ? member->template get<std::string>() : std::string();
}

// A tool that takes a text, in a grammar if one is given.
template <typename AnyJson>
AnyJson function_of_text(const AnyJson& tool) {
  std::string description = text_of(tool, "description");
  const auto format = tool.find("format");
  if (format != tool.end() && format->is_object() && text_of(*format, "type") == "grammar") {
    description += "\n\nThe input is free text in this grammar (" + text_of(*format, "syntax") + "):\n";
    description += text_of(*format, "definition");
  }
  AnyJson function = {{"type", "function"}};
  if (tool.contains("name")) function["name"] = tool["name"];
  function["description"] = description;
  function["parameters"] = {{"type", "object"},
                            {"properties", {{"input", {{"type", "string"}}}}},
                            {"required", AnyJson::array({"input"})},
                            {"additionalProperties", false}};
  return function;
}

// The tools one by one: those of the responses' namespaces, too.
template <typename AnyJson>
std::vector<Listed<AnyJson>> listed(const AnyJson& tools, Form form) {
  std::vector<Listed<AnyJson>> out;
  out.reserve(tools.size());
  const auto add = [&out, form](const AnyJson& tool, const std::string& at, const AnyJson* space,
                                bool first) {
    Listed<AnyJson> one{tool, at, &tool};
    if (form == Form::kResponses && tool.is_object()) {
      one.origin = {text_of(tool, "name"), "", text_of(tool, "type") == "custom"};
      if (one.origin.custom) one.tool = function_of_text(tool);
    }
    if (space != nullptr && tool.is_object()) {
      one.origin.space = text_of(*space, "name");
      if (!one.origin.name.empty()) one.tool["name"] = name_in_space(one.origin.space, one.origin.name);
      if (const std::string what = text_of(*space, "description"); first && !what.empty())
        one.tool["description"] = what + "\n\n" + text_of(one.tool, "description");
    }
    out.push_back(std::move(one));
  };
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string at = "tools[" + std::to_string(i) + "]";
    const AnyJson& tool = tools[i];
    const bool space = form == Form::kResponses && tool.is_object() && text_of(tool, "type") == "namespace" &&
                       !text_of(tool, "name").empty() && tool.contains("tools") && tool["tools"].is_array();
    if (!space) {
      add(tool, at, nullptr, true);
      continue;
    }
    const AnyJson& members = tool["tools"];
    for (size_t j = 0; j < members.size(); ++j)
      add(members[j], at + ".tools[" + std::to_string(j) + "]", &tool, j == 0);
  }
  return out;
}

// Those and the namespaces that hold them.
size_t count_of(const Json& tools) {
  size_t count = tools.size();
  for (const Json& tool : tools)
    if (const Json* members = find_member(tool, "tools"); members != nullptr && members->is_array())
      count += members->size();
  return count;
}

// The definitions as templates print them, in OpenAI's form. REQUIRES: read_tools() took them.
OrderedJson template_tools(const OrderedJson& tools, Form form) {
  if (form == Form::kChat) return tools;
  const char* schema = form == Form::kAnthropic ? "input_schema" : "parameters";
  OrderedJson out = OrderedJson::array();
  for (const auto& [tool, at, given, origin] : listed(tools, form)) {
    if (is_foreign(tool, form)) continue;
    OrderedJson function = OrderedJson::object();
    for (const char* name : {"name", "description"})
      if (tool.contains(name)) function[name] = tool[name];
    function["parameters"] =
        tool.contains(schema) && tool[schema].is_object() ? tool[schema] : OrderedJson::object();
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

// Members of a definition that change nothing here, though they were meant to.
void warn_of_members(const Json& tool, const std::string& at, Call& call) {
  static constexpr std::string_view kKnown[] = {
      "type",   "name",          "description",           "parameters", "input_schema",
      "strict", "cache_control", "eager_input_streaming", "format"};
  const Json* format = find_member(tool, "format");
  if (format != nullptr && find_string(*format, "type") == "grammar")
    call.warnings.push_back(at + ".format is shown to the model, which is not held to it");
  for (const auto& [name, value] : tool.items())
    if (std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown) && !value.is_null() &&
        value != Json(false))
      call.warnings.push_back(std::string(at).append(".").append(name).append(" ignored"));
}

// One definition, or what is wrong with it.
std::string read_tool(const Json& tool, Form form, text::ToolSpec& spec) {
  if (form == Form::kChat && find_string(tool, "type").value_or("function") != "function")
    return "is of type " + *find_string(tool, "type") + "; only functions are understood here";
  const Json* function = form == Form::kChat ? find_member(tool, "function") : &tool;
  const auto name = function == nullptr ? std::nullopt : find_string(*function, "name");
  if (!name || name->empty() || name->size() > kNameBytesMax) return "has no name, or a very long one";
  spec.name = *name;
  const Json* strict = find_member(*function, "strict");
  if (strict != nullptr && !strict->is_null() && !strict->is_boolean())
    return "has a strict that is not true or false";
  const Json* schema = find_member(*function, form == Form::kAnthropic ? "input_schema" : "parameters");
  if (schema != nullptr && !(form == Form::kResponses && schema->is_null())) {
    if (!schema->is_object()) return "describes its parameters by something that is no object";
    spec.parameters = *schema;
  }
  return {};
}

// What tool_choice says.
struct Choice {
  bool may_call = true;
  bool must_call = false;
  std::vector<std::string> names = {};  // The only tools that may be called; empty: all.
};

// {"type": "function", "function": {"name"}} of chat completions, or the flat form of the responses, which may be of
// type custom as well.
std::optional<std::string> named_function(const Json& tool, Form form) {
  const std::string type = find_string(tool, "type").value_or("function");
  if (type != "function" && !(form == Form::kResponses && type == "custom")) return std::nullopt;
  const Json* named = form == Form::kChat ? find_member(tool, "function") : &tool;
  auto name = named == nullptr ? std::nullopt : find_string(*named, "name");
  const auto space = find_string(tool, "namespace");
  if (form == Form::kResponses && name && space) name = name_in_space(*space, *name);
  return name;
}

// {"mode": "auto" or "required", "tools": [...]}; false where it is something else.
bool read_allowed(const Json& allowed, Form form, Choice& choice) {
  const std::string mode = find_string(allowed, "mode").value_or("");
  const Json* tools = find_member(allowed, "tools");
  if ((mode != "auto" && mode != "required") || tools == nullptr || !tools->is_array() || tools->empty())
    return false;
  choice.must_call = mode == "required";
  choice.names.reserve(tools->size());
  for (const Json& tool : *tools) {
    auto name = named_function(tool, form);
    if (!name) return false;
    choice.names.push_back(std::move(*name));
  }
  return true;
}

Choice read_openai_choice(Fields& fields, Form form) {
  const Json* given = fields.find("tool_choice");
  if (given == nullptr || *given == "auto") return {};
  if (*given == "none") return {.may_call = false};
  if (*given == "required") return {.must_call = true};
  const std::string type = find_string(*given, "type").value_or("");
  Choice choice;
  if (type == "function" || (form == Form::kResponses && type == "custom")) {
    choice.must_call = true;
    if (auto name = named_function(*given, form)) {
      choice.names.push_back(std::move(*name));
      return choice;
    }
  } else if (type == "allowed_tools") {
    const Json* allowed = form == Form::kChat ? find_member(*given, "allowed_tools") : given;
    if (allowed != nullptr && read_allowed(*allowed, form, choice)) return choice;
  } else if (!type.empty()) {
    fields.fail(ErrorKind::kUnsupported, "tool_choice",
                "is of type " + type + "; only functions can be called here");
    return {};
  }
  fields.fail(
      ErrorKind::kInvalidRequest, "tool_choice",
      R"(must be "auto", "none", "required", a function by its name, or allowed_tools with mode and tools)");
  return {};
}

Choice read_anthropic_choice(Fields& fields, Call& call) {
  const Json* given = fields.object("tool_choice");
  if (given == nullptr) return {};
  const std::string type = find_string(*given, "type").value_or("");
  Fields inner(*given, "tool_choice.");
  call.parallel_tool_calls = !inner.flag("disable_parallel_tool_use").value_or(false);
  if (inner.error()) fields.fail(inner.error()->kind, "tool_choice", "is refused: " + inner.error()->message);
  if (type == "auto") return {};
  if (type == "none") return {.may_call = false};
  if (type == "any") return {.must_call = true};
  const auto name = find_string(*given, "name");
  if (type == "tool" && name) return {.must_call = true, .names = {*name}};
  fields.fail(ErrorKind::kInvalidRequest, "tool_choice",
              "must be of type auto, any or none, or of type tool with a name");
  return {};
}

// Puts what was chosen into the call, which has its tools.
void apply_choice(Fields& fields, const Choice& choice, Call& call) {
  if (choice.must_call && call.tools.empty())
    return fields.fail(ErrorKind::kInvalidRequest, "tool_choice", "asks for a call, but there are no tools");
  for (const std::string& name : choice.names)
    if (std::none_of(call.tools.begin(), call.tools.end(),
                     [&name](const text::ToolSpec& tool) { return tool.name == name; }))
      return fields.fail(ErrorKind::kInvalidRequest, "tool_choice",
                         "names " + name + ", which is none of the tools");
  call.must_call = choice.must_call;
  call.callable = {choice.names.begin(), choice.names.end()};
}

bool is_strict(const Json& tool, Form form) {
  const Json* function = form == Form::kChat ? find_member(tool, "function") : &tool;
  return function != nullptr && find_bool(*function, "strict").value_or(false);
}

void read_list(Fields& fields, Form form, bool may_call, Call& call, text::RenderOptions& render) {
  const Json* tools = fields.array("tools");
  if (tools == nullptr || tools->empty()) return;
  if (count_of(*tools) > kToolsMax)
    return fields.fail(ErrorKind::kInvalidRequest, "tools", "has too many members");
  const std::vector<Listed<Json>> all = listed(*tools, form);
  std::vector<text::ToolSpec> specs;
  specs.reserve(all.size());
  std::set<std::string> names, strict;
  std::map<std::string, ToolOrigin> origins;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& [tool, at, given, origin] = all[i];
    if (!tool.is_object()) return fields.fail(ErrorKind::kInvalidRequest, at, "must be an object");
    if (is_foreign(tool, form)) {
      if (may_call) call.warnings.push_back(at + " of type " + *find_string(tool, "type") + " is left out");
      continue;
    }
    text::ToolSpec spec;
    if (const std::string wrong = read_tool(tool, form, spec); !wrong.empty()) {
      const bool other = wrong.starts_with("is of type");
      return fields.fail(other ? ErrorKind::kUnsupported : ErrorKind::kInvalidRequest, at, wrong);
    }
    if (!names.insert(spec.name).second)
      return fields.fail(ErrorKind::kInvalidRequest, at, "has the name of another one: " + spec.name);
    if (may_call && form != Form::kChat) warn_of_members(*given, at, call);
    if (is_strict(tool, form)) strict.insert(spec.name);
    if (origin.custom || !origin.space.empty()) origins[spec.name] = origin;
    specs.push_back(std::move(spec));
  }
  if (!may_call || specs.empty()) return;
  call.tools = std::move(specs);
  call.strict_tools = std::move(strict);
  call.origins = std::move(origins);
  render.tools = template_tools(OrderedJson(*tools), form);
}

void read_definitions(Fields& fields, Form form, Call& call, text::RenderOptions& render) {
  if (form != Form::kAnthropic) call.parallel_tool_calls = fields.flag("parallel_tool_calls").value_or(true);
  const Choice choice =
      form == Form::kAnthropic ? read_anthropic_choice(fields, call) : read_openai_choice(fields, form);
  read_list(fields, form, choice.may_call, call, render);
  apply_choice(fields, choice, call);
}

}  // namespace

void read_tools(Fields& fields, Protocol protocol, Call& call, text::RenderOptions& render) {
  read_definitions(fields, protocol == Protocol::kAnthropic ? Form::kAnthropic : Form::kChat, call, render);
}

void read_response_tools(Fields& fields, Call& call, text::RenderOptions& render) {
  read_definitions(fields, Form::kResponses, call, render);
}

std::string name_in_space(const std::string& space, const std::string& name) { return space + "__" + name; }

std::string custom_input(const std::string& arguments) {
  const auto object = parse_json(arguments);
  if (!object || !object->is_object()) return arguments;
  if (auto input = find_string(*object, "input")) return *input;
  // Small models call it what they like.
  if (object->size() == 1 && object->begin()->is_string()) return object->begin()->get<std::string>();
  return arguments;
}

void keep_tool_order(const std::string& body, Protocol protocol, Call& call) {
  auto* chat = std::get_if<ChatPrompt>(&call.prompt);
  if (call.tools.empty() || chat == nullptr) return;
  const auto request = parse_ordered_json(body);
  if (!request || !request->is_object() || !request->contains("tools")) return;
  const bool flat = protocol == Protocol::kOpenAi && !call.repeated.is_null();  // OpenAI's responses.
  chat->render.tools = template_tools((*request)["tools"], protocol == Protocol::kAnthropic ? Form::kAnthropic
                                                           : flat                           ? Form::kResponses
                                                                                            : Form::kChat);
}

}  // namespace mlxf::api
