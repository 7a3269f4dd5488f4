#include "formats/safetensors_reader.h"

#include <cstring>
#include <utility>

#include "formats/byte_source.h"
#include "formats/name_text.h"
#include "formats/safetensors_header.h"
#include "platform/file.h"
#include "tensor/float16.h"

namespace mlxf::formats {
namespace {

struct LoadedTensor {
  TensorEntry entry;
  std::vector<uint8_t> bytes;
};

Result<LoadedTensor> load_tensor(const std::string& path, std::string_view name) {
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path));
  ASSIGN_OR_RETURN(auto tensors, parse_safetensors_header(FileSource(file)));
  for (TensorEntry& tensor : tensors) {
    if (tensor.name != name) continue;
    LoadedTensor loaded{std::move(tensor), {}};
    loaded.bytes.resize(loaded.entry.bytes);
    RETURN_IF_ERROR(file.read_exact(loaded.entry.offset, loaded.bytes));
    return loaded;
  }
  return fail(ErrorCode::kNotFound, path + ": holds no tensor " + quoted_name(name));
}

template <typename T>
T element(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// The function that widens one stored element, or null for types that f32 cannot hold exactly.
using Widen = float (*)(const uint8_t*);
Widen widen_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return [](const uint8_t* at) { return element<float>(at); };
    case DType::kF16:
      return [](const uint8_t* at) { return f32_from_f16(element<uint16_t>(at)); };
    case DType::kBF16:
      return [](const uint8_t* at) { return f32_from_bf16(element<uint16_t>(at)); };
    case DType::kF8E4M3:
      return [](const uint8_t* at) { return f32_from_f8e4m3(*at); };
    case DType::kF8E5M2:
      return [](const uint8_t* at) { return f32_from_f8e5m2(*at); };
    case DType::kI16:
      return [](const uint8_t* at) { return static_cast<float>(element<int16_t>(at)); };
    case DType::kU16:
      return [](const uint8_t* at) { return static_cast<float>(element<uint16_t>(at)); };
    case DType::kI8:
      return [](const uint8_t* at) { return static_cast<float>(element<int8_t>(at)); };
    case DType::kU8:
    case DType::kBool:
      return [](const uint8_t* at) { return static_cast<float>(*at); };
    default:
      return nullptr;
  }
}

}  // namespace

Result<std::vector<TensorEntry>> read_safetensors_header(const std::string& path) {
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path));
  return parse_safetensors_header(FileSource(file));
}

Result<std::vector<uint8_t>> read_safetensors_tensor(const std::string& path, std::string_view name) {
  ASSIGN_OR_RETURN(LoadedTensor loaded, load_tensor(path, name));
  return std::move(loaded.bytes);
}

Result<FloatTensor> load_tensor_f32(const std::string& path, std::string_view name) {
  ASSIGN_OR_RETURN(const LoadedTensor loaded, load_tensor(path, name));
  const Widen widen = widen_of(loaded.entry.dtype);
  if (widen == nullptr)
    return fail(ErrorCode::kUnsupported, path + ": tensor " + quoted_name(name) + " of type " +
                                             std::string(traits(loaded.entry.dtype).name) +
                                             " cannot be widened to f32 exactly");
  const uint32_t element_bytes = traits(loaded.entry.dtype).block_bytes;
  FloatTensor tensor{loaded.entry.shape, std::vector<float>(loaded.bytes.size() / element_bytes)};
  for (size_t i = 0; i < tensor.values.size(); ++i)
    tensor.values[i] = widen(&loaded.bytes[i * element_bytes]);
  return tensor;
}

}  // namespace mlxf::formats
