// Metrics: counters, gauges and histograms under names, written out in Prometheus' text format (version 0.0.4).
//
// Owned by the program's top and passed down by reference; what it hands out lives as long as it does. Thread-safe:
// Metrics, Counter, Gauge, Histogram. Names follow Prometheus: base units (seconds, bytes), counters end in _total.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace mlxf {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  // Relaxed: a reader may see counters of different moments, each by itself is exact.
  void add(uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Histogram {
 public:
  // `bounds` ascending: the buckets' upper ends; the last bucket, without end, is added.
  explicit Histogram(std::vector<double> bounds);
  void observe(double value) MLXF_EXCLUDES(mutex_);

  struct Snapshot {
    std::vector<uint64_t> counts;  // Per bucket, not cumulated; one more than bounds.
    double sum = 0.0;
    uint64_t count = 0;
  };
  [[nodiscard]] Snapshot snapshot() const MLXF_EXCLUDES(mutex_);
  [[nodiscard]] std::span<const double> bounds() const { return bounds_; }

 private:
  const std::vector<double> bounds_;
  mutable Mutex mutex_;
  Snapshot data_ MLXF_GUARDED_BY(mutex_);
};

class Metrics {
 public:
  // From 1 ms to 10 min, for waiting times in seconds.
  static std::vector<double> seconds_buckets();

  // One that is there already, of the same name and labels, goes on: whoever counts may come and go.
  Counter& counter(std::string name, std::string help, MetricLabels labels = {}) MLXF_EXCLUDES(mutex_);
  Histogram& histogram(std::string name, std::string help, std::vector<double> bounds) MLXF_EXCLUDES(mutex_);
  // Values that are read when the text is made. `read` is called by whichever thread calls expose().
  void gauge(std::string name, std::string help, std::function<double()> read, MetricLabels labels = {})
      MLXF_EXCLUDES(mutex_);
  // A gauge that is always 1 and says something in its labels, which are read when the text is made.
  void info(std::string name, std::string help, std::function<MetricLabels()> read_labels)
      MLXF_EXCLUDES(mutex_);
  // As gauge() for a value that only grows and is counted elsewhere.
  void counter_of(std::string name, std::string help, std::function<double()> read) MLXF_EXCLUDES(mutex_);

  // One family per name, in the order of registration.
  [[nodiscard]] std::string expose() const MLXF_EXCLUDES(mutex_);

 private:
  struct Series {
    std::string name, help, type, labels;
    Counter* counter = nullptr;
    Histogram* histogram = nullptr;
    std::function<double()> read;
    std::function<MetricLabels()> read_labels = {};  // Instead of `labels`.
  };
  [[nodiscard]] const Series* find(const Series& like) const MLXF_REQUIRES(mutex_);
  void add(Series series) MLXF_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::deque<Counter> counters_ MLXF_GUARDED_BY(mutex_);  // Deques: addresses stay.
  std::deque<Histogram> histograms_ MLXF_GUARDED_BY(mutex_);
  std::vector<Series> series_ MLXF_GUARDED_BY(mutex_);
};

}  // namespace mlxf
