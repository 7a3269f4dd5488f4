// AnswerWriter: what an answer's parsers found, as events in order.
//
// It keeps blanks around reasoning and calls out of the answer, and checks a call's arguments before it ends. Owned by
// an AnswerParser; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace mlxf::text {

// What a tool is called and takes, as a JSON schema; null where that is not known.
// NOLINTNEXTLINE(bugprone-exception-escape): what moving a Json could throw is its own assertions.
struct ToolSpec {
  std::string name;
  Json parameters;
};

struct AnswerEvent {
  enum class Kind : uint8_t {
    kContent,    // A piece of what is said.
    kReasoning,  // A piece of what is thought.
    kCallBegin,  // `text` is the tool's name.
    kArguments,  // A piece of the arguments; all pieces of a call are one JSON object.
    kCallEnd,    // The call is whole.
    kCallBroken  // The call that began is none: it was cut off or is malformed. `text` is how the model wrote it.
  };
  Kind kind = Kind::kContent;
  uint32_t call = 0;  // Counts the calls that began, from 0.
  std::string text = {};
};

class AnswerWriter {
 public:
  // Long calls are given up: more than a model's answer ever holds.
  static constexpr size_t kCallBytesMax = size_t{4} << 20;
  static constexpr size_t kNameBytesMax = 256;

  explicit AnswerWriter(std::vector<ToolSpec> tools) : tools_(std::move(tools)) {}

  void content(std::string_view text) { write(AnswerEvent::Kind::kContent, text); }
  void reasoning(std::string_view text) { write(AnswerEvent::Kind::kReasoning, text); }
  // Blanks at either side of this place are no part of the answer.
  void cut();

  // False for a name that cannot be one.
  [[nodiscard]] bool begin_call(std::string_view name);
  void arguments(std::string_view piece);
  // False when the arguments are no JSON object after all.
  [[nodiscard]] bool end_call();
  [[nodiscard]] uint32_t calls_ended() const { return ended_; }
  // What was written as `raw` is no call.
  void broken(std::string_view raw);

  [[nodiscard]] bool knows(std::string_view name) const { return find_tool(name) != nullptr; }
  [[nodiscard]] bool has_tools() const { return !tools_.empty(); }
  // The schema of a tool's parameter, or null.
  [[nodiscard]] const Json* find_parameter(std::string_view tool, std::string_view parameter) const;
  [[nodiscard]] bool silent() const { return silent_; }  // Nothing but reasoning and blanks was written.

  // The end of the answer: blanks that were held back.
  void finish();
  [[nodiscard]] std::vector<AnswerEvent> take() { return std::exchange(events_, {}); }

 private:
  void write(AnswerEvent::Kind kind, std::string_view text);
  void emit(AnswerEvent::Kind kind, std::string_view text);
  [[nodiscard]] const ToolSpec* find_tool(std::string_view name) const;

  std::vector<ToolSpec> tools_;
  std::vector<AnswerEvent> events_;
  std::string blanks_;  // Held back: they may stand before a cut.
  AnswerEvent::Kind blanks_kind_ = AnswerEvent::Kind::kContent;
  bool skip_blanks_ = false;
  bool silent_ = true;
  bool open_ = false;
  uint32_t calls_ = 0, ended_ = 0;  // Begun; begun and whole.
  std::string arguments_;
};

}  // namespace mlxf::text
