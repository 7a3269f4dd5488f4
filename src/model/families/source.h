// Source: a checkpoint's configuration in one vocabulary, whatever container it came from.
//
// GGUF metadata is translated to the names of Hugging Face's config.json, so that a family reads its options once;
// where tensors are called differently, layer() and global() take both names. Errors name the field.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"
#include "model/spec.h"

namespace mlxf::model {

// NOLINTNEXTLINE(bugprone-exception-escape): what moving a Json could throw is its own assertions.
struct Source {
  const formats::ModelManifest* manifest = nullptr;
  bool gguf = false;
  Json config;         // The language model's configuration.
  std::string type;    // Its model_type: "llama", "qwen3_moe" …
  std::string prefix;  // Of safetensors names: "model.", "language_model.model." …

  // A tensor's name without ".weight": of layer `index`, or of the whole model.
  [[nodiscard]] std::string layer(uint32_t index, const std::string& hf_name,
                                  const std::string& gguf_name) const;
  [[nodiscard]] std::string global(const std::string& hf_name, const std::string& gguf_name) const;
  [[nodiscard]] bool has(const std::string& name) const;  // "name.weight" or "name" is in the files.

  // A positive integer field, within 1 … limit. Without a default its absence is an error.
  [[nodiscard]] Result<uint32_t> count(const std::string& field, int64_t fallback = 0,
                                       int64_t limit = 1 << 24) const;
  [[nodiscard]] float number(const std::string& field, double fallback) const;
  [[nodiscard]] bool flag(const std::string& field, bool fallback) const;
};

[[nodiscard]] Result<Source> make_source(const formats::ModelManifest& manifest);

// The GGUF key, behind "<architecture>.", that is read as `field` of config.json. REQUIRES: there is one.
[[nodiscard]] std::string_view gguf_key(std::string_view field);

// YaRN's factor for attention over a context stretched by `factor` (arXiv 2309.00071, section 3.4).
[[nodiscard]] double yarn_scale(double factor, double mscale);

// The rope of `params` (rope_parameters of transformers 5, rope_scaling of 4, or null) over heads of `head_dim`.
[[nodiscard]] Result<RopeSpec> parse_rope(const Source& source, const Json* params, uint32_t head_dim,
                                          double base);

}  // namespace mlxf::model
