// Checksums of files as they arrive: SHA-256, or the name that git gives a blob. OpenSSL computes them.
//
// Move-only; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace mlxf::hub {

class Digest {
 public:
  [[nodiscard]] static Digest sha256();
  // SHA-1 over "blob SIZE", a NUL byte and the contents: for small files, whose repository names them so.
  [[nodiscard]] static Digest git_blob(uint64_t bytes);

  void add(std::span<const uint8_t> bytes);
  // In hexadecimal. Nothing may be added after it.
  [[nodiscard]] std::string finish();

 private:
  struct State;
  struct Free {
    void operator()(State* state) const;
  };
  explicit Digest(State* state) : state_(state) {}
  std::unique_ptr<State, Free> state_;
};

}  // namespace mlxf::hub
