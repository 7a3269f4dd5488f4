#include "storage/settled_rate.h"

#include <cmath>

namespace mlxf::storage {
namespace {

double window_begin(size_t window) {
  return SettledRate::kLeadSeconds + SettledRate::kWindowSeconds * static_cast<double>(window);
}

}  // namespace

SettledRate::SettledRate(double seconds, uint64_t bytes)
    : windows_wanted_(static_cast<size_t>(std::ceil(seconds / kWindowSeconds))), bytes_wanted_(bytes) {}

void SettledRate::add(double at, uint64_t bytes) {
  while (at >= window_begin(borders_.size())) borders_.push_back(bytes_);
  bytes_ += bytes;
  at_ = at;
}

size_t SettledRate::first_settled() const {
  size_t first = 0;
  for (; first + 1 < windows(); ++first) {
    const double mean = bytes_of(first + 1, windows()) / static_cast<double>(windows() - first - 1);
    if (bytes_of(first, first + 1) <= kTolerance * mean) break;
  }
  return first;
}

bool SettledRate::enough_from(size_t window) const {
  return windows() >= window + windows_wanted_ &&
         bytes_of(window, windows()) >= static_cast<double>(bytes_wanted_);
}

bool SettledRate::settled() const {
  if (windows_wanted_ == 0) return bytes_ >= bytes_wanted_;
  return windows() > 0 && enough_from(first_settled());
}

SettledRate::Amount SettledRate::amount() const {
  if (windows_wanted_ == 0 || windows() == 0 || !enough_from(0)) return {at_, bytes_, 0};
  size_t first = first_settled();
  while (!enough_from(first)) --first;
  return {kWindowSeconds * static_cast<double>(windows() - first), borders_.back() - borders_[first],
          window_begin(first)};
}

}  // namespace mlxf::storage
