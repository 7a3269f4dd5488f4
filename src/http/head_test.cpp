#include "http/head.h"

#include <gtest/gtest.h>

namespace mlxf::http {
namespace {

const HeadLimits kLimits;

std::optional<Refusal> parse(const std::string& bytes, Head& head) {
  size_t length = 0;
  if (auto refusal = find_head_end(bytes, kLimits, length)) return refusal;
  if (length == 0) return Refusal{0, "not all of it is there"};
  return parse_head(std::string_view(bytes).substr(0, length), kLimits, head);
}

int status_of(const std::string& bytes) {
  Head head;
  const auto refusal = parse(bytes, head);
  return refusal ? refusal->status : 200;
}

TEST(Head, ReadsARequest) {
  Head head;
  ASSERT_FALSE(
      parse("POST /v1/models/a%20b%2Fc?x=%41&y HTTP/1.1\r\nHost: localhost:80\r\nX-Y:  a b \t\r\nx-y: 2\r\n"
            "Content-Length: 12\r\nExpect: 100-continue\r\n\r\nbody",
            head));
  EXPECT_EQ(head.request.method, "POST");
  EXPECT_EQ(head.request.path, "/v1/models/a b/c");
  EXPECT_EQ(head.request.query, "x=%41&y");
  ASSERT_NE(head.request.find_header("x-Y"), nullptr);
  EXPECT_EQ(*head.request.find_header("x-Y"), "a b");
  EXPECT_EQ(head.request.find_header("absent"), nullptr);
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_TRUE(head.expects_continue);
  EXPECT_TRUE(head.keep_alive);
  EXPECT_FALSE(head.chunked);
  ASSERT_FALSE(parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", head));
  EXPECT_FALSE(head.keep_alive);
  ASSERT_FALSE(parse("GET / HTTP/1.0\r\nHost: a\r\n\r\n", head));
  EXPECT_FALSE(head.keep_alive);
  ASSERT_FALSE(parse("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", head));
  EXPECT_TRUE(head.chunked);
  ASSERT_FALSE(parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", head));
}

// Each could be read in another way by somebody else.
TEST(Head, RefusesWhatIsAmbiguous) {
  const std::string get = "GET / HTTP/1.1\r\n", host = "Host: a\r\n", post = "POST / HTTP/1.1\r\nHost: a\r\n";
  const std::pair<std::string, int> cases[] = {
      {"GET  HTTP/1.1\r\n" + host + "\r\n", 400},           // no target
      {get + "\r\n", 400},                                  // no Host
      {get + host + host + "\r\n", 400},                    // two
      {get + "Host: a/b\r\n\r\n", 400},                     // not a host
      {get + "Host: a@b\r\n\r\n", 400},                     //
      {get + "Host : a\r\n\r\n", 400},                      // a blank before the colon
      {get + host + "A: b\r\n c\r\n\r\n", 400},             // a folded line
      {get + host + "A: b\nC: d\r\n\r\n", 400},             // bare LF
      {get + host + "A: b\rC: d\r\n\r\n", 400},             // bare CR
      {get + host + std::string("A: \0\r\n\r\n", 8), 400},  // NUL
      {get + host + "A: \x7f\r\n\r\n", 400},                // a control
      {get + host + "A b\r\n\r\n", 400},                    // no colon
      {get + host + ": b\r\n\r\n", 400},                    // no name
      {get + host + "A(: b\r\n\r\n", 400},                  // not a token
      {"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},   // for a proxy
      {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},           //
      {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},          // two blanks
      {"GET /\r\nHost: a\r\n\r\n", 400},                    // HTTP/0.9
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},           //
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},            // its preface
      {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},           //
      {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},          //
      {"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},   // raw bytes in the target
      {"GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400},          // broken escapes
      {"GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},         //
      {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},        //
      {"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},        //
      {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},           //
      {"\x16\x03\x01\x02", 400},                            // TLS
      {post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
      {post + "Content-Length: +5\r\n\r\n", 400},
      {post + "Content-Length: 0x5\r\n\r\n", 400},
      {post + "Content-Length: 5,5\r\n\r\n", 400},
      {post + "Content-Length: -1\r\n\r\n", 400},
      {post + "Content-Length: \r\n\r\n", 400},
      {post + "Content-Length: 99999999999999999999\r\n\r\n", 400},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: chunked, gzip\r\n\r\n", 400},
      {post + "Transfer-Encoding: xchunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Transfer-Encoding: \r\n\r\n", 400},
      {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {post + "Content-Encoding: gzip\r\n\r\n", 415},
      {post + "Expect: 200-ok\r\n\r\n", 417},
  };
  for (const auto& [bytes, status] : cases) EXPECT_EQ(status_of(bytes), status) << bytes;
}

TEST(Head, IsBounded) {
  EXPECT_EQ(status_of("GET /" + std::string(9000, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
  EXPECT_EQ(status_of("GET /" + std::string(40000, 'a')), 414);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nA: " + std::string(40000, 'a')), 431);
  std::string many = "GET / HTTP/1.1\r\nHost: a\r\n";
  for (int i = 0; i < 100; ++i) many += "A: b\r\n";
  EXPECT_EQ(status_of(many + "\r\n"), 431);
  EXPECT_EQ(status_of(std::string(100, 'A')), 400) << "no method is that long";
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: a\r\n"), 0) << "goes on";
}

TEST(ChunkedDecoder, PutsPiecesTogether) {
  const std::string bytes = "4;name=value\r\nWiki\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /next";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    ChunkedDecoder decoder(100);
    std::string body;
    size_t at = 0;
    ChunkedDecoder::State state = ChunkedDecoder::State::kMore;
    while (state == ChunkedDecoder::State::kMore && at < bytes.size()) {
      std::string_view piece = std::string_view(bytes).substr(at, step);
      const size_t before = piece.size();
      state = decoder.push(piece, body);
      at += before - piece.size();
    }
    EXPECT_EQ(state, ChunkedDecoder::State::kDone);
    EXPECT_EQ(body, "Wiki0123456789");
    EXPECT_EQ(bytes.substr(at), "GET /next");
  }
}

TEST(ChunkedDecoder, RefusesWhatIsNone) {
  using State = ChunkedDecoder::State;
  const std::pair<std::string, State> cases[] = {
      {"Z\r\n", State::kBad},
      {"\r\n", State::kBad},
      {"-1\r\n", State::kBad},
      {"0x5\r\n", State::kBad},
      {" 5\r\n", State::kBad},
      {"11111111111111111\r\n", State::kBad},
      {"4\nWiki\r\n", State::kBad},
      {"4\r\nWikiXX", State::kBad},
      {"4\r\nWiki\n0\r\n\r\n", State::kBad},
      {"0\r\nno colon\r\n\r\n", State::kBad},
      {"1;" + std::string(300, 'a') + "\r\n", State::kBad},
      {"65\r\n", State::kTooLarge},
      {"FFFFFFFFFFFFFFF\r\n", State::kTooLarge},
      {"64\r\n", State::kMore},
  };
  for (const auto& [bytes, expected] : cases) {
    ChunkedDecoder decoder(100);
    std::string body;
    std::string_view rest(bytes);
    EXPECT_EQ(decoder.push(rest, body), expected) << bytes;
  }
}

}  // namespace
}  // namespace mlxf::http
