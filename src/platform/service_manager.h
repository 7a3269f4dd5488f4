// notify_service_manager(): tells systemd, or whoever set NOTIFY_SOCKET, how this service is doing (sd_notify(3)).
//
// Stateless; any thread. Without NOTIFY_SOCKET it does nothing.
#pragma once

#include <string_view>

#include "base/result.h"

namespace mlxf::platform {

// `state`: lines such as "READY=1" or "STATUS=loading". kIo where the socket does not take it, kInvalidArgument where
// NOTIFY_SOCKET names none.
[[nodiscard]] Status notify_service_manager(std::string_view state);

}  // namespace mlxf::platform
