// AnswerParser's inner side: one splitter for answers with markers, one for harmony's messages.
//
// Internal to text/; one thread.
#pragma once

#include <memory>
#include <string_view>

#include "text/answer_parser.h"

namespace mlxf::text {

class AnswerParser::Splitter {
 public:
  virtual ~Splitter() = default;
  virtual void push(char byte, AnswerWriter& writer) = 0;
  virtual void finish(AnswerWriter& writer) = 0;
  [[nodiscard]] virtual bool thinks() const = 0;
};

[[nodiscard]] std::unique_ptr<AnswerParser::Splitter> make_harmony_splitter(std::string_view prompt);

}  // namespace mlxf::text
