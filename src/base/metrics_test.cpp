#include "base/metrics.h"

#include <gtest/gtest.h>

#include <thread>

namespace mlxf {
namespace {

TEST(Metrics, WritesEachFamilyOnceWithItsSeriesTogether) {
  Metrics metrics;
  metrics.counter("a_total", "Answers, by end.", {{"reason", "stop"}}).add(3);
  metrics.gauge("b", "A level.", [] { return 0.25; });
  metrics.counter("a_total", "Answers, by end.", {{"reason", "say \"hi\"\n\\"}}).add();
  metrics.counter_of("c_total", "Counted elsewhere.", [] { return 12345678901.0; });
  EXPECT_EQ(metrics.expose(),
            "# HELP a_total Answers, by end.\n# TYPE a_total counter\n"
            "a_total{reason=\"stop\"} 3\na_total{reason=\"say \\\"hi\\\"\\n\\\\\"} 1\n"
            "# HELP b A level.\n# TYPE b gauge\nb 0.25\n"
            "# HELP c_total Counted elsewhere.\n# TYPE c_total counter\nc_total 12345678901\n");
}

TEST(Metrics, CumulatesTheBucketsOfAHistogram) {
  Metrics metrics;
  Histogram& waits = metrics.histogram("wait_seconds", "Waiting.", {0.1, 1});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) waits.observe(value);
  EXPECT_EQ(metrics.expose(),
            "# HELP wait_seconds Waiting.\n# TYPE wait_seconds histogram\n"
            "wait_seconds_bucket{le=\"0.1\"} 2\nwait_seconds_bucket{le=\"1\"} 3\n"
            "wait_seconds_bucket{le=\"+Inf\"} 4\nwait_seconds_sum 7.65\nwait_seconds_count 4\n");
}

TEST(Metrics, GoOnWhereAnEarlierOneOfTheNameStopped) {
  Metrics metrics;
  metrics.counter("a_total", "A.", {{"reason", "stop"}}).add(3);
  metrics.counter("a_total", "A.", {{"reason", "stop"}}).add();
  metrics.counter("a_total", "A.", {{"reason", "end"}}).add();
  metrics.histogram("b", "B.", {1}).observe(0.5);
  metrics.histogram("b", "B.", {1}).observe(2);
  EXPECT_EQ(
      metrics.expose(),
      "# HELP a_total A.\n# TYPE a_total counter\na_total{reason=\"stop\"} 4\na_total{reason=\"end\"} 1\n"
      "# HELP b B.\n# TYPE b histogram\n"
      "b_bucket{le=\"1\"} 1\nb_bucket{le=\"+Inf\"} 2\nb_sum 2.5\nb_count 2\n");
}

TEST(Metrics, SayWhatIsTrueNow) {
  Metrics metrics;
  std::string model = "first";
  metrics.info("info", "What is served.", [&] { return MetricLabels{{"model", model}}; });
  model = "second";
  EXPECT_EQ(metrics.expose(), "# HELP info What is served.\n# TYPE info gauge\ninfo{model=\"second\"} 1\n");
}

TEST(Metrics, CountsFromManyThreads) {
  Metrics metrics;
  Counter& counter = metrics.counter("n_total", "N.");
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) counter.add();
  });
  for (int i = 0; i < 1000; ++i) counter.add();
  other.join();
  EXPECT_EQ(counter.value(), 2000u);
}

}  // namespace
}  // namespace mlxf
