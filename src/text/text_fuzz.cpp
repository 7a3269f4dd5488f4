// Any bytes as a tokenizer.json, as a chat template and as a message: refused with words, or accepted and then usable.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

void use_tokenizer(std::string_view json) {
  const auto tokenizer = mlxf::text::parse_tokenizer(json);
  if (!tokenizer) {
    CHECK(!tokenizer.error().message.empty());
    return;
  }
  const auto ids =
      tokenizer->encode("Hi  <s></s> \xC3\xA9\xF0\x9F\xA6\x99\n<|im_end|>", {.parse_special = false});
  if (!ids) return;
  mlxf::text::IncrementalDetokenizer detokenizer(*tokenizer, {.special = mlxf::text::SpecialTokens::kKeep});
  std::string streamed;
  for (const mlxf::TokenId id : *ids) {
    CHECK(id >= 0 && static_cast<uint32_t>(id) < tokenizer->vocab_size());
    streamed += detokenizer.push(id);
  }
  streamed += detokenizer.finish();
  CHECK(mlxf::text::is_utf8(streamed));
  CHECK(streamed == tokenizer->decode(*ids).value());
}

void use_template(std::string_view source, std::string_view content) {
  const auto chat = mlxf::text::parse_chat_template(source, "<s>", "</s>");
  if (!chat) return;
  mlxf::OrderedJson messages = mlxf::OrderedJson::array();
  messages.push_back({{"role", "user"}, {"content", std::string(content)}});
  const auto prompt = chat->render(messages, {.now_seconds = 0});
  CHECK(!prompt || mlxf::text::is_utf8(prompt->text()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with("{\"")) {
    use_tokenizer(input);
    return 0;
  }
  // A template and, behind a NUL, the message that it prints.
  const size_t cut = std::min(input.find('\0'), input.size());
  use_template(input.substr(0, cut), input.substr(std::min(cut + 1, input.size())));
  use_template(
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim | tojson }}{{ m.content.split('<')[0] }}{% "
      "endfor %}",
      input);
  return 0;
}
