#include "text/call_grammar.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>

#include "text/call_readers.h"
#include "text/call_rules.h"

namespace mlxf::text {

std::string_view family_of(CallStyle style) {
  switch (style) {
    case CallStyle::kNone:
      return "no";
    case CallStyle::kJson:
      return "plain JSON's";
    case CallStyle::kHermes:
      return "Hermes' and Qwen's";
    case CallStyle::kQwenXml:
      return "Qwen3-Coder's";
    case CallStyle::kGlm:
      return "GLM's";
    case CallStyle::kMiniMax:
      return "MiniMax's";
    case CallStyle::kLlama:
      return "Llama's";
    case CallStyle::kMistral:
      return "Mistral's";
    case CallStyle::kDeepSeek:
      return "DeepSeek's";
    case CallStyle::kKimi:
      return "Kimi's";
    case CallStyle::kFunctionGemma:
      return "FunctionGemma's";
    case CallStyle::kGemma4:
      return "Gemma 4's";
    case CallStyle::kHarmony:
      return "gpt-oss's";
    case CallStyle::kCommand:
      return "Command's";
    case CallStyle::kDsml:
      return "DeepSeek V3.2's";
  }
  return "";
}

tl::unexpected<Error> cannot_write(const CallableTool& tool, CallStyle style, std::string_view what) {
  std::string message = "calls of " + tool.name + " cannot be held to a grammar in ";
  message += family_of(style);
  message += " form of calls: ";
  message += what;
  return fail(ErrorCode::kUnsupported, std::move(message));
}

// ---- rules ----

std::optional<TokenId> CallRules::token_of(std::string_view marker) const {
  if (std::find(markers_.begin(), markers_.end(), marker) == markers_.end()) return std::nullopt;
  const std::optional<TokenId> token = tokenizer_.find_token(marker);
  // A token that ends the answer is none that stands in it.
  return token && !tokenizer_.is_end_of_generation(*token) ? token : std::nullopt;
}

bool CallRules::is_no_text(std::string_view marker) const {
  const std::optional<TokenId> token = token_of(marker);
  if (!token) return false;
  const TokenTraits traits = tokenizer_.traits(*token);
  return traits.special || traits.control;
}

std::string CallRules::exactly(std::string_view text) {
  std::string out, plain;
  const auto end_plain = [&out, &plain] {
    if (plain.empty()) return;
    std::string quoted = json_string(plain);
    // The grammar's strings are JSON's, but for this one character.
    for (size_t at = 0; (at = quoted.find('\x7f', at)) != std::string::npos;)
      quoted.replace(at, 1, "\\u007f");
    out += quoted;
    out += ' ';
    plain.clear();
  };
  while (!text.empty()) {
    std::string_view found;
    for (const std::string& marker : markers_)
      if (marker.size() > found.size() && text.starts_with(marker) && token_of(marker)) found = marker;
    if (found.empty()) {
      plain += text.front();
      text.remove_prefix(1);
      continue;
    }
    end_plain();
    const TokenId token = *token_of(found);
    tokens_.insert(token);
    out += "<[";
    out += std::to_string(token);
    out += "]> ";
    text.remove_prefix(found.size());
  }
  end_plain();
  return out;
}

std::string CallRules::value(std::string of, OrderedJson schema, bool lenient) {
  const std::string name = "s" + std::to_string(schemas_.size());
  bytes_ += of.size() + dump_ordered_json(schema).size();
  if (!fits()) return "@" + name + " ";
  schemas_.push_back(
      {{"name", name}, {"of", std::move(of)}, {"schema", std::move(schema)}, {"lenient", lenient}});
  return "@" + name + " ";
}

std::string CallRules::text_until(std::string_view close) {
  // A token that no text holds ends it, behind what else `close` begins with.
  for (const std::string& marker : markers_) {
    const size_t at = close.find(marker);
    if (at == std::string_view::npos || !is_no_text(marker)) continue;
    std::string before;
    for (const char c : close.substr(0, at)) {
      if (std::string_view("/.^$*+?()[]{}|\\").find(c) != std::string_view::npos) before += '\\';
      before += c;
    }
    return "/(?s:.*" + before + ")/ " + exactly(close.substr(at));
  }
  const std::string name = "r" + std::to_string(rule_count_++);
  add_rule(name, "[suffix=" + json_string(close) + "]: ", "/(?s:.*)/");
  return name + " ";
}

std::string CallRules::rule(const std::string& body) {
  std::string name = "r" + std::to_string(rule_count_++);
  add_rule(name, ": ", body.empty() ? "\"\"" : body);
  name += ' ';
  return name;
}

void CallRules::add_rule(const std::string& name, std::string_view head, std::string_view body) {
  bytes_ += name.size() + head.size() + body.size() + 1;
  if (!fits()) return;
  rules_ += name;
  rules_ += head;
  rules_ += body;
  rules_ += '\n';
}

Status CallRules::fits() const {
  if (bytes_ <= kBytesMax) return {};
  return fail(ErrorCode::kInvalidArgument,
              "the grammar of these tools would have over " + std::to_string(kBytesMax) + " bytes");
}

Result<GrammarText> CallRules::finish(const std::string& start) {
  RETURN_IF_ERROR(fits());
  OrderedJson out = {{"lark", "start: " + start + "\n" + rules_}, {"schemas", schemas_}};
  out["tokens"] = OrderedJson::array();
  for (const TokenId token : tokens_) out["tokens"].push_back(token);
  // Texts between tags may hold anything.
  out["objects"] = !is_tagged(style_) && style_ != CallStyle::kFunctionGemma && style_ != CallStyle::kGemma4;
  GrammarText made{GrammarText::Kind::kComposed, dump_ordered_json(out)};
  bytes_ = std::max(bytes_, made.text.size());
  RETURN_IF_ERROR(fits());
  return made;
}

std::string one_of_parts(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) {
    out += out.empty() ? "(" : "| ";
    out += part;
  }
  return out + ") ";
}

bool is_tagged(CallStyle style) {
  return style == CallStyle::kQwenXml || style == CallStyle::kGlm || style == CallStyle::kMiniMax ||
         style == CallStyle::kDsml;
}

bool is_plain_name(std::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '/';
  });
}

Result<OrderedJson> arguments_schema(const CallableTool& tool, CallStyle style) {
  OrderedJson schema = tool.parameters.is_object() ? tool.parameters : OrderedJson::object();
  const auto has = [&schema](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return schema.contains(name); });
  };
  if (schema.empty()) schema["properties"] = OrderedJson::object();
  const bool combined = has({"$ref", "anyOf", "oneOf", "allOf"});
  if (!schema.contains("type") && !combined) schema["type"] = "object";
  if (schema.contains("type") && schema["type"].is_array() &&
      std::find(schema["type"].begin(), schema["type"].end(), "object") != schema["type"].end())
    schema["type"] = "object";
  if (schema.contains("type") && schema["type"] != "object")
    return cannot_write(tool, style, "its parameters are not of type object");
  // Models that are free to would add arguments that the tool knows nothing of.
  if (has({"properties"}) && !combined &&
      !has({"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}))
    schema["additionalProperties"] = false;
  return schema;
}

namespace {

// How calls stand in a section: open, call, close; again for each call or with `between` in the section.
struct Section {
  std::string open, close, between;
  bool one_call = false;
};

Section section_of(CallStyle style, bool mistral_list) {
  switch (style) {
    case CallStyle::kHermes:
    case CallStyle::kQwenXml:
    case CallStyle::kGlm:
      return {"<tool_call>", "</tool_call>", "\n", true};
    case CallStyle::kMiniMax:
      return {"<minimax:tool_call>", "</minimax:tool_call>", "", false};
    case CallStyle::kDsml:
      return {"<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "", false};
    case CallStyle::kCommand:
      return {"<|START_ACTION|>", "<|END_ACTION|>", ",\n    ", false};
    case CallStyle::kMistral:
      return mistral_list ? Section{"[TOOL_CALLS]", "]", ", ", false} : Section{"[TOOL_CALLS]", "", "", true};
    case CallStyle::kDeepSeek:
      return {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "", false};
    case CallStyle::kKimi:
      return {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "", false};
    case CallStyle::kFunctionGemma:
      return {"<start_function_call>", "<end_function_call>", "", true};
    case CallStyle::kGemma4:
      return {"<|tool_call>", "<tool_call|>", "", true};
    case CallStyle::kLlama:
      return {"", "", "; ", false};
    case CallStyle::kNone:
    case CallStyle::kJson:
    case CallStyle::kHarmony:
      break;
  }
  return {};
}

class CallWriter {
 public:
  CallWriter(const AnswerFormat& format, std::span<const CallableTool> tools, Arguments arguments,
             const Tokenizer& tokenizer)
      : rules_(format, tokenizer),
        tools_(tools),
        arguments_(arguments),
        mistral_list_(!rules_.token_of("[ARGS]")),
        section_(section_of(format.calls, mistral_list_)) {}

  // What opens calls where an answer may hold some.
  [[nodiscard]] std::string marker() const {
    // Its reader takes a call with the outer tag and without it.
    return rules_.style() == CallStyle::kQwenXml ? "<function=" : section_.open;
  }

  Result<GrammarText> forced(bool several) {
    ASSIGN_OR_RETURN(const std::string call, any_call());
    const std::string blanks = "/\\n{0,2}/ ";
    switch (rules_.style()) {
      case CallStyle::kHarmony:
        if (!rules_.token_of("<|end|>") || !rules_.token_of("<|message|>"))
          return cannot_write(tools_.front(), CallStyle::kHarmony,
                              "the vocabulary has no tokens for its markers");
        return rules_.finish("(" + rules_.exactly("<|channel|>analysis<|message|>") +
                             rules_.text_until("<|end|>") + rules_.exactly("<|start|>assistant") + ")? " +
                             call);
      case CallStyle::kJson:
        return rules_.finish(
            blanks + (several ? "(" + call + "| \"[\" " + call + "(\", \" " + call + ")* \"]\")" : call));
      case CallStyle::kLlama: {
        const bool tag = rules_.token_of("<|python_tag|>").has_value();
        return rules_.finish(blanks + (tag ? rules_.exactly("<|python_tag|>") + "? " : "") +
                             calls(call, several));
      }
      default:
        break;
    }
    if (!section_.one_call)
      return rules_.finish(blanks + rules_.exactly(section_.open) + opened(call, several));
    const std::string one = rules_.rule(rules_.exactly(section_.open) + opened(call, false));
    return rules_.finish(blanks + calls(one, several));
  }

  Result<GrammarText> behind_marker() {
    if (rules_.style() == CallStyle::kQwenXml) section_ = {marker(), "", "", true};
    opened_ = true;
    ASSIGN_OR_RETURN(const std::string call, any_call());
    return rules_.finish(opened(call, true));
  }

 private:
  // `call`, or several of them.
  std::string calls(const std::string& call, bool several) {
    return several ? call + "(" + rules_.exactly(section_.between) + call + ")* " : call;
  }
  // What stands behind a section's opening marker.
  std::string opened(const std::string& call, bool several) {
    std::string open, close = rules_.exactly(section_.close);
    if (rules_.style() == CallStyle::kMistral && mistral_list_) open = "\" \"? \"[\" ";
    if (rules_.style() == CallStyle::kCommand) {
      open = "\"[\\n    \" ";
      close = "\"\\n]\" " + close;
    }
    if (rules_.style() == CallStyle::kMiniMax || rules_.style() == CallStyle::kDsml) open = "\"\\n\" ";
    return open + (section_.one_call ? call : calls(call, several)) + close;
  }

  Result<std::string> any_call() {
    std::vector<std::string> parts;
    parts.reserve(tools_.size());
    for (const CallableTool& tool : tools_) {
      ASSIGN_OR_RETURN(std::string part, call_of(tool));
      parts.push_back(std::move(part));
      RETURN_IF_ERROR(rules_.fits());
    }
    return rules_.rule(one_of_parts(parts));
  }

  Result<std::string> object_of(const CallableTool& tool) {
    OrderedJson schema = {{"type", "object"}};
    if (arguments_ == Arguments::kBySchema || tool.strict) {
      ASSIGN_OR_RETURN(schema, arguments_schema(tool, rules_.style()));
    }
    return rules_.value("the parameters of " + tool.name, std::move(schema), !tool.strict);
  }

  Result<std::string> call_of(const CallableTool& tool) {
    // Readers count what stands around it to a name.
    if (constexpr size_t kAround = 16; tool.name.size() + kAround > AnswerWriter::kNameBytesMax)
      return cannot_write(tool, rules_.style(), "its name has too many bytes");
    switch (rules_.style()) {
      case CallStyle::kQwenXml:
      case CallStyle::kGlm:
      case CallStyle::kMiniMax:
      case CallStyle::kDsml:
        return tagged_call(rules_, tool, tool.strict ? Arguments::kBySchema : arguments_, opened_);
      case CallStyle::kFunctionGemma:
      case CallStyle::kGemma4:
        return gemma_call(rules_, tool);
      default:
        break;
    }
    ASSIGN_OR_RETURN(const std::string object, object_of(tool));
    const auto json = [&](const char* arguments) {
      return rules_.exactly("{\"name\": " + json_string(tool.name) + ", \"" + arguments + "\": ") + object +
             "\"}\" ";
    };
    switch (rules_.style()) {
      case CallStyle::kHermes:
        return "\"\\n\"? " + json("arguments") + "\"\\n\"? ";
      case CallStyle::kCommand:
        return "\"{\\\"tool_call_id\\\": \\\"\" /[0-9]{1,3}/ " +
               rules_.exactly("\", \"tool_name\": " + json_string(tool.name) + ", \"parameters\": ") +
               object + "\"}\" ";
      case CallStyle::kLlama:
        return json("parameters");
      case CallStyle::kMistral:
        if (mistral_list_) return json("arguments");
        break;
      case CallStyle::kJson:
        return json("arguments");
      default:
        break;
    }
    if (!is_plain_name(tool.name)) return cannot_write(tool, rules_.style(), "its name has other signs");
    return framed(tool.name, object);
  }

  // A name and an object between markers.
  std::string framed(const std::string& name, const std::string& object) {
    const auto exactly = [this](const std::string& text) { return rules_.exactly(text); };
    if (rules_.style() == CallStyle::kMistral) {
      const std::string id =
          rules_.token_of("[CALL_ID]") ? "(" + exactly("[CALL_ID]") + "/[a-zA-Z0-9]{9}/ )? " : "";
      return exactly(name) + id + exactly("[ARGS]") + object;
    }
    if (rules_.style() == CallStyle::kKimi)
      return exactly("<|tool_call_begin|>functions." + name + ":") + "/[0-9]{1,3}/ " +
             exactly("<|tool_call_argument_begin|>") + object + exactly("<|tool_call_end|>");
    if (rules_.style() == CallStyle::kHarmony)
      return exactly("<|channel|>commentary to=functions." + name + " <|constrain|>json<|message|>") + object;
    // V3.1 writes the bare object, V3 and R1 the kind of tool and a fence: the model knows which.
    std::vector<std::string> forms = {exactly("function<｜tool▁sep｜>" + name + "\n```json\n") + object +
                                      exactly("\n```")};
    // A tool of that name would be taken for the kind.
    if (name != "function") forms.push_back(exactly(name + "<｜tool▁sep｜>") + object);
    return exactly("<｜tool▁call▁begin｜>") + one_of_parts(forms) + exactly("<｜tool▁call▁end｜>") +
           "\"\\n\"? ";
  }

  CallRules rules_;
  const std::span<const CallableTool> tools_;
  const Arguments arguments_;
  const bool mistral_list_;  // Older models of the family, whose vocabulary has no [ARGS].
  Section section_;
  bool opened_ = false;
};

}  // namespace

Result<GrammarText> forced_calls(const AnswerFormat& format, std::span<const CallableTool> tools,
                                 bool several, const Tokenizer& tokenizer) {
  return CallWriter(format, tools, Arguments::kBySchema, tokenizer).forced(several);
}

bool has_call_marker(const AnswerFormat& format) { return !section_of(format.calls, false).open.empty(); }

Result<OpenedCalls> opened_calls(const AnswerFormat& format, std::span<const CallableTool> tools,
                                 const Tokenizer& tokenizer) {
  CallWriter writer(format, tools, Arguments::kFree, tokenizer);
  const std::string marker = writer.marker();
  if (marker.empty()) {
    std::string message(family_of(format.calls));
    message += " form of calls has no marker at which a grammar could begin";
    return fail(ErrorCode::kUnsupported, std::move(message));
  }
  ASSIGN_OR_RETURN(GrammarText grammar, writer.behind_marker());
  return OpenedCalls{marker, std::move(grammar)};
}

}  // namespace mlxf::text
