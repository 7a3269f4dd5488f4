#include "hub/repository.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>

#include "hub/digest.h"
#include "hub/http_client.h"

namespace mlxf::hub {
namespace {

Repository repository_of(const std::vector<std::string>& names) {
  Repository repository;
  repository.files.reserve(names.size());
  for (const std::string& name : names) repository.files.push_back({name, 10, std::string(64, 'a'), ""});
  return repository;
}

std::vector<std::string> names_of(const Selection& selection) {
  std::vector<std::string> names;
  names.reserve(selection.files.size());
  for (const RemoteFile& file : selection.files) names.push_back(file.path);
  return names;
}

TEST(SelectFiles, SafetensorsWithWhatBelongsToThem) {
  const auto selection =
      select_files(repository_of({"README.md", "config.json", "consolidated.safetensors",
                                  "model-00001-of-00001.safetensors", "model.safetensors.index.json",
                                  "original/model.safetensors", "run.py", "tokenizer.model"}),
                   "");
  ASSERT_TRUE(selection);
  EXPECT_EQ(names_of(*selection),
            (std::vector<std::string>{"model-00001-of-00001.safetensors", "config.json",
                                      "model.safetensors.index.json", "tokenizer.model"}));
  EXPECT_EQ(selection->bytes(), 40u);
}

TEST(SelectFiles, OfGgufTheUsualOneAndNeverAnIncompleteOne) {
  const auto selection =
      select_files(repository_of({"x-Q8_0.gguf", "x-Q4_K_M-00001-of-00002.gguf", "x-Q2_K.gguf"}), "");
  ASSERT_TRUE(selection);
  EXPECT_EQ(selection->variant, "Q8_0");
  EXPECT_EQ(selection->choices, std::vector<std::string>{"Q2_K"});
  const auto twice = select_files(repository_of({"a-Q4_0.gguf", "b-Q4_0.gguf"}), "Q4_0");
  ASSERT_FALSE(twice);
  EXPECT_NE(twice.error().message.find("a-Q4_0, b-Q4_0"), std::string::npos);
  EXPECT_EQ(names_of(*select_files(repository_of({"a-Q4_0.gguf", "b-Q4_0.gguf"}), "b-Q4_0")),
            std::vector<std::string>{"b-Q4_0.gguf"});
  EXPECT_FALSE(select_files(repository_of({"model.safetensors", "config.json"}), "Q4_0"));
  EXPECT_FALSE(select_files(repository_of({"pytorch_model.bin", "config.json"}), ""));
}

TEST(ParseRepository, RefusesTextThatIsNoDescription) {
  for (const char* text : {"", "{", "[]", "{}", R"({"sha": "main", "siblings": []})", R"({"siblings": []})"})
    EXPECT_FALSE(parse_repository(text)) << text;
  EXPECT_TRUE(parse_repository("{\"sha\": \"" + std::string(40, 'a') + "\", \"siblings\": []}"));
}

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// FIPS 180-2's example, and what `git hash-object` says of "hello\n".
TEST(Digests, AreThoseOfTheStandards) {
  Digest sha = Digest::sha256();
  sha.add(bytes_of("a"));
  sha.add(bytes_of("bc"));
  EXPECT_EQ(sha.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Digest git = Digest::git_blob(6);
  git.add(bytes_of("hello\n"));
  EXPECT_EQ(git.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
}

bool is_private(const char* text) {
  sockaddr_storage storage{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    storage.ss_family = AF_INET;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &v6->sin6_addr), 1) << text;
    storage.ss_family = AF_INET6;
  }
  return is_private_address(reinterpret_cast<const sockaddr&>(storage));
}

TEST(PrivateAddresses, AreKnownInBothFamilies) {
  for (const char* text : {"127.0.0.1", "0.0.0.0", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.31.0.1",
                           "192.168.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fc00::1", "fd12::1",
                           "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"})
    EXPECT_TRUE(is_private(text)) << text;
  for (const char* text :
       {"8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1", "2606:4700::1", "::ffff:8.8.8.8"})
    EXPECT_FALSE(is_private(text)) << text;
}

}  // namespace
}  // namespace mlxf::hub
