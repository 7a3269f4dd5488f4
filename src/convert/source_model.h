// SourceModel: the matrices of a hub checkpoint as one expects them, read by rows as f32.
//
// Checkpoints store each expert's matrices one by one; here the experts of a layer are one stacked tensor
// under mlx-lm's name ("mlp.switch_mlp.gate_proj"), in expert order. Everything else keeps its name. Files
// are opened once and read positionally, so threads may read different rows at once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"
#include "platform/file.h"

namespace mlxf::convert {

struct SourceTensor {
  std::string name;                                // With ".weight" and so on; experts without their number.
  DType dtype = DType::kBF16;                      // The same for all parts.
  std::vector<uint64_t> shape;                     // Stacked experts: [experts, rows, cols]
  std::vector<const formats::TensorEntry*> parts;  // One, or one per expert.

  [[nodiscard]] uint64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  [[nodiscard]] uint64_t elements() const {
    uint64_t elements = 1;
    for (const uint64_t extent : shape) elements *= extent;
    return elements;
  }
  [[nodiscard]] uint64_t rows() const { return cols() == 0 ? 0 : elements() / cols(); }
};

class SourceModel {
 public:
  // `path`: a folder with 16- or 32-bit safetensors. GGUF files and models that are quantised already are
  // refused.
  [[nodiscard]] static Result<SourceModel> open(const std::string& path);

  [[nodiscard]] const formats::ModelManifest& manifest() const { return *manifest_; }
  [[nodiscard]] const Json& config() const { return manifest_->config; }
  [[nodiscard]] const std::vector<SourceTensor>& tensors() const { return tensors_; }
  [[nodiscard]] const SourceTensor* find(std::string_view name) const;
  // The folder that holds config.json and the tokenizer.
  [[nodiscard]] const std::string& folder() const { return folder_; }

  // Rows [row_begin, row_begin + out.size() / cols) of `tensor` (over all parts) as f32. Thread-safe.
  [[nodiscard]] Status read_rows(const SourceTensor& tensor, uint64_t row_begin, std::span<float> out) const;
  // Bytes of a tensor from `offset` on, as stored; parts follow each other. Thread-safe.
  [[nodiscard]] Status read_bytes(const SourceTensor& tensor, uint64_t offset, std::span<uint8_t> out) const;

 private:
  SourceModel() = default;
  [[nodiscard]] Status collect();

  std::unique_ptr<formats::ModelManifest> manifest_;  // Stays in place: tensors_ point into it.
  std::string folder_;
  std::vector<platform::File> files_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace mlxf::convert
