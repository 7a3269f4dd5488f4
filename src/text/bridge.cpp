#include "text/bridge.h"

namespace mlxf::text {

Error bridge_error(int32_t code, const BridgeBytes& message) {
  switch (code) {
    case MLXF_BRIDGE_INVALID:
      return {ErrorCode::kInvalidArgument, message.text()};
    case MLXF_BRIDGE_CORRUPT:
      return {ErrorCode::kCorrupt, message.text()};
    case MLXF_BRIDGE_UNSUPPORTED:
      return {ErrorCode::kUnsupported, message.text()};
    case MLXF_BRIDGE_BUDGET:
      return {ErrorCode::kOutOfBudget, message.text()};
    default:
      return {ErrorCode::kInternal, message.text()};
  }
}

}  // namespace mlxf::text
