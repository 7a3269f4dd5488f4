#include "server/model_uses.h"

#include <utility>

#include "server/model_host.h"

namespace mlxf::server {

struct ModelUses::Use {
  Use(std::shared_ptr<ModelUses> counted_by, std::shared_ptr<ServedModel> held, Kind of)
      : uses(std::move(counted_by)), model(std::move(held)), kind(of) {}
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() {
    model.reset();  // First: when nobody is counted, nobody holds it.
    uses->drop(kind);
  }
  const std::shared_ptr<ModelUses> uses;
  std::shared_ptr<ServedModel> model;
  const Kind kind;
};

std::shared_ptr<ServedModel> ModelUses::hand_out(std::shared_ptr<ServedModel> model, Kind kind) {
  if (model == nullptr) return nullptr;
  {
    const MutexLock lock(mutex_);
    ++counts_.all;
    if (kind == Kind::kWork) ++counts_.work;
  }
  ServedModel* const pointed = model.get();
  return {std::make_shared<Use>(shared_from_this(), std::move(model), kind), pointed};
}

void ModelUses::drop(Kind kind) {
  {
    const MutexLock lock(mutex_);
    --counts_.all;
    if (kind == Kind::kWork && --counts_.work == 0) counts_.idle_since = Clock::now();
  }
  bell_->ring();
}

ModelUses::Counts ModelUses::counts() const {
  const MutexLock lock(mutex_);
  return counts_;
}

void ModelUses::touch() {
  const MutexLock lock(mutex_);
  counts_.idle_since = Clock::now();
}

void Doorbell::ring() {
  {
    const MutexLock lock(mutex_);
    rung_ = true;
  }
  rung_changed_.notify_all();
}

void Doorbell::wait(std::optional<Clock::time_point> until) {
  const MutexLock lock(mutex_);
  while (!rung_) {
    if (!until) {
      rung_changed_.wait(mutex_);
      continue;
    }
    const auto left = *until - Clock::now();
    if (left.count() <= 0) return;
    rung_changed_.wait_for(mutex_, left);
  }
  rung_ = false;
}

}  // namespace mlxf::server
