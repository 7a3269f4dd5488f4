// Owners and error conversion for what bridge/ hands out. Internal to text/: no other module includes it.
//
// Handles free themselves; all but matchers are immutable, so one handle may serve any number of threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "mlxf_bridge.h"

namespace mlxf::text {

struct BridgeDeleter {
  void operator()(mlxf_tokenizer* handle) const { mlxf_tokenizer_destroy(handle); }
  void operator()(mlxf_template* handle) const { mlxf_template_destroy(handle); }
  void operator()(mlxf_grammars* handle) const { mlxf_grammars_destroy(handle); }
  void operator()(mlxf_grammar* handle) const { mlxf_grammar_destroy(handle); }
  void operator()(mlxf_matcher* handle) const { mlxf_matcher_destroy(handle); }
};

using TokenizerHandle = std::unique_ptr<mlxf_tokenizer, BridgeDeleter>;
using TemplateHandle = std::unique_ptr<mlxf_template, BridgeDeleter>;
using GrammarsHandle = std::unique_ptr<mlxf_grammars, BridgeDeleter>;
using GrammarHandle = std::unique_ptr<mlxf_grammar, BridgeDeleter>;
using MatcherHandle = std::unique_ptr<mlxf_matcher, BridgeDeleter>;

// Bytes that the bridge allocated.
class BridgeBytes {
 public:
  BridgeBytes() = default;
  explicit BridgeBytes(mlxf_bytes bytes) : bytes_(bytes) {}
  BridgeBytes(const BridgeBytes&) = delete;
  BridgeBytes& operator=(const BridgeBytes&) = delete;
  ~BridgeBytes() { mlxf_bytes_free(bytes_); }

  [[nodiscard]] mlxf_bytes* out() { return &bytes_; }
  [[nodiscard]] const uint8_t* data() const { return bytes_.data; }
  [[nodiscard]] size_t size() const { return bytes_.size; }
  [[nodiscard]] std::string text() const {
    return bytes_.size == 0 ? std::string()
                            : std::string(reinterpret_cast<const char*>(bytes_.data), bytes_.size);
  }

 private:
  mlxf_bytes bytes_{};
};

[[nodiscard]] inline const uint8_t* as_bytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

// The error that a bridge call reported by a code other than MLXF_BRIDGE_OK.
[[nodiscard]] Error bridge_error(int32_t code, const BridgeBytes& message);

}  // namespace mlxf::text
