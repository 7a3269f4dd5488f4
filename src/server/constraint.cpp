#include "server/constraint.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "text/call_grammar.h"

namespace mlxf::server {
namespace {

using api::ApiError;
using api::ErrorKind;
using Made = tl::expected<std::shared_ptr<const engine::Constraint>, ApiError>;

tl::unexpected<ApiError> refused(const Error& problem, const std::string& param) {
  ApiError error =
      problem.code == ErrorCode::kInvalidArgument ? api::from_request(problem) : api::from_engine(problem);
  if (problem.code == ErrorCode::kUnsupported) error.kind = ErrorKind::kUnsupported;
  error.message = param + ": " + problem.message;
  error.param = param;
  return tl::unexpected<ApiError>(std::move(error));
}

// What is asked for: a grammar, where it came from, and where in an answer it holds.
struct Asked {
  const text::GrammarText& grammar;
  std::string param;
  text::Thinking thinking;
  std::string opening = {};
};

Made compiled(Asked asked, const ServedModel& model, std::vector<std::string>& warnings) {
  auto made = model.grammars->compile(asked.grammar);
  if (!made) return refused(made.error(), asked.param);
  for (const std::string& note : made->notes()) warnings.push_back(asked.param + ": " + note);
  return std::make_shared<const engine::Constraint>(
      engine::Constraint{std::move(*made), std::move(asked.thinking), std::move(asked.opening)});
}

// The tools that may be called, with their schemas in the order that the template shows.
std::vector<text::CallableTool> callable_tools(const api::Call& call) {
  std::vector<text::CallableTool> out;
  const auto* chat = std::get_if<api::ChatPrompt>(&call.prompt);
  if (chat == nullptr || !chat->render.tools.is_array()) return out;
  out.reserve(call.tools.size());
  for (const OrderedJson& tool : chat->render.tools) {
    const OrderedJson& function = tool["function"];
    text::CallableTool one;
    one.name = function["name"].get<std::string>();
    if (!call.callable.empty() && !call.callable.contains(one.name)) continue;
    if (function.contains("parameters")) one.parameters = function["parameters"];
    one.strict = call.strict_tools.contains(one.name);
    out.push_back(std::move(one));
  }
  return out;
}

// Calls that may come: held to the schemas of strict tools, and to the tools that are allowed. Arguments of strict
// tools are promised to fit; without such tools the answer is worth more than what it is held to.
Made free_to_call(const api::Call& call, const ServedModel& model, const Prompt& prompt,
                  std::vector<std::string>& warnings) {
  const std::vector<text::CallableTool> tools = callable_tools(call);
  const bool strict = std::any_of(tools.begin(), tools.end(), [](const auto& tool) { return tool.strict; });
  const auto not_held = [&warnings](const std::string& why) -> Made {
    warnings.push_back("tool_choice: calls are not held to the allowed tools: " + why);
    return nullptr;
  };
  const auto opened = text::opened_calls(model.answers, tools, *model.tokenizer);
  if (!opened) {
    const Error& problem = opened.error();
    const bool too_large = problem.code == ErrorCode::kInvalidArgument;
    if (strict && too_large) return refused(problem, "tools");
    if (call.callable.empty()) {
      warnings.push_back("strict has no effect where a call is not forced: " + problem.message);
      return nullptr;
    }
    if (strict || !text::has_call_marker(model.answers)) return refused(problem, "tool_choice");
    return not_held(problem.message);
  }
  Made made =
      compiled({opened->grammar, "tools", text::thinking_of(model.answers, prompt.end), opened->marker},
               model, warnings);
  if (!made && !strict && made.error().kind == ErrorKind::kInvalidRequest)
    return not_held(made.error().message);
  return made;
}

}  // namespace

Made make_constraint(const api::Call& call, const ServedModel& model, const Prompt& prompt,
                     std::vector<std::string>& warnings) {
  const bool calls = prompt.chat && !call.tools.empty();
  if (calls && call.must_call) {
    const auto grammar =
        text::forced_calls(model.answers, callable_tools(call), call.parallel_tool_calls, *model.tokenizer);
    if (!grammar) return refused(grammar.error(), "tool_choice");
    return compiled({*grammar, "tools", text::thinking_of(model.answers, prompt.end)}, model, warnings);
  }
  if (call.structure) {
    text::Thinking thinking = prompt.thinking;
    // A grammar is of the final channel: calls stand in others.
    if (calls && model.answers.calls == text::CallStyle::kHarmony) thinking.call_end = "<|call|>";
    return compiled({call.structure->grammar, call.structure->param, std::move(thinking)}, model, warnings);
  }
  if (!calls || (call.strict_tools.empty() && call.callable.empty())) return nullptr;
  return free_to_call(call, model, prompt, warnings);
}

}  // namespace mlxf::server
