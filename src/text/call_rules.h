// CallRules: the rules of one grammar of calls while it is written: texts whose markers are tokens, schemas, tools.
//
// Internal to text/; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/call_grammar.h"

namespace mlxf::text {

// "Qwen3-Coder's": whose form it is, for messages.
[[nodiscard]] std::string_view family_of(CallStyle style);
[[nodiscard]] tl::unexpected<Error> cannot_write(const CallableTool& tool, CallStyle style,
                                                 std::string_view what);

class CallRules {
 public:
  CallRules(const AnswerFormat& format, const Tokenizer& tokenizer)
      : style_(format.calls), tokenizer_(tokenizer), markers_(marker_spellings(format)) {}

  [[nodiscard]] CallStyle style() const { return style_; }
  // Of a family's spellings, the one that stands for a call as a token of its own.
  [[nodiscard]] std::optional<TokenId> token_of(std::string_view marker) const;
  // It is a token that no text holds.
  [[nodiscard]] bool is_no_text(std::string_view marker) const;
  // kInvalidArgument once there is more than a grammar may have. From then on nothing is added, so what goes through
  // schemas asks at every step.
  [[nodiscard]] Status fits() const;
  // `text` as it is. Parts of a rule end with a blank.
  [[nodiscard]] std::string exactly(std::string_view text);
  // A JSON value; `of` says what it describes.
  [[nodiscard]] std::string value(std::string of, OrderedJson schema, bool lenient);
  // Any text that goes on to `close`, which it takes with it.
  [[nodiscard]] std::string text_until(std::string_view close);
  // What `body` is, under a name.
  [[nodiscard]] std::string rule(const std::string& body);
  [[nodiscard]] Result<GrammarText> finish(const std::string& start);

 private:
  static constexpr size_t kBytesMax = size_t{256} << 10;  // As the bridge has it.
  void add_rule(const std::string& name, std::string_view head, std::string_view body);

  const CallStyle style_;
  const Tokenizer& tokenizer_;
  const std::vector<std::string> markers_;
  std::string rules_;
  size_t rule_count_ = 0;
  size_t bytes_ = 0;  // Of rules and schemas.
  OrderedJson schemas_ = OrderedJson::array();
  std::set<TokenId> tokens_;
};

// How much of the arguments is held to the schema.
enum class Arguments : uint8_t { kBySchema, kFree };

// The schema of a tool's arguments as a JSON object.
[[nodiscard]] Result<OrderedJson> arguments_schema(const CallableTool& tool, CallStyle style);
// A part that any of these is.
[[nodiscard]] std::string one_of_parts(const std::vector<std::string>& parts);
// Parameters stand between tags.
[[nodiscard]] bool is_tagged(CallStyle style);
// True for names that stand by themselves between markers.
[[nodiscard]] bool is_plain_name(std::string_view name);

// A call's name and arguments in the families' tagged forms, without what opens and closes a section.
// `opened`: from behind the marker that opens the call.
[[nodiscard]] Result<std::string> tagged_call(CallRules& rules, const CallableTool& tool, Arguments arguments,
                                              bool opened);
[[nodiscard]] Result<std::string> gemma_call(CallRules& rules, const CallableTool& tool);

}  // namespace mlxf::text
