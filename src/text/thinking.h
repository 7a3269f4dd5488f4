// Thinking: where an answer's own text begins, for models that think aloud first.
//
// Chat templates of such models speak of a pair of marks, as <think> and </think>. Either the template opens the
// thinking itself at the end of the prompt, or it leaves that to the model, or it closes it at once to switch it off.
// In harmony an answer is messages in channels, of which the one in `final` is its text: all before it is thinking.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/answer_format.h"

namespace mlxf::text {

struct Thinking {
  enum class State : uint8_t {
    kNone,     // The answer is text from its first token.
    kMayOpen,  // Its first token may be `open`.
    kOpen,     // It begins in the middle of thinking; its text follows `close`.
  };
  State state = State::kNone;
  std::string open = {}, close = {};
  std::string then = {};      // What follows `close` before the text.
  std::string call_end = {};  // A token that may end the answer in the thinking, with a call.
};

// Of the answer to `prompt`, which a template with this source rendered, its generation prompt included.
[[nodiscard]] Thinking thinking_after(std::string_view template_source, std::string_view prompt);
// The same by the marks that an AnswerParser looks for.
[[nodiscard]] Thinking thinking_of(const AnswerFormat& format, std::string_view prompt);

}  // namespace mlxf::text
