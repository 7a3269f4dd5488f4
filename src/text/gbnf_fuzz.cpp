// Any bytes as a GBNF grammar: refused with words that say where, or translated, in bounded time.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/gbnf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Some tokens are text, some end an answer, and some are none.
  using Fact = mlxf::text::GbnfTokenFact;
  const auto by_id = [](mlxf::TokenId id) -> mlxf::Result<Fact> {
    if (id > 1000) return mlxf::fail(mlxf::ErrorCode::kInvalidArgument, "there is no such token");
    return Fact{id, id % 3 == 0, id % 7 == 0};
  };
  const auto by_text = [&by_id](std::string_view name) {
    return by_id(static_cast<mlxf::TokenId>(name.size()));
  };
  const auto lark = mlxf::text::gbnf_to_lark(text, {by_text, by_id});
  if (lark) {
    CHECK(lark->lark.starts_with("start: "));
    CHECK(lark->lark.ends_with("\n"));
  } else {
    CHECK(lark.error().code == mlxf::ErrorCode::kInvalidArgument);
    CHECK(!lark.error().message.empty());
  }
  // A grammar that is one may begin with the rule's name alone.
  if (mlxf::text::is_gbnf(text)) CHECK(text.find("::=") != std::string_view::npos);
  return 0;
}
