// Anthropic's messages, whose content is blocks, in the form that chat_messages() reads.
//
// Pure translation; any thread.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace mlxf::api {

// tool_use blocks become an assistant's tool_calls, tool_result blocks messages of the role tool that stand before the
// rest of their turn, thinking becomes reasoning_content. What a tool returned beside text, as an image, is left out
// for a line that says so, and told in `warnings`; other blocks stay in the content, where chat_messages() refuses
// those that it does not know. REQUIRES: an array of objects.
[[nodiscard]] Json plain_turns(const Json& messages, std::vector<std::string>& warnings);

}  // namespace mlxf::api
