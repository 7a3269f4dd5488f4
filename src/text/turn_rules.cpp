#include "text/turn_rules.h"

#include <initializer_list>
#include <string>

namespace mlxf::text {
namespace {

// A text of each role, all of which must be printed. Not in their order: some templates put all system messages first.
bool prints(const ChatTemplate& chat, std::initializer_list<const char*> roles) {
  OrderedJson messages = OrderedJson::array();
  const auto text_of = [](size_t place) { return "probe number " + std::to_string(place); };
  for (const char* role : roles) messages.push_back({{"role", role}, {"content", text_of(messages.size())}});
  const auto prompt = chat.render(messages);
  if (!prompt) return false;
  const std::string text = prompt->text();
  for (size_t i = 0; i < messages.size(); ++i)
    if (text.find(text_of(i)) == std::string::npos) return false;
  return true;
}

}  // namespace

TurnRules find_turn_rules(const ChatTemplate& chat) {
  // Behind a user and behind an assistant: those that count on turns take it in one of these places by chance.
  const bool later = prints(chat, {"user", "system", "assistant", "user"}) &&
                     prints(chat, {"user", "assistant", "system", "user"});
  return {prints(chat, {"system", "user"}), later, prints(chat, {"user", "user"})};
}

}  // namespace mlxf::text
