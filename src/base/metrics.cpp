#include "base/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace mlxf {
namespace {

std::string escaped(const std::string& text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || (quotes && c == '"')) out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

std::string label_text(const MetricLabels& labels) {
  std::string out;
  for (const auto& [name, value] : labels)
    out += (out.empty() ? "" : ",") + name + "=\"" + escaped(value, true) + "\"";
  return out;
}

std::string braced(const std::string& labels) { return labels.empty() ? "" : "{" + labels + "}"; }

std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", value);
  // The shortest form that reads back as the same value, as far as people care.
  char brief[32];
  std::snprintf(brief, sizeof(brief), "%.10g", value);
  return std::strtod(brief, nullptr) == value ? brief : text;
}

std::string histogram_text(const std::string& name, const Histogram& histogram) {
  const Histogram::Snapshot data = histogram.snapshot();
  std::string out;
  uint64_t below = 0;
  for (size_t i = 0; i < data.counts.size(); ++i) {
    below += data.counts[i];
    const std::string bound =
        i < histogram.bounds().size() ? number_text(histogram.bounds()[i]) : std::string("+Inf");
    out += name + "_bucket{le=\"" + bound + "\"} " + std::to_string(below) + "\n";
  }
  out += name + "_sum " + number_text(data.sum) + "\n";
  return out + name + "_count " + std::to_string(data.count) + "\n";
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)) {
  data_.counts.resize(bounds_.size() + 1);
}

void Histogram::observe(double value) {
  const size_t bucket =
      static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin());
  const MutexLock lock(mutex_);
  ++data_.counts[bucket];
  ++data_.count;
  data_.sum += value;
}

Histogram::Snapshot Histogram::snapshot() const {
  const MutexLock lock(mutex_);
  return data_;
}

std::vector<double> Metrics::seconds_buckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
}

Counter& Metrics::counter(std::string name, std::string help, MetricLabels labels) {
  Series series{std::move(name), std::move(help), "counter", label_text(labels), nullptr, nullptr, {}};
  const MutexLock lock(mutex_);
  if (const Series* there = find(series); there != nullptr && there->counter != nullptr)
    return *there->counter;
  Counter& counter = counters_.emplace_back();
  series.counter = &counter;
  add(std::move(series));
  return counter;
}

Histogram& Metrics::histogram(std::string name, std::string help, std::vector<double> bounds) {
  Series series{std::move(name), std::move(help), "histogram", "", nullptr, nullptr, {}};
  const MutexLock lock(mutex_);
  if (const Series* there = find(series); there != nullptr && there->histogram != nullptr)
    return *there->histogram;
  Histogram& histogram = histograms_.emplace_back(std::move(bounds));
  series.histogram = &histogram;
  add(std::move(series));
  return histogram;
}

void Metrics::gauge(std::string name, std::string help, std::function<double()> read, MetricLabels labels) {
  const MutexLock lock(mutex_);
  add({std::move(name), std::move(help), "gauge", label_text(labels), nullptr, nullptr, std::move(read)});
}

void Metrics::info(std::string name, std::string help, std::function<MetricLabels()> read_labels) {
  const MutexLock lock(mutex_);
  const auto one = [] { return 1.0; };
  add({std::move(name), std::move(help), "gauge", "", nullptr, nullptr, one, std::move(read_labels)});
}

void Metrics::counter_of(std::string name, std::string help, std::function<double()> read) {
  const MutexLock lock(mutex_);
  add({std::move(name), std::move(help), "counter", "", nullptr, nullptr, std::move(read)});
}

const Metrics::Series* Metrics::find(const Series& like) const {
  const auto found = std::find_if(series_.begin(), series_.end(), [&](const Series& other) {
    return other.name == like.name && other.labels == like.labels;
  });
  return found == series_.end() ? nullptr : &*found;
}

// Series of one name stay together: the format wants each family once.
void Metrics::add(Series series) {
  const auto last = std::find_if(series_.rbegin(), series_.rend(),
                                 [&](const Series& other) { return other.name == series.name; });
  series_.insert(last == series_.rend() ? series_.end() : last.base(), std::move(series));
}

std::string Metrics::expose() const {
  std::vector<Series> series;  // Copied: what `read` calls must not run under the lock.
  {
    const MutexLock lock(mutex_);
    series = series_;
  }
  std::string out;
  for (size_t i = 0; i < series.size(); ++i) {
    const Series& s = series[i];
    if (i == 0 || series[i - 1].name != s.name)
      out += "# HELP " + s.name + " " + escaped(s.help, false) + "\n# TYPE " + s.name + " " + s.type + "\n";
    if (s.histogram != nullptr) {
      out += histogram_text(s.name, *s.histogram);
    } else {
      const std::string value =
          s.counter != nullptr ? std::to_string(s.counter->value()) : number_text(s.read());
      out += s.name + braced(s.read_labels ? label_text(s.read_labels()) : s.labels) + " " + value + "\n";
    }
  }
  return out;
}

}  // namespace mlxf
