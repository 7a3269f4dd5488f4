// The tensors of a tiny checkpoint in memory, to be renamed, reshaped and written again in another layout.
//
// For tests alone, one thread. Failures are test failures.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "formats/safetensors_header.h"
#include "formats/safetensors_reader.h"
#include "formats/tensor_spec.h"

namespace mlxf::testing_model {

struct Tensor {
  std::vector<uint64_t> shape;
  std::vector<uint8_t> bytes;
  DType dtype = DType::kBF16;
};
using Tensors = std::map<std::string, Tensor>;

inline Tensors read_oracle(const std::string& folder) {
  Tensors tensors;
  const std::string file = folder + "/model.safetensors";
  const auto header = formats::read_safetensors_header(file);
  EXPECT_TRUE(header);
  for (const formats::TensorEntry& entry : *header) {
    EXPECT_EQ(entry.dtype, DType::kBF16);
    tensors[entry.name] = {entry.shape, *formats::read_safetensors_tensor(file, entry.name)};
  }
  return tensors;
}

// The matrices of a layer's experts as one, [experts, rows, cols].
inline Tensor stack(const Tensors& tensors, const std::string& prefix, const std::string& matrix) {
  Tensor stacked;
  for (uint64_t e = 0;; ++e) {
    const auto expert = tensors.find(prefix + "experts." + std::to_string(e) + "." + matrix + ".weight");
    if (expert == tensors.end()) return stacked;
    stacked.shape = {e + 1, expert->second.shape[0], expert->second.shape[1]};
    stacked.bytes.insert(stacked.bytes.end(), expert->second.bytes.begin(), expert->second.bytes.end());
  }
}

template <typename Writer>
void write_all(Result<Writer> writer, const std::vector<formats::TensorSpec>& specs, const Tensors& tensors) {
  ASSERT_TRUE(writer) << writer.error().message;
  for (const formats::TensorSpec& spec : specs)
    ASSERT_TRUE(writer->append(spec.name, tensors.at(spec.name).bytes));
  ASSERT_TRUE(writer->finish());
}

inline std::vector<formats::TensorSpec> specs_of(const Tensors& tensors) {
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  return specs;
}

}  // namespace mlxf::testing_model
