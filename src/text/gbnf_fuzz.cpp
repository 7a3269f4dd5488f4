// Any bytes as a GBNF grammar: refused with words that say where, or translated, in bounded time.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/gbnf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto lark = mlxf::text::gbnf_to_lark(text);
  if (lark) {
    CHECK(lark->starts_with("start: "));
    CHECK(lark->ends_with("\n"));
  } else {
    CHECK(lark.error().code == mlxf::ErrorCode::kInvalidArgument);
    CHECK(!lark.error().message.empty());
  }
  // A grammar that is one may begin with the rule's name alone.
  if (mlxf::text::is_gbnf(text)) CHECK(text.find("::=") != std::string_view::npos);
  return 0;
}
