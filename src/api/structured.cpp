#include "api/structured.h"

#include <utility>
#include <vector>

namespace mlxf::api {
namespace {

using Kind = text::GrammarText::Kind;
constexpr size_t kChoicesMax = 1024;

Structure of_schema(const Json& schema, std::string param, std::string pointer) {
  return {{Kind::kJsonSchema, dump_json(schema)}, std::move(param), std::move(pointer)};
}

void read_response_format(Fields& fields, std::optional<Structure>& structure) {
  const Json* format = fields.object("response_format");
  if (format == nullptr) return;
  const std::string type = find_string(*format, "type").value_or("");
  if (type == "text") return;
  if (type == "json_object") {
    // Other servers take a schema here.
    if (const Json* schema = find_member(*format, "schema")) {
      structure = of_schema(*schema, "response_format.schema", "/response_format/schema");
    } else {
      structure = Structure{text::any_json_object(), "response_format", {}};
    }
    return;
  }
  if (type != "json_schema")
    return fields.fail(ErrorKind::kUnsupported, "response_format.type",
                       "must be text, json_object or json_schema");
  const Json* named = find_member(*format, "json_schema");
  const Json* schema = named != nullptr && named->is_object() ? find_member(*named, "schema") : nullptr;
  if (schema == nullptr)
    return fields.fail(ErrorKind::kInvalidRequest, "response_format.json_schema.schema", "is missing");
  structure = of_schema(*schema, "response_format.json_schema.schema", "/response_format/json_schema/schema");
}

void read_choices(Fields& inner, std::optional<Structure>& structure) {
  const std::vector<std::string> choices = inner.texts("choice", kChoicesMax);
  if (!choices.empty()) structure = Structure{text::one_of(choices), "structured_outputs.choice", {}};
}

void read_structured_outputs(Fields& fields, std::optional<Structure>& structure) {
  const Json* object = fields.object("structured_outputs");
  if (object == nullptr) return;
  const std::string prefix = "structured_outputs.";
  Fields inner(*object, prefix);
  if (const Json* schema = inner.find("json")) {
    structure = schema->is_string()
                    ? Structure{{Kind::kJsonSchema, schema->get<std::string>()}, prefix + "json", {}}
                    : of_schema(*schema, prefix + "json", "/structured_outputs/json");
  }
  if (auto regex = inner.text("regex"))
    structure = Structure{{Kind::kRegex, std::move(*regex)}, prefix + "regex", {}};
  if (auto grammar = inner.text("grammar"))
    structure = Structure{text::gbnf_or_lark(std::move(*grammar)), prefix + "grammar", {}};
  read_choices(inner, structure);
  if (inner.error())
    return fields.fail(inner.error()->kind, inner.error()->param, "is not of the type it must be");
  if (object->size() != 1 || !inner.unknown().empty())
    fields.fail(ErrorKind::kUnsupported, "structured_outputs",
                "must be one of json, regex, choice and grammar");
}

}  // namespace

void read_openai_structure(Fields& fields, std::optional<Structure>& structure) {
  std::vector<Structure> found;
  const auto keep = [&](std::optional<Structure> one) {
    if (one) found.push_back(std::move(*one));
  };
  std::optional<Structure> format, outputs;
  read_response_format(fields, format);
  keep(std::move(format));
  read_structured_outputs(fields, outputs);
  keep(std::move(outputs));
  if (const Json* schema = fields.find("json_schema"))
    keep(of_schema(*schema, "json_schema", "/json_schema"));
  if (auto grammar = fields.text("grammar"); grammar && !grammar->empty())
    keep(Structure{text::gbnf_or_lark(std::move(*grammar)), "grammar", {}});
  if (found.empty()) return;
  if (found.size() > 1)
    return fields.fail(ErrorKind::kInvalidRequest, found[1].param,
                       "cannot be together with " + found[0].param);
  structure = std::move(found.front());
}

void read_anthropic_format(Fields& fields, const Json& format, const std::string& param,
                           std::optional<Structure>& structure) {
  const Json* schema = format.is_object() ? find_member(format, "schema") : nullptr;
  if (schema == nullptr || find_string(format, "type") != "json_schema")
    return fields.fail(ErrorKind::kInvalidRequest, param,
                       R"(must be {"type": "json_schema", "schema": ...})");
  std::string pointer = "/" + param + "/schema";
  for (char& c : pointer)
    if (c == '.') c = '/';
  structure = of_schema(*schema, param, std::move(pointer));
}

void read_response_format(Fields& text, const Json& format, std::optional<Structure>& structure) {
  const std::string type = find_string(format, "type").value_or("");
  const Json* schema = find_member(format, "schema");
  if (type == "text") return;
  if (type == "json_object") {
    structure = Structure{text::any_json_object(), "text.format", {}};
  } else if (type == "json_schema" && schema != nullptr) {
    structure = of_schema(*schema, "text.format", "/text/format/schema");
  } else {
    text.fail(ErrorKind::kInvalidRequest, "format",
              R"(must be of type "text", "json_object", or "json_schema" with a schema)");
  }
}

void read_ollama_format(Fields& fields, std::optional<Structure>& structure) {
  const Json* format = fields.find("format");
  if (format == nullptr || (format->is_string() && format->get_ref<const std::string&>().empty())) return;
  if (*format == "json") {
    structure = Structure{text::any_json_object(), "format", {}};
  } else if (format->is_object()) {
    structure = of_schema(*format, "format", "/format");
  } else {
    fields.fail(ErrorKind::kInvalidRequest, "format", "must be \"json\" or a JSON schema");
  }
}

void restore_schema_order(const std::string& body, Structure& structure) {
  if (structure.pointer.empty()) return;
  const auto ordered = parse_ordered_json(body);
  const OrderedJson::json_pointer pointer(structure.pointer);
  if (ordered && ordered->contains(pointer)) structure.grammar.text = dump_ordered_json(ordered->at(pointer));
}

}  // namespace mlxf::api
