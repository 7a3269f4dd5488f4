// AnswerParser: splits a model's generated text into what it says, what it thinks and which tools it calls.
//
// push() takes the text in pieces of whole characters and returns what they settle; text that may still become a
// marker is held back. However the text is cut, the same events come, but for where pieces of one kind are cut.
// Markers are never part of an event, but where a marker of reasoning stands in the middle of what is said. A call
// that is malformed or cut off never ends (AnswerEvent::Kind::kCallEnd): it is given back as content, or as
// kCallBroken where it had begun. Memory is bounded by AnswerWriter::kCallBytesMax. One answer, one thread.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/answer_format.h"
#include "text/answer_writer.h"

namespace mlxf::text {

class AnswerParser {
 public:
  // `tools`: none, and no calls are looked for. `prompt`: the end of the prompt, which may have begun the answer's
  // reasoning or its header.
  AnswerParser(const AnswerFormat& format, std::vector<ToolSpec> tools, std::string_view prompt);
  ~AnswerParser();
  AnswerParser(AnswerParser&&) noexcept;
  AnswerParser& operator=(AnswerParser&&) noexcept;

  [[nodiscard]] std::vector<AnswerEvent> push(std::string_view text);
  // The answer is over.
  [[nodiscard]] std::vector<AnswerEvent> finish();
  // What was pushed ends within the reasoning.
  [[nodiscard]] bool thinks() const;

  class Splitter;  // One family's way; internal.

 private:
  AnswerWriter writer_;
  std::unique_ptr<Splitter> splitter_;
};

}  // namespace mlxf::text
