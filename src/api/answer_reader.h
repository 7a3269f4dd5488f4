// AnswerReader: a generation's tokens as what a protocol tells of: what is said, what is thought, which tools are
// called.
//
// Every protocol's Reply has one: push() each token and tell of the events that it returns, then finish() once. turn()
// is the answer as far as it came, for replies that are sent whole. It works from the model's AnswerFormat and the
// request's tools; an answer without either (a raw completion) is content alone. One answer, one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/call.h"
#include "api/reply.h"
#include "engine/scheduler.h"
#include "text/answer_parser.h"

namespace mlxf::api {

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // A JSON object.
};

struct Turn {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> calls;  // Whole ones.
};

class AnswerReader {
 public:
  AnswerReader(const Call& call, const ReplyFacts& facts);

  [[nodiscard]] std::vector<text::AnswerEvent> push(const engine::GeneratedToken& token);
  // What was held back, once the last token is pushed.
  [[nodiscard]] std::vector<text::AnswerEvent> finish();

  [[nodiscard]] const Turn& turn() const { return turn_; }
  // Tokens so far that are reasoning or open or close it.
  [[nodiscard]] uint32_t reasoning_tokens() const { return reasoning_tokens_; }
  // The id of the event's call; the same again for the same answer.
  [[nodiscard]] std::string call_id(uint32_t call) const;
  // The answer ended in order to have its calls run.
  [[nodiscard]] bool calls_tools(const engine::Finished& finished) const;

 private:
  [[nodiscard]] std::vector<text::AnswerEvent> take(std::vector<text::AnswerEvent> events);

  text::AnswerParser parser_;
  const std::string id_;
  const bool short_ids_;  // Mistral's templates take no other.
  const bool stream_, parallel_;
  Turn turn_;
  ToolCall open_;
  uint32_t reasoning_tokens_ = 0;
  bool broken_ = false;  // A call that was told of turned out to be none.
};

}  // namespace mlxf::api
