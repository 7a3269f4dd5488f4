// `plan` as its users see it, and how runs report what it was worth. Budgets are near what the process itself takes.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/json.h"
#include "cli/run_program.h"

namespace mlxf {
namespace {

Outcome run(const std::string& arguments) { return run_as(MLXF_PROGRAM, arguments); }

// A profile is stored first, by a short measurement; without one, plan would measure for itself.
TEST(Program, APlanSaysWhatIsStreamedAndARunSaysHowWrongItWas) {
  const std::string cache = temporary("cache");
  std::filesystem::create_directories(cache);
  const std::string program = "XDG_CACHE_HOME=" + cache + " " MLXF_PROGRAM;
  const std::string bundled = " -m " MLXF_SOURCE_DIR "/models/classics-moe-4bit -t 1";
  const auto json_of = [](const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    const auto json = parse_json(outcome.output);
    EXPECT_TRUE(json) << outcome.output;
    return json.value_or(Json::object());
  };
  ASSERT_EQ(run_as(program, "doctor --quick 2> /dev/null").code, 0);
  const Json whole = json_of(run_as(program, "plan --json --memory-budget none" + bundled));
  EXPECT_EQ(whole["streams"], false);
  EXPECT_EQ(whole["bytes"]["slots"], 0);
  // The arithmetic of a context that no machine has memory for is not measured at its depth.
  const Json deep = json_of(run_as(program, "plan --json --memory-budget none -c 16777216" + bundled));
  EXPECT_GT(deep["bytes"]["kv"], uint64_t{30} << 30);
  EXPECT_GT(deep["decode_tok_s"], 0);
  EXPECT_LT(deep["decode_tok_s"], whole["decode_tok_s"]);
  const uint64_t floor = whole["floor_bytes"], resident = whole["all_resident_bytes"];
  EXPECT_LT(floor, resident);
  const std::string budget = " --memory-budget " + std::to_string((floor + resident) / 2);
  const Json half = json_of(run_as(program, "plan --json" + budget + bundled));
  EXPECT_EQ(half["streams"], true);
  EXPECT_GT(half["hit_rate"], 0.2);
  EXPECT_LT(half["hit_rate"], 0.9);
  EXPECT_GT(half["limit_tok_s"], 0);
  EXPECT_GE(half["help"].size(), 2u);
  // The same with every expert in one piece.
  const std::string packed = cache + "/packed";
  ASSERT_EQ(run("pack -m " MLXF_SOURCE_DIR "/models/classics-moe-4bit -o " + packed).code, 0);
  const Json in_one = json_of(run_as(program, "plan --json -t 1 -m " + packed + budget));
  EXPECT_EQ(in_one["streams"], true);
  EXPECT_GT(in_one["decode_tok_s"], 0);
  EXPECT_GT(in_one["hit_rate"], half["hit_rate"]) << "slots without room for the ends of nine reads";
  const std::string small = std::to_string(floor / 2);
  const Outcome refused = run_as(program, "plan --memory-budget " + small + bundled);
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.output.find("at least"), std::string::npos) << refused.output;
  const Outcome text = run_as(program, "plan" + budget + bundled);
  for (const char* part : {"trunk", "slots", "The smallest budget that works", "tok/s", "What would help"})
    EXPECT_NE(text.output.find(part), std::string::npos) << text.output;
  const Json answer = json_of(run_as(program, "run --json -p 'It was' -n 8" + budget + bundled));
  EXPECT_GT(answer["plan_tok_s"], 0);
  EXPECT_NEAR(answer["plan_error"].get<double>(),
              answer["plan_tok_s"].get<double>() / answer["gen_tok_s"].get<double>() - 1, 1e-9);
  const Json rows = json_of(run_as(program, "bench --json -p 32 -n 8 -r 1" + budget + bundled));
  ASSERT_EQ(rows.size(), 2u);
  for (const Json& row : rows)
    EXPECT_NEAR(row["plan_error"].get<double>(),
                row["plan_tok_s"].get<double>() / row["tok_s"].get<double>() - 1, 1e-9);
  std::filesystem::remove_all(cache);
}

}  // namespace
}  // namespace mlxf
