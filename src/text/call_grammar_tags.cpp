// Calls whose arguments are no JSON object: parameters between tags (Qwen3-Coder's, GLM's, MiniMax's, DeepSeek
// V3.2's), and Gemma's
// objects with signs of their own. What the readers make of such a text must fit the tool's schema.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "text/call_readers.h"
#include "text/call_rules.h"

namespace mlxf::text {
namespace {

// Where values are texts, these say more of a string than its type.
constexpr std::array kTextKeywords = {"pattern", "minLength", "maxLength", "format"};
// What a list of parameters can honour of a schema for all of them.
constexpr std::array kListKeywords = {
    "type",    "properties", "required", "additionalProperties", "title",   "$defs",    "definitions",
    "$schema", "$id",        "$comment", "description",          "default", "examples", "strict"};

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string::npos; }

// What says nothing of a value.
bool is_annotation(std::string_view key) {
  constexpr std::array kAnnotations = {"description", "title",    "examples",  "default",
                                       "$comment",    "readOnly", "writeOnly", "deprecated"};
  return std::find(kAnnotations.begin(), kAnnotations.end(), key) != kAnnotations.end();
}

Json plain(const OrderedJson& value) { return parse_json(dump_ordered_json(value)).value_or(Json()); }

// The properties of an object: tables, since finding a member of an ordered object goes through all of them.
struct Listed {
  std::vector<std::pair<std::string, const OrderedJson*>> properties;  // Into the schema.
  std::set<std::string> required;
};

// Or what keeps them from being written one by one.
Result<Listed> listed_properties(const CallableTool& tool, const OrderedJson& schema, CallStyle style) {
  static const OrderedJson kAnything = OrderedJson::object();
  for (const auto& [key, value] : schema.items())
    if (tool.strict && !is_annotation(key) &&
        std::find(kListKeywords.begin(), kListKeywords.end(), key) == kListKeywords.end())
      return cannot_write(tool, style, key + " in its parameters' schema");
  Listed out;
  std::set<std::string> names;
  if (const auto found = schema.find("properties"); found != schema.end() && found->is_object()) {
    out.properties.reserve(found->size());
    for (const auto& [name, property] : found->items()) {
      out.properties.emplace_back(name, &property);
      names.insert(name);
    }
  }
  if (const auto required = schema.find("required"); required != schema.end() && required->is_array())
    for (const OrderedJson& one : *required) {
      if (!one.is_string()) continue;
      const auto& name = one.get_ref<const std::string&>();
      out.required.insert(name);
      if (names.insert(name).second) out.properties.emplace_back(name, &kAnything);
    }
  return out;
}

// Definitions of a schema, and the parts of it with those that they refer to.
class Definitions {
 public:
  explicit Definitions(const OrderedJson& whole) {
    for (const char* section : {"$defs", "definitions"}) {
      const auto found = whole.find(section);
      if (found == whole.end() || !found->is_object()) continue;
      for (const auto& [name, definition] : found->items())
        all_.emplace(std::string("#/") + section + "/" + name, Named{section, name, &definition});
    }
  }

  [[nodiscard]] OrderedJson attached_to(const OrderedJson& part) const {
    OrderedJson out = part;
    if (!part.is_object()) return out;
    std::set<std::string> taken;
    std::vector<const OrderedJson*> left = {&part};
    std::map<std::string, OrderedJson::object_t> sections;
    while (!left.empty()) {
      const OrderedJson* at = left.back();
      left.pop_back();
      if (const Named* named = at->is_object() ? target_of(*at) : nullptr)
        if (taken.insert(named->section + "/" + named->name).second) {
          sections[named->section].emplace_back(named->name, *named->schema);
          left.push_back(named->schema);
        }
      if (at->is_structured())
        for (const OrderedJson& member : *at) left.push_back(&member);
    }
    for (auto& [section, definitions] : sections) out[section] = std::move(definitions);
    return out;
  }

 private:
  // NOLINTNEXTLINE(bugprone-exception-escape): what moving a Json could throw is its own assertions.
  struct Named {
    std::string section, name;
    const OrderedJson* schema;
  };
  [[nodiscard]] const Named* target_of(const OrderedJson& schema) const {
    const auto ref = schema.find("$ref");
    if (ref == schema.end() || !ref->is_string()) return nullptr;
    std::string path = ref->get<std::string>();
    // To a definition or into one. Names are written with ~1 for a slash, ~0 for a tilde.
    const size_t section_end = path.find('/', 2);
    if (section_end == std::string::npos) return nullptr;
    path = path.substr(0, path.find('/', section_end + 1));
    for (const auto& [sign, meant] : {std::pair("~1", "/"), std::pair("~0", "~")})
      for (size_t at = 0; (at = path.find(sign, at)) != std::string::npos; ++at) path.replace(at, 2, meant);
    const auto found = all_.find(path);
    return found == all_.end() ? nullptr : &found->second;
  }

  std::map<std::string, Named> all_;
};

// Whether a part of the schema refers to more than its definitions.
bool refers_elsewhere(const OrderedJson& schema) {
  if (schema.is_object() && schema.contains("$ref")) {
    const OrderedJson& target = schema["$ref"];
    const std::string path = target.is_string() ? target.get<std::string>() : std::string();
    if (!path.starts_with("#/$defs/") && !path.starts_with("#/definitions/")) return true;
  }
  return schema.is_structured() && std::any_of(schema.begin(), schema.end(), refers_elsewhere);
}

// A string of any kind, or null, and nothing more is said.
bool is_any_text(const OrderedJson& schema) {
  return schema.is_object() &&
         std::all_of(schema.items().begin(), schema.items().end(), [](const auto& member) {
           if (member.key() == "type" || is_annotation(member.key())) return true;
           return member.key() == "anyOf" && member.value().is_array() &&
                  std::all_of(member.value().begin(), member.value().end(), is_any_text);
         });
}

// The texts of an enum of strings; none where it is no such one.
std::vector<std::string> texts_of(const OrderedJson& schema) {
  std::vector<std::string> texts;
  const auto values = schema.find("enum");
  if (values == schema.end() || !values->is_array()) return texts;
  texts.reserve(values->size());
  for (const OrderedJson& value : *values)
    if (value.is_string()) texts.push_back(value.get<std::string>());
  return texts;
}

// ---- tags ----

struct Frame {
  std::string name_open, name_close, value_open, value_close, after;
  std::string json_name_close = {};  // Where the value is JSON and its tag says so.
};

Frame frame_of(CallStyle style) {
  if (style == CallStyle::kGlm) return {"<arg_key>", "</arg_key>\n<arg_value>", "", "</arg_value>", "\n"};
  if (style == CallStyle::kDsml)
    return {"<｜DSML｜parameter name=\"", "\" string=\"true\">", "", "</｜DSML｜parameter>", "\n",
            "\" string=\"false\">"};
  if (style == CallStyle::kMiniMax) return {"<parameter name=\"", "\">", "", "</parameter>", "\n"};
  return {"<parameter=", ">\n", "", "</parameter>", "\n"};
}

class Tagged {
 public:
  Tagged(CallRules& rules, const CallableTool& tool)
      : rules_(rules), tool_(tool), frame_(frame_of(rules.style())) {}

  Result<std::string> parameters() {
    ASSIGN_OR_RETURN(const OrderedJson schema, arguments_schema(tool_, rules_.style()));
    ASSIGN_OR_RETURN(const Listed listed, listed_properties(tool_, schema, rules_.style()));
    const bool elsewhere = refers_elsewhere(schema);
    if (tool_.strict && elsewhere)
      return cannot_write(tool_, rules_.style(), "a $ref to more than its definitions");
    if (!schema.contains("properties") && listed.properties.empty()) {
      const auto more = schema.find("additionalProperties");
      if (more == schema.end() || *more == true || (!tool_.strict && *more != false))
        return free_parameters();
      if (*more != false)
        return cannot_write(tool_, rules_.style(), "parameters without names that are held to a schema");
    }
    const Definitions definitions(schema);
    std::string out;
    for (const auto& [name, property] : listed.properties) {
      RETURN_IF_ERROR(rules_.fits());
      // What refers to the whole schema could not be told apart from it.
      if (elsewhere && refers_elsewhere(definitions.attached_to(*property))) {
        ASSIGN_OR_RETURN(const std::string any, member(name, any_value(), listed));
        out += any;
        continue;
      }
      ASSIGN_OR_RETURN(const std::string value, this->value(name, *property, definitions));
      ASSIGN_OR_RETURN(const std::string one, member(name, value, listed));
      out += one;
    }
    return out;
  }
  // Any names and texts.
  std::string free_parameters() {
    return "(" + rules_.exactly(frame_.name_open) + "/[^<>\"\\n ]{1,128}/ " + any_value() + ")* ";
  }

 private:
  // A parameter with its value, which may be left out where the schema lets it.
  Result<std::string> member(const std::string& name, const std::string& value, const Listed& listed) {
    if (name.empty() || name != trimmed(name) || name.find_first_of("<>\"\n\r") != std::string::npos)
      return cannot_write(tool_, rules_.style(),
                          "its parameter \"" + name + "\" has other signs in its name");
    std::string out = rules_.rule(rules_.exactly(frame_.name_open + name) + value);
    if (listed.required.contains(name)) return out;
    out.back() = '?';
    return out + " ";
  }
  // From behind the name on.
  std::string any_text() {
    return rules_.exactly(frame_.name_close) + rules_.text_until(frame_.value_close) +
           rules_.exactly(frame_.after);
  }
  std::string json(const std::string& value) {
    return rules_.exactly(frame_.json_name_close.empty() ? frame_.name_close : frame_.json_name_close) +
           value;
  }
  std::string any_value() {
    if (frame_.json_name_close.empty()) return any_text();
    return one_of_parts(
        {any_text(), json(rules_.value("a parameter of " + tool_.name, OrderedJson::object(), true) +
                          rules_.exactly(frame_.value_close + frame_.after))});
  }

  Result<std::string> value(const std::string& name, const OrderedJson& schema,
                            const Definitions& definitions) {
    // A value on lines of its own ends before a line end.
    const std::string end =
        (rules_.style() == CallStyle::kQwenXml ? "\n" : "") + frame_.value_close + frame_.after;
    const AllowedTypes allowed = allowed_types(plain(schema));
    // A null among texts is JSON where the tag tells these apart.
    if (!allowed.text || allowed.other || (allowed.null && !frame_.json_name_close.empty()))
      return json(rules_.value("the parameter " + name + " of " + tool_.name, definitions.attached_to(schema),
                               !tool_.strict) +
                  rules_.exactly(end));
    if (!schema.is_object()) return any_text();
    if (schema.contains("enum")) {
      const std::vector<std::string> texts = texts_of(schema);
      std::vector<std::string> parts;
      parts.reserve(texts.size() + 1);
      for (const std::string& text : texts) {
        const bool unwritten = contains(text, frame_.value_close) || contains(text, "\n") || text.empty();
        if (unwritten && !tool_.strict) return any_text();
        if (unwritten)
          return cannot_write(tool_, rules_.style(),
                              "a value of its parameter " + name + " has several lines or none");
        parts.push_back(rules_.exactly(text));
      }
      if (allowed.null) parts.push_back("\"null\" ");
      if (!parts.empty())
        return rules_.exactly(frame_.name_close) + one_of_parts(parts) + rules_.exactly(end);
    }
    if (is_any_text(schema)) return any_text();
    for (const char* keyword : kTextKeywords)
      if (tool_.strict && schema.contains(keyword))
        return cannot_write(tool_, rules_.style(), std::string(keyword) + " of its parameter " + name);
    for (const char* keyword : {"anyOf", "oneOf", "allOf", "const", "$ref", "not"})
      if (tool_.strict && schema.contains(keyword))
        return cannot_write(tool_, rules_.style(), std::string(keyword) + " of its parameter " + name);
    return any_text();
  }

  CallRules& rules_;
  const CallableTool& tool_;
  const Frame frame_;
};

}  // namespace

Result<std::string> tagged_call(CallRules& rules, const CallableTool& tool, Arguments arguments,
                                bool opened) {
  if (!is_plain_name(tool.name)) return cannot_write(tool, rules.style(), "its name has other signs");
  Tagged tagged(rules, tool);
  std::string parameters;
  if (arguments == Arguments::kFree) {
    parameters = tagged.free_parameters();
  } else {
    ASSIGN_OR_RETURN(parameters, tagged.parameters());
  }
  if (rules.style() == CallStyle::kGlm) return rules.exactly(tool.name + "\n") + parameters;
  if (rules.style() == CallStyle::kDsml)
    return rules.exactly("<｜DSML｜invoke name=\"" + tool.name + "\">\n") + parameters +
           rules.exactly("</｜DSML｜invoke>\n");
  if (rules.style() == CallStyle::kMiniMax)
    return rules.exactly("<invoke name=\"" + tool.name + "\">\n") + parameters + rules.exactly("</invoke>\n");
  return rules.exactly((opened ? "" : "\n<function=") + tool.name + ">\n") + parameters +
         rules.exactly(opened ? "</function>" : "</function>\n");
}

// ---- Gemma ----

namespace {

class Gemma {
 public:
  Gemma(CallRules& rules, const CallableTool& tool)
      : rules_(rules), tool_(tool), quote_(rules.style() == CallStyle::kGemma4 ? "<|\"|>" : "<escape>") {}

  Result<std::string> object(const OrderedJson& schema, int depth) {
    ASSIGN_OR_RETURN(Listed listed, listed_properties(tool_, schema, rules_.style()));
    if (listed.properties.empty() && depth > 0 &&
        schema.value("additionalProperties", OrderedJson(true)) != false)
      return refused("objects without properties");
    // From the last to the first: what may follow a member, and what may stand where none has come yet.
    std::string rest = rules_.rule(""), first = rest;
    std::reverse(listed.properties.begin(), listed.properties.end());
    for (const auto& [name, property] : listed.properties) {
      RETURN_IF_ERROR(rules_.fits());
      if (name != trimmed(name) || !is_plain_name(name) || name.empty())
        return refused("its parameter \"" + name + "\" has other signs in its name");
      ASSIGN_OR_RETURN(const std::string value, this->value(*property, depth + 1));
      const bool required = listed.required.contains(name);
      std::tie(first, rest) = with_member(name, value, required, first, rest);
    }
    return "\"{\" " + first + "\"}\" ";
  }

 private:
  static constexpr int kDepthMax = 24;

  // The members from this one on, where none has come before, and where one has.
  std::pair<std::string, std::string> with_member(const std::string& name, const std::string& value,
                                                  bool required, const std::string& first,
                                                  const std::string& rest) {
    const std::string member = rules_.rule(rules_.exactly(name + ":") + value) + rest;
    const std::string another = "\",\" " + member;
    return {rules_.rule(required ? member : member + "| " + first),
            rules_.rule(required ? another : another + "| " + rest)};
  }

  tl::unexpected<Error> refused(const std::string& what) const {
    return cannot_write(tool_, rules_.style(), what);
  }
  std::string text() { return rules_.exactly(quote_) + rules_.text_until(quote_); }

  Result<std::string> value(const OrderedJson& schema, int depth) {
    RETURN_IF_ERROR(rules_.fits());
    if (depth > kDepthMax) return refused("its parameters lie deeper than " + std::to_string(kDepthMax));
    if (!schema.is_object()) return refused("a parameter without a schema");
    for (const char* keyword : {"$ref", "oneOf", "allOf", "not", "const", "if"})
      if (schema.contains(keyword)) return refused(std::string(keyword) + " in its parameters' schema");
    if (schema.contains("enum")) return choices(schema);
    if (const auto any = schema.find("anyOf"); any != schema.end() && any->is_array()) {
      std::vector<std::string> parts;
      parts.reserve(any->size());
      for (const OrderedJson& one : *any) {
        ASSIGN_OR_RETURN(std::string part, value(one, depth + 1));
        parts.push_back(std::move(part));
      }
      if (parts.empty()) return refused("an empty anyOf");
      return rules_.rule(one_of_parts(parts));
    }
    std::vector<std::string> types;
    if (const auto type = schema.find("type"); type == schema.end()) {
      types = {"string", "number", "boolean"};
    } else if (type->is_string()) {
      types = {type->get<std::string>()};
    } else {
      types.reserve(type->size());
      for (const OrderedJson& one : *type)
        if (one.is_string() && std::find(types.begin(), types.end(), one) == types.end())
          types.push_back(one.get<std::string>());
    }
    std::vector<std::string> parts;
    parts.reserve(types.size());
    for (const std::string& type : types) {
      ASSIGN_OR_RETURN(std::string part, of_type(schema, type, depth));
      parts.push_back(std::move(part));
    }
    return parts.empty() ? refused("a parameter of no type") : Result<std::string>(one_of_parts(parts));
  }

  Result<std::string> of_type(const OrderedJson& schema, const std::string& type, int depth) {
    if (type == "object") return object(schema, depth);
    if (type == "array") {
      for (const char* keyword : {"prefixItems", "minItems", "maxItems", "uniqueItems", "contains"})
        if (tool_.strict && schema.contains(keyword)) return refused(std::string(keyword) + " of an array");
      const auto items = schema.find("items");
      ASSIGN_OR_RETURN(const std::string item,
                       value(items == schema.end() ? OrderedJson::object() : *items, depth + 1));
      const std::string one = rules_.rule(item);
      return "\"[\" (" + one + "(\",\" " + one + ")*)? \"]\" ";
    }
    if (type == "string") {
      for (const char* keyword : kTextKeywords)
        if (tool_.strict && schema.contains(keyword)) return refused(std::string(keyword) + " of a string");
      return text();
    }
    OrderedJson scalar = {{"type", type}};
    for (const auto& [key, said] : schema.items())
      if (key != "type" && key != "properties" && key != "items" && !is_annotation(key)) scalar[key] = said;
    return rules_.value("a parameter of " + tool_.name, std::move(scalar), !tool_.strict);
  }

  Result<std::string> choices(const OrderedJson& schema) {
    std::vector<std::string> parts;
    parts.reserve(schema["enum"].size());
    for (const OrderedJson& value : schema["enum"]) {
      if (value.is_structured()) return refused("an enum of objects or arrays");
      const std::string text = value.is_string() ? value.get<std::string>() : dump_ordered_json(value);
      if (contains(text, quote_)) return refused("a value that holds " + quote_);
      parts.push_back(value.is_string() ? rules_.exactly(quote_ + text + quote_) : rules_.exactly(text));
    }
    return parts.empty() ? refused("an empty enum") : Result<std::string>(one_of_parts(parts));
  }

  CallRules& rules_;
  const CallableTool& tool_;
  const std::string quote_;
};

}  // namespace

Result<std::string> gemma_call(CallRules& rules, const CallableTool& tool) {
  if (!is_plain_name(tool.name)) return cannot_write(tool, rules.style(), "its name has other signs");
  const std::string head = rules.exactly("call:" + tool.name);
  ASSIGN_OR_RETURN(const OrderedJson schema, arguments_schema(tool, rules.style()));
  Gemma gemma(rules, tool);
  ASSIGN_OR_RETURN(const std::string object, gemma.object(schema, 0));
  return head + object;
}

}  // namespace mlxf::text
