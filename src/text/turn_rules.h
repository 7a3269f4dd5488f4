// TurnRules: which conversations a chat template prints whole.
//
// Templates were written for a system message, then users and assistants in turn. Clients' conversations are looser:
// agents send several messages of a user in a row, and further system messages in the middle. A template may print
// those, refuse them, or leave them out without a word, so it is tried out once per model. Pure; any thread.
#pragma once

#include "text/chat_template.h"

namespace mlxf::text {

struct TurnRules {
  bool system_first = true;    // A system message before the first user's.
  bool system_later = true;    // A further one behind it.
  bool users_in_a_row = true;  // Two messages of a user with no answer between them.
};

[[nodiscard]] TurnRules find_turn_rules(const ChatTemplate& chat);

}  // namespace mlxf::text
