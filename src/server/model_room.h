// Which models must go so that another one can be loaded: what is done next, from sizes and who is used alone.
//
// Rules. (1) A model that is used is never unloaded for another one: it takes no more requests and goes once it is
// idle. (2) Of idle ones the one that was used longest ago goes first, and none goes where that would not help. (3)
// They go until the new one fits as a whole. One that cannot, even without them, streams, and takes what is left as
// soon as that is half of what it could have. (4) What does not fit at all is refused, with the numbers, at the cost of
// nobody.
// Pure. Sizes are bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

namespace mlxf::server {

// What a model takes besides what the process holds already; zeros: not known, it is not asked about memory.
struct ModelNeed {
  uint64_t floor_bytes = 0;  // To run at all.
  uint64_t whole_bytes = 0;  // With everything in memory.
};

struct RoomLimits {
  uint64_t budget_bytes = 0;  // Of the whole process; 0: none.
  uint64_t base_bytes = 0;    // Of it, what is held besides models.
  uint32_t models_max = 1;
};

struct HeldModel {
  uint64_t claim_bytes = 0;
  bool busy = false;
  bool leaving = false;  // It takes no more requests.
  std::chrono::steady_clock::time_point used;
};

struct RoomStep {
  enum class Kind : uint8_t {
    kLoad,    // There is room.
    kUnload,  // Let go of `model`, then ask again.
    kAwait,   // `model` is to leave once it is idle.
    kRefuse,  // There never will be.
  } kind = Kind::kLoad;
  size_t model = 0;
  friend bool operator==(const RoomStep&, const RoomStep&) = default;
};

[[nodiscard]] RoomStep next_step(const ModelNeed& need, const RoomLimits& limits,
                                 std::span<const HeldModel> held);

}  // namespace mlxf::server
