// CallReader: reads tool calls as one family of models writes them, byte by byte, behind the marker that opens them.
//
// Made anew for each such marker by make_call_reader(). It tells the writer of calls as soon as their names are known
// and of arguments as they come. Calls that ended count; whoever drives it gives back what was read of another one
// when a step says kBroken. Internal to text/; one thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/answer_format.h"
#include "text/answer_writer.h"
#include "text/json_scanner.h"

namespace mlxf::text {

class CallReader {
 public:
  enum class Step : uint8_t { kMore, kEnd, kBroken };  // kEnd: the byte was the last one.
  virtual ~CallReader() = default;
  [[nodiscard]] virtual Step push(char byte, AnswerWriter& writer) = 0;
  // The answer ends here: true when no call is left half-way.
  [[nodiscard]] virtual bool finish(AnswerWriter& writer) = 0;
};

// Arguments as a JSON object, passed on while they are read.
class ArgumentsReader {
 public:
  // kEnd with the closing brace; blanks before the opening one are skipped.
  [[nodiscard]] CallReader::Step push(char byte, AnswerWriter& writer);
  [[nodiscard]] bool begun() const { return begun_; }

 private:
  JsonScanner scanner_;
  bool begun_ = false;
};

// A value that was written without JSON's own signs: JSON where it is JSON, else a string.
[[nodiscard]] std::string json_of_text(std::string_view text);
[[nodiscard]] std::string json_string(std::string_view text);

// What a schema lets a value be, as far as it says: where values stand as plain text, it decides what a text means.
struct AllowedTypes {
  bool text = false;   // A string,
  bool null = false;   // null,
  bool other = false;  // or something else.
};
[[nodiscard]] AllowedTypes allowed_types(const Json& schema);

struct CallMarkers {
  std::vector<std::string> open;
  std::vector<std::string> close;  // What is left of a section that was none.
};
[[nodiscard]] CallMarkers call_markers(CallStyle style);

// `marker` is the one of open's that was found; -1: the answer begins like a call without one. REQUIRES: a style
// other than kNone and kHarmony.
[[nodiscard]] std::unique_ptr<CallReader> make_call_reader(CallStyle style, int marker);

// By the families' forms.
enum class JsonCallForm : uint8_t {
  kHermes,   // Ends with </tool_call>.
  kCommand,  // A list of calls by "tool_name" that ends with <|END_ACTION|>.
  kListed,   // A list, or objects one after another, that end where something else follows.
  kBare      // The same without a marker: only known tools, with arguments, are calls.
};
[[nodiscard]] std::unique_ptr<CallReader> make_json_calls(JsonCallForm form);
[[nodiscard]] std::unique_ptr<CallReader> make_mistral_calls();
[[nodiscard]] std::unique_ptr<CallReader> make_framed_calls(CallStyle style);  // DeepSeek and Kimi.
// Qwen3-Coder, GLM, MiniMax, DeepSeek V3.2. `inside`: the call's own tag was the marker.
[[nodiscard]] std::unique_ptr<CallReader> make_tagged_calls(CallStyle style, bool inside);
[[nodiscard]] std::unique_ptr<CallReader> make_gemma_calls(CallStyle style);

}  // namespace mlxf::text
