#include "server/constraint.h"

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
  const auto opened = text::opened_calls(model.answers, callable_tools(call), *model.tokenizer);
  if (!opened && !call.callable.empty()) return refused(opened.error(), "tool_choice");
  if (!opened) {
    warnings.push_back("strict has no effect where a call is not forced: " + opened.error().message);
    return nullptr;
  }
  return compiled({opened->grammar, "tools", text::thinking_of(model.answers, prompt.end), opened->marker},
                  model, warnings);
}

}  // namespace mlxf::server
