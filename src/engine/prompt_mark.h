// Where a prompt's sequence is marked for the next prompt, if the model's layers forget: a conversation's next prompt
// has this one in it, but not always the answer as it was (thoughts are left out), nor always the last few tokens,
// which began the answer.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kv/sequence.h"

namespace mlxf::engine {

[[nodiscard]] inline uint32_t prompt_mark(uint32_t prompt_tokens) {
  constexpr uint32_t kTail = 16;
  return (prompt_tokens - std::min(prompt_tokens, kTail)) / kv::kStateBlock * kv::kStateBlock;
}

}  // namespace mlxf::engine
