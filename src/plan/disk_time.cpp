#include "plan/disk_time.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "storage/storage.h"

namespace mlxf::plan {
namespace {

constexpr storage::QueueOptions kQueue;

// Between the values of `by_depth` (ascending), on a logarithmic scale.
double between(const std::vector<std::pair<double, double>>& points, double at) {
  if (at <= points.front().first) return points.front().second;
  if (at >= points.back().first) return points.back().second;
  size_t i = 1;
  while (points[i].first < at) ++i;
  const auto [x0, y0] = points[i - 1];
  const auto [x1, y1] = points[i];
  return y0 + (y1 - y0) * std::log(at / x0) / std::log(x1 / x0);
}

}  // namespace

double ssd_rate(std::span<const SsdRate> table, double block_bytes, double depth) {
  std::set<uint64_t> blocks;
  for (const SsdRate& row : table) blocks.insert(row.block_bytes);
  std::vector<std::pair<double, double>> by_block;
  for (const uint64_t block : blocks) {
    std::vector<std::pair<double, double>> by_depth;
    for (const SsdRate& row : table)
      if (row.block_bytes == block && row.depth > 0) by_depth.emplace_back(row.depth, row.bytes_s);
    std::sort(by_depth.begin(), by_depth.end());
    if (!by_depth.empty()) by_block.emplace_back(static_cast<double>(block), between(by_depth, depth));
  }
  if (by_block.empty()) return 0;
  const auto [smallest, rate] = by_block.front();
  if (block_bytes >= smallest || by_block.size() < 2) return between(by_block, block_bytes);
  // Each read costs some time of its own: the line through the two smallest blocks.
  const auto [second, second_rate] = by_block[1];
  const double per_byte = (second / second_rate - smallest / rate) / (second - smallest);
  const double seconds = smallest / rate - per_byte * (smallest - block_bytes);
  return std::min(rate, block_bytes / std::max(seconds, block_bytes / rate));
}

BatchTime::BatchTime(std::span<const SsdRate> table, double block_bytes) {
  last_.reserve(kQueue.depth + 1);
  last_.push_back(0);
  for (uint32_t k = 1; k <= kQueue.depth; ++k) {
    full_ = block_bytes / ssd_rate(table, block_bytes, k);
    last_.push_back(last_.back() + full_);
  }
}

double BatchTime::of(double reads) const {
  const double depth = kQueue.depth;
  if (reads >= depth) return last_.back() + (reads - depth) * full_;
  const auto whole = static_cast<size_t>(reads);
  return last_[whole] + (reads - static_cast<double>(whole)) * (last_[whole + 1] - last_[whole]);
}

double BatchTime::expected(uint32_t records, double chance, double reads_each) const {
  if (chance <= 0) return 0;
  if (chance >= 1) return of(records * reads_each);
  double mean = 0;
  const double n = records;
  for (uint32_t k = 1; k <= records; ++k) {
    // The binomial distribution, by logarithms: hundreds of records are common.
    const double log_ways = std::lgamma(n + 1) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1);
    mean += std::exp(log_ways + k * std::log(chance) + (n - k) * std::log1p(-chance)) * of(k * reads_each);
  }
  return mean;
}

}  // namespace mlxf::plan
