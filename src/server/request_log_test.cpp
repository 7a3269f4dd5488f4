#include "server/request_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "platform/file.h"

namespace mlxf::server {
namespace {

constexpr int64_t kNow = 1'764'000'000'042;  // 2025-11-24T16:00:00.042Z

http::Request request_of(const std::string& path) {
  http::Request request;
  request.method = "POST";
  request.path = path;
  request.query = "api_key=secret";
  request.headers = {{"Authorization", "Bearer secret"}};
  request.body = "secret";
  request.peer = "127.0.0.1";
  return request;
}

http::Outcome outcome_of(int status) {
  http::Outcome outcome;
  outcome.status = status;
  outcome.complete = true;
  outcome.bytes = 77;
  outcome.took = std::chrono::microseconds(12'340);
  outcome.headers = {{"X-Request-Id", "1a2b"}};
  outcome.notes = {{"generated_tokens", 2}};
  return outcome;
}

TEST(RequestLog, SaysWhatHappened) {
  EXPECT_EQ(
      log_text(request_of("/v1/completions"), outcome_of(200), kNow),
      "2025-11-24T16:00:00.042Z info 1a2b 127.0.0.1 POST /v1/completions 200 12.3 ms generated_tokens=2");
  const Json entry = log_entry(request_of("/v1/completions"), outcome_of(503), kNow);
  EXPECT_EQ(find_string(entry, "level"), "error");
  EXPECT_EQ(find_string(entry, "request_id"), "1a2b");
  EXPECT_EQ(find_int(entry, "status"), 503);
  EXPECT_EQ(find_int(entry, "generated_tokens"), 2);
  EXPECT_EQ(find_number(entry, "duration_ms"), 12.34);
  http::Outcome left = outcome_of(200);
  left.complete = false;
  EXPECT_EQ(find_string(log_entry(request_of("/"), left, kNow), "level"), "warning");
}

TEST(RequestLog, CannotBeForgedAndHoldsNoSecrets) {
  const http::Request request = request_of("/x\r\n2025-11-24T16:00:00.000Z info fake\x1b[2J\x7f");
  const std::string line = log_text(request, outcome_of(404), kNow);
  EXPECT_THAT(line, testing::HasSubstr("/x\\x0d\\x0a2025"));
  EXPECT_THAT(line, testing::HasSubstr("\\x20info\\x20fake"));
  for (const char c : line) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  // NEL, CSI and LINE SEPARATOR, which some readers of logs take for ends of lines, and terminals for commands.
  for (const char c : log_text(request_of("/\xc2\x85\xc2\x9b\xe2\x80\xa8"), outcome_of(404), kNow))
    EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  const std::string json = dump_json(log_entry(request, outcome_of(404), kNow));
  EXPECT_EQ(json.find('\n'), std::string::npos);
  EXPECT_EQ((line + json).find("secret"), std::string::npos);
  EXPECT_LT(log_text(request_of("/" + std::string(8000, 'a')), outcome_of(200), kNow).size(), 700U);
}

TEST(RequestLog, KeepsTheNewestHundred) {
  const auto log = RequestLog::open({});
  ASSERT_TRUE(log) << log.error().message;
  for (int i = 0; i < 130; ++i) (*log)->add(request_of("/" + std::to_string(i)), outcome_of(200), kNow);
  const Json recent = (*log)->recent();
  ASSERT_EQ(recent.size(), 100U);
  EXPECT_EQ(find_string(recent.front(), "path"), "/129");
  EXPECT_EQ(find_string(recent.back(), "path"), "/30");
}

TEST(RequestLog, AppendsLinesToAFile) {
  const std::string path = testing::TempDir() + "request_log_test.log";
  std::filesystem::remove(path);
  for (int run = 0; run < 2; ++run) {
    const auto log = RequestLog::open({false, path, LogFormat::kJson});
    ASSERT_TRUE(log) << log.error().message;
    (*log)->add(request_of("/a"), outcome_of(200), kNow);
  }
  const auto text = platform::read_whole_file(path, 1 << 20);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 2);
  EXPECT_TRUE(parse_json(text->substr(0, text->find('\n'))));
  EXPECT_FALSE(RequestLog::open({false, "/nowhere/at/all.log", LogFormat::kText}));
}

}  // namespace
}  // namespace mlxf::server
