#include "weights/stored_matrix.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/checked.h"

namespace mlxf::weights {
namespace {

using formats::ModelManifest;
using formats::TensorEntry;

struct Quantisation {
  uint32_t bits = 4;
  uint32_t group = 64;
  std::string mode = "affine";
};

std::optional<WeightFormat> plain_format(DType type) {
  switch (type) {
    case DType::kF32:
      return WeightFormat::kF32;
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kBF16:
      return WeightFormat::kBF16;
    case DType::kF8E4M3:
      return WeightFormat::kF8E4M3;
    case DType::kQ4_0:
      return WeightFormat::kQ4_0;
    case DType::kQ4_1:
      return WeightFormat::kQ4_1;
    case DType::kQ5_0:
      return WeightFormat::kQ5_0;
    case DType::kQ5_1:
      return WeightFormat::kQ5_1;
    case DType::kQ8_0:
      return WeightFormat::kQ8_0;
    case DType::kQ2_K:
      return WeightFormat::kQ2_K;
    case DType::kQ3_K:
      return WeightFormat::kQ3_K;
    case DType::kQ4_K:
      return WeightFormat::kQ4_K;
    case DType::kQ5_K:
      return WeightFormat::kQ5_K;
    case DType::kQ6_K:
      return WeightFormat::kQ6_K;
    case DType::kIQ4_NL:
      return WeightFormat::kIQ4_NL;
    case DType::kIQ4_XS:
      return WeightFormat::kIQ4_XS;
    case DType::kMXFP4:
      return WeightFormat::kMXFP4;
    default:
      return std::nullopt;
  }
}

// The settings of `name` in config.json's "quantization": the global ones, or an entry under the module's own
// name.
Quantisation find_quantisation(const Json& config, const std::string& name) {
  Quantisation settings;
  const auto apply = [&settings](const Json& source) {
    if (const auto bits = find_int(source, "bits")) settings.bits = static_cast<uint32_t>(*bits);
    if (const auto group = find_int(source, "group_size")) settings.group = static_cast<uint32_t>(*group);
    settings.mode = find_string(source, "mode").value_or("affine");  // Of an entry of its own too.
  };
  const Json* global = find_member(config, "quantization");
  if (global == nullptr) global = find_member(config, "quantization_config");
  if (global == nullptr) return settings;
  apply(*global);
  if (const Json* own = find_member(*global, name)) apply(*own);
  return settings;
}

std::string shape_text(const TensorEntry& tensor) {
  std::string text = "[";
  for (const uint64_t dimension : tensor.shape)
    text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  return text + "]";
}

// All dimensions but the innermost as rows. Fails beyond 2^31 rows or columns, far above any real matrix.
Status set_shape(const TensorEntry& tensor, uint64_t cols, StoredMatrix& matrix) {
  uint64_t rows = 1;
  for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
    const auto product = checked_mul(rows, tensor.shape[i]);
    rows = product.value_or(UINT64_MAX);
  }
  if (tensor.shape.empty() || rows == 0 || cols == 0 || rows > INT32_MAX || cols > INT32_MAX)
    return fail(ErrorCode::kCorrupt,
                "tensor " + tensor.name + " of shape " + shape_text(tensor) + " is not a matrix");
  matrix.layout.rows = static_cast<uint32_t>(rows);
  matrix.layout.cols = static_cast<uint32_t>(cols);
  return {};
}

Result<StoredMatrix> plain_matrix(const ModelManifest& manifest, const TensorEntry& tensor,
                                  const std::string& name) {
  const auto format = plain_format(tensor.dtype);
  if (!format)
    return fail(ErrorCode::kUnsupported, "tensor " + tensor.name + " has type " +
                                             std::string(traits(tensor.dtype).name) +
                                             ", which cannot be used as a weight matrix");
  StoredMatrix matrix;
  matrix.data = &tensor;
  matrix.layout.format = *format;
  RETURN_IF_ERROR(set_shape(tensor, tensor.shape.empty() ? 0 : tensor.shape.back(), matrix));
  const auto bytes = row_bytes(tensor.dtype, matrix.layout.cols);
  if (!bytes)
    return fail(ErrorCode::kCorrupt,
                "tensor " + tensor.name + " has rows of " + std::to_string(matrix.layout.cols) +
                    " elements, not whole blocks of " + std::to_string(traits(tensor.dtype).block_elements));
  matrix.layout.row_bytes = *bytes;
  if (tensor.dtype == DType::kF8E4M3) {
    matrix.scales = manifest.find(name + ".weight_scale_inv");
    if (matrix.scales != nullptr) {
      const uint64_t columns = (matrix.layout.cols + 127) / 128;
      if (matrix.scales->dtype != DType::kF32 || matrix.scales->shape.size() != 2 ||
          matrix.scales->shape[1] != columns || matrix.scales->shape[0] != (matrix.layout.rows + 127) / 128)
        return fail(ErrorCode::kCorrupt, "tensor " + matrix.scales->name +
                                             " must be f32 with one value per 128x128 block of " +
                                             tensor.name + ", but has shape " + shape_text(*matrix.scales));
      matrix.layout.scale_row_bytes = columns * sizeof(float);
    }
  }
  return matrix;
}

Result<StoredMatrix> mlx_matrix(const ModelManifest& manifest, const TensorEntry& tensor,
                                const TensorEntry& scales, const std::string& name) {
  const Quantisation settings = find_quantisation(manifest.config, name);
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorCode::kCorrupt, "tensor " + tensor.name + " of shape " + shape_text(tensor) +
                                         " with scales " + shape_text(scales) + ": " + why);
  };
  StoredMatrix matrix;
  matrix.data = &tensor;
  matrix.scales = &scales;
  if (settings.mode != "affine" && settings.mode != "mxfp4")
    return fail(ErrorCode::kUnsupported, "quantisation mode \"" + settings.mode + "\" of " + name +
                                             " is not supported; supported are affine and mxfp4");
  const bool affine = settings.mode == "affine";
  if (affine && (settings.bits < 2 || settings.bits > 8 || settings.bits == 7))
    return fail(ErrorCode::kUnsupported, std::to_string(settings.bits) + "-bit quantisation of " + name +
                                             " is not supported; supported are 2, 3, 4, 5, 6 and 8 bits");
  if (settings.group != 32 && (!affine || (settings.group != 64 && settings.group != 128)))
    return fail(ErrorCode::kUnsupported, "quantisation group size " + std::to_string(settings.group) +
                                             " of " + name +
                                             " is not supported; supported are 32, 64 and 128 (mxfp4: 32)");
  const uint64_t bits = affine ? settings.bits : 4;
  if (tensor.shape.size() < 2 || scales.shape.size() != tensor.shape.size()) return refuse("ranks differ");
  for (size_t i = 0; i + 1 < tensor.shape.size(); ++i)
    if (tensor.shape[i] != scales.shape[i]) return refuse("row counts differ");
  const auto cols = checked_mul(scales.shape.back(), settings.group);
  if (!cols || *cols > INT32_MAX || *cols * bits != tensor.shape.back() * 32)
    return refuse("they contradict " + std::to_string(bits) + " bits in groups of " +
                  std::to_string(settings.group));
  RETURN_IF_ERROR(set_shape(tensor, *cols, matrix));
  matrix.layout.format = affine ? WeightFormat::kMlxAffine : WeightFormat::kMlxMxfp4;
  matrix.layout.bits = static_cast<uint8_t>(bits);
  matrix.layout.group = static_cast<uint16_t>(settings.group);
  matrix.layout.row_bytes = tensor.shape.back() * 4;
  matrix.layout.scale_type = scales.dtype;
  matrix.layout.scale_row_bytes = scales.shape.back() * traits(scales.dtype).block_bytes;
  if (!affine) {
    if (scales.dtype != DType::kU8) return refuse("mxfp4 scales must be u8");
    return matrix;
  }
  if (scales.dtype != DType::kF16 && scales.dtype != DType::kBF16 && scales.dtype != DType::kF32)
    return refuse("scales must be f16, bf16 or f32");
  matrix.biases = manifest.find(name + ".biases");
  if (matrix.biases == nullptr) return refuse("tensor " + name + ".biases is missing");
  if (matrix.biases->shape != scales.shape || matrix.biases->dtype != scales.dtype)
    return refuse("biases differ from scales in shape or type");
  return matrix;
}

// mxfp4 as gpt-oss ships it: 16 bytes of nibbles in the order of the elements and one E8M0 scale for each 32. Over the
// bytes that is what MLX writes.
Result<StoredMatrix> mxfp4_matrix(const TensorEntry& blocks, const TensorEntry* scales) {
  if (scales == nullptr)
    return fail(ErrorCode::kCorrupt, "tensor " + blocks.name + " has no tensor of scales beside it");
  const auto& shape = blocks.shape;
  if (blocks.dtype != DType::kU8 || scales->dtype != DType::kU8 || shape.size() < 3 || shape.back() != 16 ||
      !std::equal(shape.begin(), shape.end() - 1, scales->shape.begin(), scales->shape.end()))
    return fail(ErrorCode::kCorrupt, "tensor " + blocks.name + " of shape " + shape_text(blocks) +
                                         " with scales " + shape_text(*scales) +
                                         " is not mxfp4: u8, 16 bytes for each scale");
  StoredMatrix matrix;
  matrix.data = &blocks;
  matrix.scales = scales;
  // Within bounds: the tensor has 16 bytes for each group.
  TensorEntry rows = blocks;
  rows.shape.pop_back();
  const uint64_t groups = rows.shape.back();
  RETURN_IF_ERROR(set_shape(rows, groups * 32, matrix));
  matrix.layout.format = WeightFormat::kMlxMxfp4;
  matrix.layout.bits = 4;
  matrix.layout.group = 32;
  matrix.layout.row_bytes = groups * 16;
  matrix.layout.scale_type = DType::kU8;
  matrix.layout.scale_row_bytes = groups;
  return matrix;
}

}  // namespace

Result<MatrixView> transposed_layout(const StoredMatrix& stored) {
  const auto& shape = stored.data->shape;
  MatrixView view = stored.layout;
  if (shape.size() < 2 || (view.format != WeightFormat::kF32 && view.format != WeightFormat::kF16 &&
                           view.format != WeightFormat::kBF16))
    return fail(ErrorCode::kUnsupported,
                "tensor " + stored.data->name + " must be f32, f16 or bf16 to be transposed");
  const uint64_t cols = shape[shape.size() - 2];
  const uint64_t slices = view.rows / cols;
  if (cols > INT32_MAX || slices * view.cols > INT32_MAX)
    return fail(ErrorCode::kCorrupt,
                "tensor " + stored.data->name + " of shape " + shape_text(*stored.data) + " is not a matrix");
  const uint64_t element_bytes = view.row_bytes / view.cols;
  view.rows = static_cast<uint32_t>(slices * view.cols);
  view.cols = static_cast<uint32_t>(cols);
  view.row_bytes = cols * element_bytes;
  return view;
}

uint64_t StoredMatrix::bytes() const {
  uint64_t total = 0;
  for (const TensorEntry* part : {data, scales, biases})
    if (part != nullptr) total += part->bytes;
  return total;
}

Result<StoredMatrix> find_matrix(const ModelManifest& manifest, const std::string& name) {
  const TensorEntry* tensor = manifest.find(name + ".weight");
  if (tensor == nullptr) tensor = manifest.find(name);
  if (tensor == nullptr)
    if (const TensorEntry* blocks = manifest.find(name + "_blocks"))
      return mxfp4_matrix(*blocks, manifest.find(name + "_scales"));
  if (tensor == nullptr)
    return fail(ErrorCode::kNotFound,
                manifest.path + " has no tensor " + name + ".weight, which this architecture needs");
  if (tensor->dtype == DType::kU32) {
    const TensorEntry* scales = manifest.find(name + ".scales");
    if (scales == nullptr)
      return fail(ErrorCode::kCorrupt,
                  "tensor " + tensor->name + " is packed (u32) but " + name + ".scales is missing");
    return mlx_matrix(manifest, *tensor, *scales, name);
  }
  return plain_matrix(manifest, *tensor, name);
}

}  // namespace mlxf::weights
