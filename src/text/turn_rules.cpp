#include "text/turn_rules.h"

#include <initializer_list>
#include <string>

namespace mlxf::text {
namespace {

// A text of each role, all of which must be printed, in their order.
bool prints(const ChatTemplate& chat, std::initializer_list<const char*> roles) {
  OrderedJson messages = OrderedJson::array();
  const auto text_of = [](size_t place) { return "probe number " + std::to_string(place); };
  for (const char* role : roles) messages.push_back({{"role", role}, {"content", text_of(messages.size())}});
  const auto prompt = chat.render(messages);
  if (!prompt) return false;
  const std::string text = prompt->text();
  size_t at = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    at = text.find(text_of(i), at);
    if (at == std::string::npos) return false;
  }
  return true;
}

}  // namespace

TurnRules find_turn_rules(const ChatTemplate& chat) {
  return {prints(chat, {"system", "user"}), prints(chat, {"user", "system"}), prints(chat, {"user", "user"})};
}

}  // namespace mlxf::text
