#include "server/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::server {
namespace {

http::Request with(std::vector<http::Header> headers) {
  http::Request request;
  request.headers = std::move(headers);
  return request;
}

bool passes(const std::string& host, const std::string& origin, bool any_host = false) {
  AccessRules rules;
  rules.any_host = any_host;
  std::vector<http::Header> headers = {{"Host", host}};
  if (!origin.empty()) headers.push_back({"Origin", origin});
  return !check_origin(with(headers), rules);
}

TEST(Access, TakesLoopbackHostsAndTheirOwnPagesAlone) {
  for (const char* host :
       {"localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"})
    EXPECT_TRUE(passes(host, "")) << host;
  for (const char* host :
       {"evil.com", "127.0.0.1.evil.com", "localhost.evil.com:8080", "evil.com:127.0.0.1", "", "127.0.0",
        "127.0.0.1.1", "127...1", "127.0.0.0001", "0.0.0.0", "[::2]", "[::1"})
    EXPECT_FALSE(passes(host, "")) << host;
  EXPECT_TRUE(passes("localhost:8080", "http://localhost:8080"));
  EXPECT_TRUE(passes("gpu.lan", "https://gpu.lan", true));
  for (const char* origin :
       {"http://evil.com", "http://127.0.0.1.evil.com", "http://localhost:9999", "null", "file://",
        "chrome-extension://abc", "http://localhost:8080.evil.com", "localhost:8080"}) {
    EXPECT_FALSE(passes("localhost:8080", origin)) << origin;
    EXPECT_FALSE(passes("gpu.lan", origin, true)) << origin;
  }
}

TEST(Access, TakesPagesOfOriginsThatAreNamed) {
  AccessRules rules;
  for (const char* text : {"http://localhost:3000", "HTTPS://Chat.Example", "tauri://localhost", "null"}) {
    const auto origin = read_origin(text);
    ASSERT_TRUE(origin) << text;
    rules.origins.push_back(*origin);
  }
  const auto page = [&](const std::string& origin) {
    return with({{"Host", "localhost:8080"}, {"Origin", origin}});
  };
  for (const char* origin : {"http://localhost:3000", "https://chat.example", "tauri://localhost", "null"}) {
    EXPECT_FALSE(check_origin(page(origin), rules)) << origin;
    std::vector<http::Header> headers;
    add_cors_headers(page(origin), rules, headers);
    ASSERT_EQ(headers.size(), 3U) << origin;
    EXPECT_EQ(headers[1].value, origin);
  }
  for (const char* origin :
       {"http://localhost:3001", "http://chat.example", "https://chat.example.evil.com", ""}) {
    EXPECT_TRUE(check_origin(page(origin), rules)) << origin;
    std::vector<http::Header> headers;
    add_cors_headers(page(origin), rules, headers);
    EXPECT_EQ(headers.size(), 1U) << origin;
  }
  EXPECT_TRUE(check_origin(with({{"Host", "evil.com"}, {"Origin", "http://localhost:3000"}}), rules))
      << "an allowed page does not make a foreign Host right";
  std::vector<http::Header> none;
  add_cors_headers(page("http://localhost:3000"), AccessRules{}, none);
  EXPECT_TRUE(none.empty());
}

TEST(Access, RefusesWhatIsNoOrigin) {
  for (const char* text : {"", "localhost:3000", "http://", "://x", "http://a/", "http://a/b", "http://*.a",
                           "http://a b", "http://user@a", "http://a\r\nX: y"})
    EXPECT_FALSE(read_origin(text)) << text;
  for (const char* every : {"*", "null"}) {
    AccessRules rules;
    rules.origins = {"http://localhost:3000", every};
    EXPECT_FALSE(check_rules(rules)) << "every page, without a key: " << every;
    rules.keys = {"first-key"};
    EXPECT_TRUE(check_rules(rules));
  }
  EXPECT_EQ(*read_origin("http://A.b:80"), "http://a.b");
  EXPECT_EQ(*read_origin("https://a.b:443"), "https://a.b");
  EXPECT_EQ(*read_origin("http://a.b:443"), "http://a.b:443");
}

TEST(Access, AnswersABrowserThatAsksBefore) {
  AccessRules rules;
  rules.origins = {"http://a.b"};
  http::Request request = with({{"Host", "localhost"},
                                {"Origin", "http://a.b"},
                                {"Access-Control-Request-Method", "POST"},
                                {"Access-Control-Request-Headers", "authorization,x-stainless-os"}});
  request.method = "OPTIONS";
  EXPECT_TRUE(is_preflight(request, rules));
  EXPECT_FALSE(is_preflight(request, AccessRules{}));
  const http::Response response = preflight_response(request, "POST");
  EXPECT_EQ(response.status, 204);
  ASSERT_GE(response.headers.size(), 2U);
  EXPECT_EQ(response.headers[0].value, "POST");
  EXPECT_EQ(response.headers[1].value, "authorization,x-stainless-os");
  request.method = "POST";
  EXPECT_FALSE(is_preflight(request, rules));
}

TEST(Access, WantsOneRightKey) {
  AccessRules rules;
  std::string user = "left over";
  EXPECT_FALSE(check_key(with({}), rules, user)) << "none is set";
  EXPECT_EQ(user, "");
  rules.keys = {"first-key", "second-key"};
  const auto given = [&](const std::vector<http::Header>& headers) {
    return !check_key(with(headers), rules, user);
  };
  EXPECT_FALSE(given({}));
  EXPECT_TRUE(given({{"Authorization", "Bearer second-key"}}));
  EXPECT_EQ(user, "key 2");
  EXPECT_TRUE(given({{"authorization", "bearer first-key"}}));
  EXPECT_EQ(user, "key 1");
  EXPECT_TRUE(given({{"X-Api-Key", "first-key"}}));
  EXPECT_TRUE(given({{"X-Api-Key", "first-key"}, {"Authorization", "Bearer first-key"}}));
  EXPECT_FALSE(given({{"X-Api-Key", "first-key"}, {"Authorization", "Bearer second-key"}}));
  for (const std::string wrong : {"", "first-ke", "first-keyy", "First-key", "first-keyfirst-key"})
    EXPECT_FALSE(given({{"X-Api-Key", wrong}})) << wrong;
  EXPECT_FALSE(given({{"Authorization", "Basic first-key"}}));
  EXPECT_FALSE(given({{"Authorization", "first-key"}}));
  const auto error = check_key(with({{"X-Api-Key", "secret-of-somebody"}}), rules, user);
  EXPECT_THAT(error->message, testing::Not(testing::HasSubstr("secret")));
}

TEST(Access, WithoutKeysOnlyThisMachineAdministrates) {
  http::Request request;
  AccessRules rules;
  for (const char* peer : {"127.0.0.1", "127.8.9.1", "::1"}) {
    request.peer = peer;
    EXPECT_FALSE(check_admin(request, rules)) << peer;
  }
  for (const char* peer : {"", "10.0.0.1", "192.168.1.9", "fe80::1", "127.0.0.1.evil.com"}) {
    request.peer = peer;
    EXPECT_EQ(check_admin(request, rules)->kind, api::ErrorKind::kForbidden) << peer;
  }
  request.peer = "127.0.0.1";
  request.headers.push_back({"Origin", "http://localhost:3000"});
  rules.origins = {"http://localhost:3000"};
  EXPECT_TRUE(check_admin(request, rules)) << "a page may ask for answers, not end the server";
  rules.keys = {"first-key"};
  EXPECT_FALSE(check_admin(request, rules)) << "check_key() sees to it";
}

TEST(Access, ReadsKeysFromAFile) {
  EXPECT_EQ(*parse_keys("# ours\n  first-key \r\n\nsecond-key"),
            (std::vector<std::string>{"first-key", "second-key"}));
  EXPECT_FALSE(parse_keys("two words-in-it"));
  EXPECT_FALSE(parse_keys("short"));
}

}  // namespace
}  // namespace mlxf::server
