#include "api/answer_reader.h"

namespace mlxf::api {

using text::AnswerEvent;
using Kind = text::AnswerEvent::Kind;

AnswerReader::AnswerReader(const Call& call, const ReplyFacts& facts)
    : parser_(facts.format, call.tools, facts.prompt_end),
      id_(facts.id),
      short_ids_(facts.format.calls == text::CallStyle::kMistral),
      stream_(call.stream),
      parallel_(call.parallel_tool_calls) {}

std::vector<AnswerEvent> AnswerReader::push(const engine::GeneratedToken& token) {
  const bool thought = parser_.thinks();
  std::vector<AnswerEvent> events = take(parser_.push(token.text));
  if (token.id >= 0 && (thought || parser_.thinks())) ++reasoning_tokens_;
  return events;
}

std::vector<AnswerEvent> AnswerReader::finish() { return take(parser_.finish()); }

std::vector<AnswerEvent> AnswerReader::take(std::vector<AnswerEvent> events) {
  // "parallel_tool_calls": false: the first call counts.
  if (!parallel_)
    std::erase_if(events, [](const AnswerEvent& event) {
      return event.call > 0 && event.kind != Kind::kContent && event.kind != Kind::kReasoning;
    });
  for (const AnswerEvent& event : events) {
    switch (event.kind) {
      case Kind::kContent:
        turn_.content += event.text;
        break;
      case Kind::kReasoning:
        turn_.reasoning += event.text;
        break;
      case Kind::kCallBegin:
        open_ = {call_id(event.call), event.text, {}};
        break;
      case Kind::kArguments:
        open_.arguments += event.text;
        break;
      case Kind::kCallEnd:
        turn_.calls.push_back(std::move(open_));
        open_ = {};
        break;
      case Kind::kCallBroken:
        turn_.content += event.text;
        broken_ = true;
        break;
    }
  }
  return events;
}

std::string AnswerReader::call_id(uint32_t call) const {
  if (!short_ids_) return "call_" + id_ + "_" + std::to_string(call);
  constexpr const char* kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::string id = id_.size() > 7 ? id_.substr(id_.size() - 7) : id_;
  id.resize(7, '0');
  id += kDigits[call / 36 % 36];
  id += kDigits[call % 36];
  return id;
}

bool AnswerReader::calls_tools(const engine::Finished& finished) const {
  return finished.reason == engine::FinishReason::kStop && finished.stop_string.empty() &&
         !turn_.calls.empty() && !(stream_ && broken_);
}

}  // namespace mlxf::api
