#include "hub/digest.h"

#include <openssl/evp.h>

#include <array>

#include "base/check.h"

namespace mlxf::hub {

struct Digest::State {
  explicit State(const EVP_MD* kind) : context(EVP_MD_CTX_new()) {
    CHECK(context != nullptr && EVP_DigestInit_ex(context, kind, nullptr) == 1);
  }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  EVP_MD_CTX* context;
};

void Digest::Free::operator()(State* state) const { delete state; }

Digest Digest::sha256() { return Digest(new State(EVP_sha256())); }

Digest Digest::git_blob(uint64_t bytes) {
  Digest digest(new State(EVP_sha1()));
  const std::string head = "blob " + std::to_string(bytes);
  // With the NUL byte that ends it.
  digest.add({reinterpret_cast<const uint8_t*>(head.c_str()), head.size() + 1});
  return digest;
}

void Digest::add(std::span<const uint8_t> bytes) {
  CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Digest::finish() {
  std::array<uint8_t, EVP_MAX_MD_SIZE> sum{};
  unsigned length = 0;
  CHECK(EVP_DigestFinal_ex(state_->context, sum.data(), &length) == 1);
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(size_t{length} * 2);
  for (unsigned i = 0; i < length; ++i) {
    text += kDigits[sum[i] >> 4];
    text += kDigits[sum[i] & 15];
  }
  return text;
}

}  // namespace mlxf::hub
