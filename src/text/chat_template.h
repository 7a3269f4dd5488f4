// ChatTemplate: a model's Jinja chat template, rendered as the ecosystem renders it and within a budget.
//
// A template is a program from a stranger: every render has a budget of steps, output and intermediate bytes that
// grows with its input, so loops, joins, padding and recursion without end become an error. Nothing is guessed:
// a model without a template, and a template that fails, are errors.
//
// Message content must not be able to forge turns. In a RenderedPrompt every "<", "[", "]" or bar that came from
// a message, a tool or a variable is followed by a mark, a character that occurs nowhere else, whatever the
// template did to the string. encode_prompt() takes a control token for one only where no mark lies inside it;
// a look-alike from content becomes plain text. Reasoning tags in assistant messages stay unmarked, because
// templates split earlier answers at them. Immutable, thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace mlxf::text {

struct RenderOptions {
  bool add_generation_prompt = true;
  OrderedJson tools = nullptr;  // An array of tool definitions, or null for none.
  // Passed on only when set: templates have their own defaults.
  std::optional<bool> enable_thinking = std::nullopt;
  OrderedJson variables = OrderedJson::object();  // Further variables, e.g. "reasoning_effort".
  // What strftime_now formats, in seconds since 1970 with the time zone added; the local time if unset.
  std::optional<int64_t> now_seconds = std::nullopt;
};

struct RenderedPrompt {
  std::string marked;
  std::string mark;                        // One character as UTF-8; may be empty if nothing is marked.
  [[nodiscard]] std::string text() const;  // Without the marks: what the template printed.
};

class ChatTemplate {
 public:
  // `messages` is an array of objects with "role" and "content". Templates print objects with their members in order,
  // so parse a request with parse_ordered_json(); a Json also converts, with its members sorted. Fails with the
  // template's own words for raise_exception, with kOutOfBudget for a template that runs too long, nests too deep or
  // grows too large. Each call renders on a thread of its own that ends with it: see bridge/src/stack.rs.
  [[nodiscard]] Result<RenderedPrompt> render(const OrderedJson& messages,
                                              const RenderOptions& options = {}) const;
  // The Jinja source.
  [[nodiscard]] std::string_view source() const;

  struct Compiled;
  explicit ChatTemplate(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}

 private:
  std::shared_ptr<const Compiled> compiled_;  // Shared because it is immutable.
};

// The template called `name`: of a model that has several, "tool_use" or "rag"; "default" elsewhere.
// kNotFound when the model has none.
[[nodiscard]] Result<ChatTemplate> load_chat_template(const formats::ModelManifest& manifest,
                                                      std::string_view name = "default");
[[nodiscard]] Result<ChatTemplate> parse_chat_template(std::string_view source, std::string_view bos_token,
                                                       std::string_view eos_token);

// Token ids of a rendered prompt. Nothing is added: the template wrote the special tokens.
[[nodiscard]] Result<std::vector<TokenId>> encode_prompt(const Tokenizer& tokenizer,
                                                         const RenderedPrompt& prompt);

}  // namespace mlxf::text
