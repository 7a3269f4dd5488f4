// ModelUses: who holds a served model, for the thread that waits until nobody does.
//
// A model's memory can be given back, or taken by another model, only once nobody reads from it. So whoever needs it
// gets a pointer that is counted, and its keeper waits for the count. Work keeps a model from being unloaded for want
// of use; a look (status, names) does not. Each model has counts of its own; the end of every use rings one bell.
// Thread-safe. Pointers may outlive the host: they share this.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "base/mutex.h"

namespace mlxf::server {

struct ServedModel;

// What the keeper waits at: a ring is kept until it is waited for.
class Doorbell {
 public:
  using Clock = std::chrono::steady_clock;
  // Ends a wait(), the next one if there is none.
  void ring() MLXF_EXCLUDES(mutex_);
  // Until a ring, or `until`.
  void wait(std::optional<Clock::time_point> until) MLXF_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  CondVar rung_changed_;
  bool rung_ MLXF_GUARDED_BY(mutex_) = false;
};

class ModelUses : public std::enable_shared_from_this<ModelUses> {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Kind : uint8_t { kWork, kLook };

  explicit ModelUses(std::shared_ptr<Doorbell> bell) : bell_(std::move(bell)) {}

  // `model`, counted until the last copy of the pointer is gone; null for null.
  [[nodiscard]] std::shared_ptr<ServedModel> hand_out(std::shared_ptr<ServedModel> model, Kind kind)
      MLXF_EXCLUDES(mutex_);

  struct Counts {
    uint32_t work = 0;
    uint32_t all = 0;              // Work and looks.
    Clock::time_point idle_since;  // Without work: when the last ended.
  };
  [[nodiscard]] Counts counts() const MLXF_EXCLUDES(mutex_);
  // As if work ended now.
  void touch() MLXF_EXCLUDES(mutex_);

 private:
  struct Use;
  void drop(Kind kind) MLXF_EXCLUDES(mutex_);

  const std::shared_ptr<Doorbell> bell_;  // Shared by all models of a host, and with what was handed out.
  mutable Mutex mutex_;
  Counts counts_ MLXF_GUARDED_BY(mutex_);
};

}  // namespace mlxf::server
