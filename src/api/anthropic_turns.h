// Anthropic's messages, whose content is blocks, in the form that chat_messages() reads.
//
// Pure translation; any thread.
#pragma once

#include "base/json.h"

namespace mlxf::api {

// tool_use blocks become an assistant's tool_calls, tool_result blocks messages of the role tool that stand before the
// rest of their turn, thinking becomes reasoning_content. Blocks of other kinds stay in the content, where
// chat_messages() refuses those that it does not know. REQUIRES: an array of objects.
[[nodiscard]] Json plain_turns(const Json& messages);

}  // namespace mlxf::api
