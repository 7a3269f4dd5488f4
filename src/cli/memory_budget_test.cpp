// --memory-budget as its users see it: the same answers, within the memory that was given, or a refusal that says what
// would work.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"

namespace mlxf {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Memory that only that process can give back, as the kernel counts it; 0 once it has ended.
uint64_t own_memory_of(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  uint64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    for (const char* field : {"RssAnon:", "RssShmem:", "VmSwap:"})
      if (line.rfind(field, 0) == 0)
        kib += std::strtoull(line.c_str() + std::string(field).size(), nullptr, 10);
  return kib << 10;
}

struct Watched {
  int code = -1;
  std::string out, error;
  uint64_t peak = 0;  // Of own_memory_of(), looked at as often as possible.
  uint64_t looks = 0;
};

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Runs the program on the bundled model and watches its memory from outside.
Watched watch(std::vector<std::string> arguments) {
  const std::string base = testing::TempDir() + "mlx-flash-budget-" + std::to_string(getpid());
  const std::string out = base + ".out", error = base + ".err";
  arguments.insert(arguments.begin(), MLXF_PROGRAM);
  arguments.insert(arguments.end(), {"-m", MLXF_SOURCE_DIR "/models/classics-moe-4bit", "-t", "2"});
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  Watched watched;
  int alive[2];  // The child's end closes when it ends.
  if (pipe(alive) != 0) return watched;
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    dup2(open(error.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(alive[1]);
  for (pollfd end{alive[0], POLLIN, 0}; poll(&end, 1, 1) == 0; ++watched.looks)
    watched.peak = std::max(watched.peak, own_memory_of(pid));
  close(alive[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  watched.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  watched.out = text_of(out);
  watched.error = text_of(error);
  unlink(out.c_str());
  unlink(error.c_str());
  return watched;
}

Json json_of(const Watched& watched) {
  const auto parsed = parse_json(watched.out);
  EXPECT_EQ(watched.code, 0) << watched.error;
  EXPECT_TRUE(parsed) << watched.out << watched.error;
  return parsed ? *parsed : Json();
}

std::vector<std::string> request(const std::string& prompt, const std::string& tokens,
                                 const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"run",    "-p", prompt,   "-n",          tokens,
                                        "--seed", "3",  "--json", "--ignore-eos"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// The promise: what the kernel charges to the process stays within the budget, by 1 % or a huge page; and the answer
// is that of a process without a limit.
TEST(MemoryBudget, HoldsFromOutsideAndAnswersStayTheSame) {
  std::string prompt;
  for (int i = 0; i < 30; ++i)
    prompt += "It was a dark night, and the wind rose over the old house by the sea. ";
  const Json expected = json_of(watch(request(prompt, "32", {"--memory-budget", "none"})));
  ASSERT_EQ(expected["tokens"].size(), 32u);
  for (const uint64_t mib : {60, 45, 35}) {
    const Watched watched = watch(request(prompt, "32", {"--memory-budget", std::to_string(mib) + "MiB"}));
    const Json answer = json_of(watched);
    EXPECT_EQ(answer["tokens"], expected["tokens"]) << mib;
    const uint64_t budget = mib * kMiB;
    const uint64_t most = budget + std::max(budget / 100, 2 * kMiB);
    EXPECT_LE(watched.peak, most) << mib << " MiB, seen " << (watched.peak >> 10) << " KiB";
    EXPECT_LE(answer["peak_anon_bytes"].get<uint64_t>(), most);
    EXPECT_GT(watched.looks, 20u) << "hardly looked";
    EXPECT_GT(watched.peak, budget / 2) << "a check of nothing";
  }
}

TEST(MemoryBudget, EveryWayOfReadingGivesTheSameAnswer) {
  const Json expected = json_of(watch(request("The old man", "16", {"--memory-budget", "none"})));
  const std::vector<std::vector<std::string>> ways = {
      {}, {"--io", "pread"}, {"--io", "buffered", "--no-look-ahead"}, {"--cache-policy", "lru"}};
  for (std::vector<std::string> way : ways) {
    way.insert(way.end(), {"--memory-budget", "35MiB"});
    EXPECT_EQ(json_of(watch(request("The old man", "16", way)))["tokens"], expected["tokens"]) << way[0];
  }
}

double number(const Json& object, const char* name) {
  const auto value = find_number(object, name);
  EXPECT_TRUE(value) << name;
  return value.value_or(-1);
}

// What is reported adds up: every needed byte was a hit, late or a miss, the layers' waits are the whole wait, and the
// shares are of the numbers beside them.
TEST(MemoryBudget, ReportsWhatStreamingHasCost) {
  const Json answer = json_of(watch(request("The old man", "24", {"--memory-budget", "35MiB"})));
  const Json* streaming = find_member(answer, "streaming");
  ASSERT_NE(streaming, nullptr);
  const double hit = number(*streaming, "hit_bytes"), late = number(*streaming, "late_bytes"),
               miss = number(*streaming, "miss_bytes");
  EXPECT_GT(miss, 0);
  EXPECT_NEAR(number(answer, "hit_rate"), hit / (hit + late + miss), 1e-9);
  EXPECT_GT(number(*streaming, "reads"), 0);
  EXPECT_GE(number(*streaming, "ssd_bytes_read"), miss) << "direct reads are of whole blocks";
  EXPECT_NEAR(number(*streaming, "read_bytes_s"),
              number(*streaming, "ssd_bytes_read") / number(*streaming, "io_seconds"), 1);
  EXPECT_NEAR(number(*streaming, "probe_share"),
              number(*streaming, "read_bytes_s") / number(*streaming, "probe_bytes_s"), 1e-9);
  EXPECT_LE(number(*streaming, "look_ahead_used"), number(*streaming, "look_ahead_reads"));
  double stalls = 0;
  for (const Json& layer : *find_member(*streaming, "layer_stall_seconds")) stalls += layer.get<double>();
  EXPECT_EQ(find_member(*streaming, "layer_stall_seconds")->size(), 8u);
  EXPECT_NEAR(stalls, number(answer, "stall_seconds"), 1e-6);
  EXPECT_GT(number(answer, "limit_tok_s"), 0);
  EXPECT_NEAR(number(answer, "limit_share"), number(answer, "gen_tok_s") / number(answer, "limit_tok_s"),
              1e-9);
  EXPECT_GE(number(answer, "pipeline_share"), number(answer, "limit_share"))
      << "the run's own hits are no better than the best cache's";
  EXPECT_GE(number(answer, "limit_hit_rate"), number(answer, "answer_hit_rate"));

  const Json resident = json_of(watch(request("The old man", "4", {"--memory-budget", "none"})));
  EXPECT_EQ(find_member(resident, "streaming"), nullptr);
  EXPECT_GT(number(resident, "limit_tok_s"), 0);
}

// A profile that was saved warms the next run's first tokens; one that is damaged is ignored, in a line; neither
// changes the answer.
TEST(MemoryBudget, StartsWarmAfterSaveHeat) {
  namespace fs = std::filesystem;
  const fs::path cache = fs::path(testing::TempDir()) / ("mlx-flash-heat-" + std::to_string(getpid()));
  setenv("XDG_CACHE_HOME", cache.c_str(), 1);
  const auto answer = [](const std::string& tokens, const std::vector<std::string>& more) {
    std::vector<std::string> flags = {"--memory-budget", "35MiB"};
    flags.insert(flags.end(), more.begin(), more.end());
    return watch(request("The old man", tokens, flags));
  };
  const Json cold = json_of(answer("2", {}));
  EXPECT_FALSE(fs::exists(cache)) << "written without being asked";
  const Json saving = json_of(answer("24", {"--save-heat"}));
  EXPECT_EQ(saving["tokens"][0], cold["tokens"][0]);
  ASSERT_TRUE(fs::exists(cache / "mlx-flash" / "heat"));
  const Json warm = json_of(answer("2", {}));
  EXPECT_EQ(warm["tokens"], cold["tokens"]);
  EXPECT_GT(number(warm, "hit_rate"), number(cold, "hit_rate") + 0.1);
  const fs::path file = fs::directory_iterator(cache / "mlx-flash" / "heat")->path();
  const std::string good = text_of(file);
  for (const std::string& bad :
       {std::string("{"), good.substr(0, good.size() / 2), std::string("{\"version\": 2}"),
        "{\"version\": 1, \"model\": \"" + file.stem().string() + "\", \"uses\": [1, -2]}"}) {
    std::ofstream(file) << bad;
    const Watched ignored = answer("2", {});
    EXPECT_EQ(json_of(ignored)["tokens"], cold["tokens"]);
    EXPECT_NE(ignored.error.find("ignoring the heat profile " + file.string()), std::string::npos)
        << ignored.error;
    EXPECT_EQ(std::count(ignored.error.begin(), ignored.error.end(), '\n'), 1) << ignored.error;
  }
  fs::remove_all(cache);
  unsetenv("XDG_CACHE_HOME");
}

// The number in the refusal is no guess: one MiB less is refused, that much works.
TEST(MemoryBudget, ARefusalNamesTheSmallestBudgetThatWorks) {
  const Watched refused = watch(request("The old man", "8", {"--memory-budget", "1MiB"}));
  EXPECT_EQ(refused.code, 1);
  const std::string sentence = "it needs ";
  const size_t at = refused.error.find(sentence);
  ASSERT_NE(at, std::string::npos) << refused.error;
  const uint64_t mib = std::strtoull(refused.error.c_str() + at + sentence.size(), nullptr, 10);
  ASSERT_GT(mib, 9u) << refused.error;  // The weights that every token uses alone are 8 MiB.
  EXPECT_EQ(refused.error.substr(0, 11), "mlx-flash: ");
  const Watched smallest =
      watch(request("The old man", "8", {"--memory-budget", std::to_string(mib) + "MiB"}));
  EXPECT_EQ(smallest.code, 0) << smallest.error;
  EXPECT_EQ(watch(request("The old man", "8", {"--memory-budget", std::to_string(mib - 2) + "MiB"})).code, 1);
}

TEST(MemoryBudget, NonsenseIsWrongUsage) {
  for (const char* budget : {"0", "-3", "fast", "12XB", "200%", ""}) {
    const Watched watched = watch(request("x", "1", {"--memory-budget", budget}));
    EXPECT_EQ(watched.code, 2) << budget;
    EXPECT_NE(watched.error.find("--memory-budget"), std::string::npos) << watched.error;
    EXPECT_EQ(std::count(watched.error.begin(), watched.error.end(), '\n'), 1) << watched.error;
  }
  EXPECT_EQ(watch(request("x", "1", {"--memory-budget", "35MiB", "--io", "telepathy"})).code, 2);
  EXPECT_EQ(watch(request("x", "1", {"--memory-budget", "35MiB", "--cache-policy", "mru"})).code, 2);
}

}  // namespace
}  // namespace mlxf
