// The messages of a chat as chat templates want them, from what OpenAI's and Ollama's clients send.
//
// Pure translation; any thread.
#pragma once

#include <string>
#include <vector>

#include "api/errors.h"
#include "base/json.h"
#include "text/answer_format.h"
#include "text/turn_rules.h"

namespace mlxf::api {

// An array of {"role", "content"[, "name"]} with content as one string. Content may be a string, null or an array of
// text parts, which are joined by line ends; a developer counts as system. An assistant's turn may have "tool_calls",
// with their arguments as objects, and "reasoning_content"; a tool's has "tool_call_id" and the function's "name" where
// they are known. What is no text is an error naming it; other members that say something are told in `warnings`.
[[nodiscard]] tl::expected<OrderedJson, ApiError> chat_messages(const Json& messages,
                                                                std::vector<std::string>& warnings);

// What some families' templates have in other forms: harmony's reasoning, Mistral's ids, DeepSeek's arguments.
[[nodiscard]] OrderedJson adapted_messages(OrderedJson messages, text::CallStyle style);

// Conversations in the order that a template prints whole: messages of a user in a row become one where they must, and
// so do system messages at the beginning; others that the template would not print become a user's, which `warnings`
// tells. REQUIRES: messages of chat_messages()'s form.
[[nodiscard]] OrderedJson in_turns(OrderedJson messages, const text::TurnRules& rules,
                                   std::vector<std::string>& warnings);

// What stands in the place of a part that is no text, for the model to know that there was one.
[[nodiscard]] std::string left_out(const std::string& type);
// Parts of a tool's result that were left out, counted for one warning.
struct LeftOutParts {
  std::string first_type;
  size_t count = 0;
  void add(const std::string& type);
  void warn(const std::string& where, std::vector<std::string>& warnings) const;
};

}  // namespace mlxf::api
