// The program as its users see it: exit codes, one line per error, files written.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/json.h"
#include "cli/run_program.h"
#include "formats/safetensors_reader.h"

namespace mlxf {
namespace {

Outcome run(const std::string& arguments) { return run_as(MLXF_PROGRAM, arguments); }

std::string oracle(const std::string& name) {
  return std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/" + name;
}
TEST(Program, WrongUsageIsOneLineAndExitCodeTwo) {
  for (const char* arguments : {"", "dance", "logits", "bench -m x --threads 0", "logits -m x --ids a -o y",
                                "bench -m x --activations int3", "synth --shape moon -o /tmp/never"}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << ": " << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
  }
}

TEST(Program, WrongUsageNamesWhatIsWrongAndWhereHelpIs) {
  const struct {
    const char *arguments, *what, *help;
  } cases[] = {
      {"run -p x --tokns 3", "there is no option --tokns", "mlx-flash run --help"},
      {"run -p x more", "'more' was not expected", "mlx-flash run --help"},
      {"--prot 8080", "there is no option --prot", "mlx-flash serve --help"},
      {"serve --port 99999", "--port: Value 99999 not in range 0 to 65535", "mlx-flash serve --help"},
      {"logits -m x --ids 1,x,3 -o y", "mlx-flash: --ids: 'x' is no token id", "mlx-flash logits --help"},
      {"logits -m x --ids 1,-2 -o y", "mlx-flash: --ids: '-2' is no token id", "mlx-flash logits --help"},
      {"ps --port x", "--port: Value x not in range 1 to 65535", "mlx-flash ps --help"},
      {"trace replay", "required", "mlx-flash trace replay --help"},
      {"frobnicate -x", "there is no command frobnicate", "mlx-flash --help"},
  };
  for (const auto& [arguments, what, help] : cases) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_NE(outcome.output.find(what), std::string::npos) << arguments << ": " << outcome.output;
    EXPECT_NE(outcome.output.find(std::string("; see ") + help + "\n"), std::string::npos) << outcome.output;
  }
}

TEST(Program, AFileOfOptionsIsNamedWithWhatIsWrongInIt) {
  const std::string file = temporary("options.toml");
  const std::pair<const char*, const char*> cases[] = {
      {"[serve]\nprot = 8080\n", ": there is no option prot under [serve]"},
      {"[trace.replay]\nmore = 1\n", ": there is no option more under [trace.replay]"},
      {"[nosuch]\nport = 8080\n", ": [nosuch] is no command"},
      {"port = 8080\n", ": port is neither [COMMAND] nor an option under one"},
      {"[serve\nport = 8080\n", "is neither [COMMAND] nor an option"},
  };
  for (const auto& [text, what] : cases) {
    std::ofstream(file) << text;
    for (const std::string& how : {"ps --config " + file, "--config=" + file + " ps"}) {
      const Outcome outcome = run(how);
      EXPECT_EQ(outcome.code, 2) << text;
      EXPECT_EQ(outcome.output.find("mlx-flash: " + file + ": "), 0u) << outcome.output;
      EXPECT_NE(outcome.output.find(what), std::string::npos) << outcome.output;
    }
    EXPECT_EQ(run_as("MLX_FLASH_CONFIG=" + file + " " MLXF_PROGRAM, "ps").output.find("mlx-flash: " + file),
              0u);
  }
  std::filesystem::remove(file);
}

TEST(Program, HelpAndVersionSucceed) {
  EXPECT_EQ(run("--version").code, 0);
  const Outcome help = run("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"run",     "serve",  "mcp",   "chat",     "bench", "perplexity", "tokenize",
                              "inspect", "logits", "synth", "quantize", "pack",  "doctor",     "plan",
                              "trace",   "pull",   "list",  "rm",       "ps",    "stop",       "browse"})
    EXPECT_NE(help.output.find(command), std::string::npos);
}

TEST(Program, AMissingModelIsNamed) {
  const Outcome outcome = run("bench -m /nowhere/model.gguf");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.output.find("/nowhere/model.gguf"), std::string::npos);
}

TEST(Program, ATraceIsRecordedAndReplayed) {
  const std::string trace = temporary("trace.safetensors"), plot = temporary("plot.svg");
  const std::string bundled = MLXF_SOURCE_DIR "/models/classics-moe-4bit";
  const std::string record =
      "trace record -m " + bundled + " -p 'It was the best of times' -n 20 -c 4 -o " + trace;
  const Outcome recorded = run(record);
  ASSERT_EQ(recorded.code, 0) << recorded.output;
  EXPECT_NE(recorded.output.find("8 layers, 4 experts each"), std::string::npos) << recorded.output;
  EXPECT_NE(run(record).code, 0) << "an existing trace was replaced";
  EXPECT_EQ(run(record + " --force").code, 0);
  const Outcome replayed = run("trace replay " + trace + " --cache 25%,384,8MiB --json --svg " + plot);
  ASSERT_EQ(replayed.code, 0) << replayed.output;
  const auto json = parse_json(replayed.output);
  ASSERT_TRUE(json);
  const Json& caches = *find_member(*json, "caches");
  ASSERT_EQ(caches.size(), 3u);
  EXPECT_EQ(caches[0]["slots"], 96);
  EXPECT_NEAR(caches[2]["slots"].get<double>(), 8.0 * 1024 * 1024 / (caches[1]["bytes"].get<double>() / 384),
              0.51);
  for (const char* policy : {"lfu", "lru", "slru", "lcp", "least-stale"})
    for (const Json& cache : caches)
      EXPECT_LE(cache["hit_rate"][policy], cache["hit_rate"]["belady"]) << policy;
  std::ostringstream svg;
  svg << std::ifstream(plot).rdbuf();
  EXPECT_EQ(svg.str().rfind("<svg ", 0), 0u);
  EXPECT_NE(svg.str().find("least-stale</text>"), std::string::npos);
  for (const char* wrong : {"--cache 385", "--cache 0%", "--cache many", "--policies fifo"})
    EXPECT_EQ(run("trace replay " + trace + " " + wrong).code, 2) << wrong;
  const Outcome table = run("trace replay " + trace + " --cache 25% --policies lru");
  EXPECT_NE(table.output.find("belady"), std::string::npos) << table.output;
  std::filesystem::remove(trace);
  std::filesystem::remove(plot);
}

TEST(Program, WhatIsNoTraceIsRefusedInOneLine) {
  const std::string classics = MLXF_SOURCE_DIR "/tests/data/classics/routing.safetensors";
  std::ostringstream whole;
  whole << std::ifstream(classics, std::ios::binary).rdbuf();
  const std::string bytes = whole.str();
  ASSERT_GT(bytes.size(), 100'000u);
  const std::string bad = temporary("bad.safetensors");
  const auto expect_refused = [](const std::string& arguments, const std::string& part) {
    const Outcome outcome = run(arguments);
    EXPECT_TRUE(outcome.code == 1 || outcome.code == 2) << arguments << ": " << outcome.code;
    EXPECT_NE(outcome.output.find(part), std::string::npos) << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
  };
  const std::string bundled = " -m " MLXF_SOURCE_DIR "/models/classics-moe-4bit";
  for (const std::string& content : {std::string(), std::string("{"), std::string(5000, 'x'),
                                     bytes.substr(0, 50), bytes.substr(0, bytes.size() - 1)}) {
    std::ofstream(bad, std::ios::binary) << content;
    expect_refused("trace replay " + bad, bad);
    expect_refused(std::string("plan --trace ").append(bad).append(bundled), bad);
  }
  std::filesystem::remove(bad);
  expect_refused("trace replay /nowhere/trace.safetensors", "/nowhere/trace.safetensors");
  expect_refused("trace replay " MLXF_SOURCE_DIR "/tests/data", "/tests/data");
  expect_refused("plan --trace /nowhere/trace.safetensors" + bundled, "/nowhere/trace.safetensors");
  for (const char* other : {"mixtral", "qwen3"})
    expect_refused("plan --trace " + classics + " -m " + oracle(other), "trace of another model");
  expect_refused("plan -m /nowhere/model.gguf", "/nowhere/model.gguf");
  expect_refused("trace record -m " + oracle("qwen3") + " -p x -o " + temporary("never"),
                 "no routed experts");
  expect_refused("trace record" + bundled + " -f /nowhere/text -o " + temporary("never"), "/nowhere/text");
  expect_refused("trace record" + bundled + " -p x -o /nowhere/trace.safetensors", "/nowhere/trace");
  expect_refused("trace record" + bundled + " -p '' -o " + temporary("never"), "text is empty");
}

TEST(Program, LogitsMatchTheOracleAndAreNotOverwritten) {
  const std::string out = temporary("logits.safetensors");
  const auto bytes = formats::read_safetensors_tensor(oracle("qwen3") + "/oracle.safetensors", "input_ids");
  ASSERT_TRUE(bytes);
  std::string ids;
  for (size_t i = 0; i < bytes->size(); i += 4) ids += (i == 0 ? "" : ",") + std::to_string((*bytes)[i]);
  const std::string arguments = "logits -m " + oracle("qwen3") + " --ids " + ids +
                                " --activations f32 --rope-frequencies bf16 --hidden -o " + out;
  ASSERT_EQ(run(arguments).code, 0);
  const auto got = formats::load_tensor_f32(out, "logits");
  const auto hidden = formats::load_tensor_f32(out, "hidden");
  const auto expected = formats::load_tensor_f32(oracle("qwen3") + "/oracle.safetensors", "logits");
  ASSERT_TRUE(got && expected && hidden);
  EXPECT_EQ(got->shape, expected->shape);
  EXPECT_EQ(hidden->shape, (std::vector<uint64_t>{5, 72, 64}));
  for (size_t i = 0; i < got->values.size(); ++i) ASSERT_NEAR(got->values[i], expected->values[i], 2e-4);
  EXPECT_NE(run(arguments).code, 0);  // The file exists.
  EXPECT_EQ(run(arguments + " --overwrite").code, 0);
  std::filesystem::remove(out);
}

TEST(Program, TokensOutsideTheVocabularyAreRefusedAndNothingIsWritten) {
  const std::string out = temporary("none.safetensors");
  const Outcome outcome = run("logits -m " + oracle("llama") + " --ids 1,256 -o " + out);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.output.find("256"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(Program, BenchReportsBothTests) {
  const Outcome outcome = run("bench -m " + oracle("mixtral") + " -p 32 -n 4 -r 2 --depth 70 --json");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("\"pp32@70\""), std::string::npos);
  EXPECT_NE(outcome.output.find("\"bytes_per_token\""), std::string::npos);
  const auto rows = parse_json(outcome.output);
  ASSERT_TRUE(rows) << rows.error().message;
  ASSERT_EQ(rows->size(), 2u);
  for (const Json& row : *rows) {
    const double limit = find_number(row, "limit_tok_s").value_or(0);
    EXPECT_GT(limit, 0);
    EXPECT_NEAR(find_number(row, "limit_share").value_or(-1), find_number(row, "tok_s").value_or(0) / limit,
                1e-9);
    EXPECT_NE(find_string(row, "limit_bound").value_or(""), "");
  }
}

TEST(Program, BenchDecodesSeveralStreamsSideBySide) {
  const Outcome outcome = run("bench -m " + oracle("mixtral") + " -p 0 -n 6 -r 2 --streams 1,3 --json");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  const auto rows = parse_json(outcome.output);
  ASSERT_TRUE(rows) << rows.error().message;
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ(find_string((*rows)[0], "test").value_or(""), "tg6");
  const Json& three = (*rows)[1];
  EXPECT_EQ(find_string(three, "test").value_or(""), "tg6x3");
  EXPECT_EQ(find_number(three, "streams").value_or(0), 3);
  // Two of eight experts a token: three tokens read two to six.
  EXPECT_GT(find_number(three, "expert_union").value_or(0), 1);
  EXPECT_LE(find_number(three, "expert_union").value_or(0), 3);
  EXPECT_GT(find_number(three, "limit_tok_s").value_or(0), 0);
  EXPECT_EQ(run("bench -m " + oracle("mixtral") + " --streams 0").code, 2);
}

TEST(Program, DoctorMeasuresAndKeepsTheProfile) {
  const std::string cache = temporary("doctor");
  const std::string environment = "env XDG_CACHE_HOME=" + cache + " ";
  const auto doctor = [&](const std::string& arguments) {
    Outcome outcome;
    outcome.code =
        std::system((environment + MLXF_PROGRAM " doctor > " + cache + ".out " + arguments).c_str());
    std::ifstream file(cache + ".out");
    outcome.output.assign(std::istreambuf_iterator<char>(file), {});
    return outcome;
  };
  const Outcome first = doctor("--quick --json 2> /dev/null");
  ASSERT_EQ(first.code, 0) << first.output;
  const auto report = parse_json(first.output);
  ASSERT_TRUE(report) << report.error().message;
  for (const char* name : {"machine", "memory", "huge_pages", "ram_read_bytes_s", "peaks", "ssd", "warnings"})
    EXPECT_NE(find_member(*report, name), nullptr) << name;
  const Json* ram = find_member(*report, "ram_read_bytes_s");
  ASSERT_NE(ram, nullptr);
  EXPECT_GT(find_number(*ram, "all").value_or(0), 1e8);
  EXPECT_EQ(find_bool(*report, "stored"), true);
  EXPECT_EQ(find_string(*report, "profile"), cache + "/mlx-flash/profile.json");
  // The profile is all that is left in the folder.
  const std::filesystem::directory_iterator left(cache + "/mlx-flash");
  EXPECT_EQ(std::distance(begin(left), end(left)), 1);
  const Outcome refused = doctor("--quick --file /nowhere/model.gguf 2>&1");
  EXPECT_NE(refused.code, 0);
  EXPECT_NE(refused.output.find("/nowhere/model.gguf"), std::string::npos);
  std::filesystem::remove_all(cache);
  std::filesystem::remove(cache + ".out");
}

TEST(Program, InspectCountsBytes) {
  const Outcome outcome = run("inspect " + oracle("llama"));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.output.find("architecture llama"), std::string::npos);
}

std::string bundled() { return std::string(MLXF_SOURCE_DIR) + "/models/classics-moe-4bit"; }

// stdout alone, parsed.
Json json_of(const std::string& arguments) {
  const auto parsed = parse_json(run(arguments + " 2>/dev/null").output);
  EXPECT_TRUE(parsed) << arguments;
  return parsed ? *parsed : Json();
}

// The bundled model with a chat template beside it.
class ChatModel {
 public:
  ChatModel() : folder_(temporary("chat-model")) {
    std::filesystem::create_directories(folder_);
    for (const auto& entry : std::filesystem::directory_iterator(bundled()))
      std::filesystem::create_symlink(entry.path(), folder_ / entry.path().filename());
    std::ofstream(folder_ / "chat_template.jinja")
        << "{% for m in messages %}{% if m.content == 'fail' %}{{ raise_exception('no such thing') }}{% "
           "endif %}"
           "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
  }
  ~ChatModel() { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path() const { return folder_.string(); }

 private:
  std::filesystem::path folder_;
};

TEST(Run, AnswersWithTheFieldsOfItsContract) {
  const std::string arguments = "generate -p 'The old man' -n 12 --seed 3 --json -m " + bundled();
  const Json first = json_of(arguments);
  EXPECT_EQ(first["generated_tokens"], 12);
  EXPECT_EQ(first["tokens"].size(), 12u);
  EXPECT_EQ(first["prompt_tokens"], 3);
  EXPECT_EQ(first["finish_reason"], "length");
  EXPECT_EQ(first["seed"], 3);
  for (const char* field : {"prompt_tok_s", "gen_tok_s", "peak_anon_bytes"})
    EXPECT_GT(first[field].get<double>(), 0.0) << field;
  EXPECT_EQ(json_of(arguments + " -t 1")["tokens"], first["tokens"]);
  const std::string text = run("run -p 'The old man' -n 12 --seed 3 -m " + bundled() + " 2>/dev/null").output;
  EXPECT_EQ(text, first["text"].get<std::string>() + "\n");
}

TEST(Run, TakesThePromptFromAFileAndStops) {
  const std::string file = temporary("prompt.txt");
  std::ofstream(file) << "The old man walked along the shore and";
  const Json whole = json_of("run -f " + file + " -n 20 --temp 0 --json -m " + bundled());
  const std::string text = whole["text"].get<std::string>();
  const std::string stop = text.substr(text.size() / 2, 4);
  const Json cut =
      json_of("run -f " + file + " -n 20 --temp 0 --json -m " + bundled() + " --stop '" + stop + "'");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_EQ(cut["stop_string"], stop);
  std::filesystem::remove(file);
}

TEST(Run, AnswersFitASchemaAnExpressionOrAGrammar) {
  const std::string arguments = "run -p The --seed 3 --json -m " + bundled();
  const std::string number = json_of(arguments + " --regex '[0-9]{3}, (yes|no)'")["text"].get<std::string>();
  EXPECT_EQ(number.substr(0, 3).find_first_not_of("0123456789"), std::string::npos) << number;
  EXPECT_TRUE(number.substr(3) == ", yes" || number.substr(3) == ", no") << number;
  const std::string schema =
      " --json-schema '{\"type\": \"object\", \"properties\": {\"b\": {\"enum\": [1, 2]}}, "
      "\"required\": [\"b\"], \"additionalProperties\": false}'";
  const Json made = json_of(arguments + schema);
  EXPECT_EQ(made["finish_reason"], "stop");
  const Json value = parse_json(made["text"].get<std::string>()).value();
  EXPECT_TRUE(value["b"] == 1 || value["b"] == 2) << made["text"];
  const std::string file = temporary("grammar.lark");
  std::ofstream(file) << "start: \"one\" | \"two\"\n";
  const std::string word = json_of(arguments + " --grammar " + file)["text"].get<std::string>();
  EXPECT_TRUE(word == "one" || word == "two") << word;
  std::ofstream(file) << "# numbers\nroot ::= digits \" or \" digits\ndigits ::= [0-9]{2,3}\n";
  const std::string digits = json_of(arguments + " --grammar " + file)["text"].get<std::string>();
  EXPECT_NE(digits.find(" or "), std::string::npos) << digits;
  EXPECT_EQ(digits.find_first_not_of("0123456789 or"), std::string::npos) << digits;
  std::ofstream(file) << "root ::= \"a\" | b\n";
  const Outcome undefined = run(arguments + " --grammar " + file);
  EXPECT_NE(undefined.code, 0);
  EXPECT_NE(undefined.output.find("line 1, column 16: rule \"b\" is not defined"), std::string::npos)
      << undefined.output;
  std::filesystem::remove(file);
  const Outcome wrong = run(arguments + " --json-schema '{\"type\": \"strin\"}'");
  EXPECT_NE(wrong.code, 0);
  EXPECT_NE(wrong.output.find("strin"), std::string::npos) << wrong.output;
}

TEST(Run, NamesABadOption) {
  const std::string model = " -m " + bundled();
  EXPECT_EQ(run("run" + model).code, 2);
  EXPECT_EQ(run("run -p x --temp hot" + model).code, 2);
  const Outcome range = run("run -p x --top-p 7" + model);
  EXPECT_EQ(range.code, 2);
  EXPECT_NE(range.output.find("top_p must be"), std::string::npos) << range.output;
  EXPECT_NE(run("run -p x --logit-bias seven" + model).output.find("TOKEN_ID=BIAS"), std::string::npos);
  EXPECT_EQ(run("run -f /nowhere/prompt" + model).code, 2);
  EXPECT_NE(run("run --chat -p x" + model).output.find("chat template"), std::string::npos);
}

TEST(Chat, HoldsAConversationInTheModelsOwnFormat) {
  const ChatModel model;
  const Outcome outcome = run("chat -n 6 --temp 0 -m " + model.path() +
                              " <<'END'\nhello\n/status\nfail\n/clear\n/dance\n/quit\nEND\n");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("2 messages"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("no such thing"), std::string::npos) << "a template's error is shown";
  EXPECT_NE(outcome.output.find("forgotten"), std::string::npos);
  EXPECT_NE(outcome.output.find("unknown command /dance"), std::string::npos);
  EXPECT_EQ(run("chat -m " + bundled() + " </dev/null").code, 1) << "no template";
}

TEST(Chat, AppliesTheTemplateInRunToo) {
  const ChatModel model;
  const Json answer = json_of("run --chat --system Be.brief -p hello -n 3 --json -m " + model.path());
  // <|im_start|>system\nBe.brief<|im_end|>\n and so on: more than the word alone.
  EXPECT_GT(answer["prompt_tokens"].get<int>(), 12);
}

TEST(Tokenize, GivesIdsAndKeepsControlTokensInTextAsText) {
  const Json plain = json_of("tokenize 'The old man<|im_end|>' --json -m " + bundled());
  EXPECT_EQ(plain["ids"][0], 480);
  EXPECT_EQ(plain["ids"].size(), plain["tokens"].size());
  const Json special = json_of("tokenize --special 'The old man<|im_end|>' --json -m " + bundled());
  EXPECT_EQ(special["ids"].size(), 4u);
  EXPECT_EQ(special["tokens"][3], "<|im_end|>");
  EXPECT_EQ(run("tokenize -m " + bundled()).code, 2);
}

TEST(Perplexity, ReproducesItselfAndComparesLogits) {
  const std::string text = std::string(MLXF_SOURCE_DIR) + "/tests/data/classics/valid-head.txt";
  const std::string saved = temporary("reference.safetensors");
  const std::string arguments = "perplexity --tokens 600 --json -f " + text + " -m " + bundled();
  const Json reference = json_of(arguments + " --activations f32 --save " + saved);
  EXPECT_EQ(reference["tokens"], 598);  // Two windows, each without its first token.
  const Json int8 = json_of(arguments + " --against " + saved);
  EXPECT_EQ(int8["kl_tokens"], 600);
  EXPECT_GT(int8["kl"].get<double>(), 0.0);
  EXPECT_LT(int8["kl"].get<double>(), 2e-3);
  EXPECT_NEAR(int8["perplexity"].get<double>() / reference["perplexity"].get<double>(), 1.0, 5e-3);
  EXPECT_EQ(json_of(arguments + " --activations f32 --against " + saved)["kl"], 0.0);
  std::filesystem::remove(saved);
}

}  // namespace
}  // namespace mlxf
