#include "engine/drive_care.h"

#include <algorithm>

namespace mlxf::engine {

void DriveCare::look(std::chrono::nanoseconds now) {
  if (!temperature_ || (read_at_ && now - *read_at_ < kReadEvery)) return;
  read_at_ = now;
  celsius_ = temperature_->celsius();
  if (!celsius_) return;
  if (*celsius_ > kHot) storage_.set_depth(std::max(1U, storage_.depth() / 2));
  if (*celsius_ < kCool) storage_.set_depth(UINT32_MAX);
}

}  // namespace mlxf::engine
