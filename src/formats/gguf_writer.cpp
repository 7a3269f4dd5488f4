#include "formats/gguf_writer.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/checked.h"
#include "formats/gguf_header.h"
#include "formats/gguf_types.h"
#include "formats/name_index.h"
#include "formats/name_text.h"
#include "formats/tensor_stream.h"

namespace mlxf::formats {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;

template <typename T>
inline constexpr bool kIsVector = false;
template <typename T>
inline constexpr bool kIsVector<std::vector<T>> = true;

// The type code of a C++ type.
template <typename T>
constexpr GgufType type_of() {
  if constexpr (std::is_same_v<T, uint8_t>) return GgufType::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return GgufType::kI8;
  if constexpr (std::is_same_v<T, uint16_t>) return GgufType::kU16;
  if constexpr (std::is_same_v<T, int16_t>) return GgufType::kI16;
  if constexpr (std::is_same_v<T, uint32_t>) return GgufType::kU32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufType::kI32;
  if constexpr (std::is_same_v<T, uint64_t>) return GgufType::kU64;
  if constexpr (std::is_same_v<T, int64_t>) return GgufType::kI64;
  if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
  if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
  if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
  if constexpr (std::is_same_v<T, std::string>) return GgufType::kString;
  return GgufType::kArray;
}

class HeaderBuilder {
 public:
  template <typename T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    const auto* raw = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof value);
  }
  void put_string(std::string_view text) {
    put(uint64_t{text.size()});
    bytes_.insert(bytes_.end(), text.begin(), text.end());
  }
  void put_type(GgufType type) { put(static_cast<uint32_t>(type)); }

  template <typename T>
  void put_value(const T& value) {
    if constexpr (kIsVector<T>) {
      put_type(type_of<typename T::value_type>());
      put(uint64_t{value.size()});
      for (const auto& element : value) put_value(element);
    } else if constexpr (std::is_same_v<T, std::string>) {
      put_string(value);
    } else {
      put(value);
    }
  }

  void pad() { bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  [[nodiscard]] const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

tl::unexpected<Error> refuse(const std::string& what, const std::string& why) {
  return fail(ErrorCode::kInvalidArgument, what + ": " + why);
}

// What the reader would refuse of a value: null when it would take it.
template <typename T>
const char* value_fault(const T& value) {
  if constexpr (kIsVector<T>) {
    if (value.size() > kGgufArrayElementsMax) return "has too many elements";
    for (const auto& element : value) {
      if (const char* fault = value_fault(element)) return fault;
    }
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (value.size() > kGgufStringBytesMax) return "is too long";
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return "is not finite";
  }
  return nullptr;
}

Status check_pairs(const GgufPairs& pairs) {
  if (pairs.size() > kGgufKeysMax) return refuse("metadata", "has too many keys");
  for (const auto& [key, value] : pairs) {
    const std::string what = "metadata " + quoted_name(key);
    if (const char* fault = name_fault(key, kGgufKeyBytesMax)) return refuse(what, fault);
    if (const char* fault = std::visit([](const auto& v) { return value_fault(v); }, value))
      return refuse(what, fault);
    if (key == "general.alignment" &&
        (!std::holds_alternative<uint32_t>(value) || std::get<uint32_t>(value) != kAlignment))
      return refuse(what, "only the default of 32 is written");
  }
  NameIndex index;
  if (const auto twice =
          index.build(pairs.size(), [&](size_t i) { return std::string_view(pairs[i].first); }))
    return refuse("metadata " + quoted_name(pairs[twice->second].first), "occurs twice");
  return {};
}

Status check_specs(const std::vector<TensorSpec>& tensors) {
  if (tensors.size() > kGgufTensorsMax) return refuse("tensors", "there are too many");
  for (const TensorSpec& spec : tensors) {
    const std::string what = "tensor " + quoted_name(spec.name);
    if (const char* fault = name_fault(spec.name, kGgufNameBytesMax)) return refuse(what, fault);
    if (!gguf_code_of(spec.dtype))
      return refuse(what, "GGUF has no type " + std::string(traits(spec.dtype).name));
    if (spec.shape.empty() || spec.shape.size() > kGgufDimensionsMax)
      return refuse(what, std::to_string(spec.shape.size()) + " dimensions; there are 1 to 4");
    for (const uint64_t extent : spec.shape) {
      if (extent == 0) return refuse(what, "a dimension is 0");
    }
  }
  NameIndex index;
  if (const auto twice =
          index.build(tensors.size(), [&](size_t i) { return std::string_view(tensors[i].name); }))
    return refuse("tensor " + quoted_name(tensors[twice->second].name), "is declared twice");
  return {};
}

// Writes the tensor table to `header` and returns what is to come.
Result<std::vector<DeclaredTensor>> declare(const std::vector<TensorSpec>& tensors, HeaderBuilder& header) {
  std::vector<DeclaredTensor> declared;
  declared.reserve(tensors.size());
  uint64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    ASSIGN_OR_RETURN(const uint64_t bytes, tensor_bytes(spec));
    header.put_string(spec.name);
    header.put(static_cast<uint32_t>(spec.shape.size()));
    for (auto extent = spec.shape.rbegin(); extent != spec.shape.rend(); ++extent) header.put(*extent);
    header.put(*gguf_code_of(spec.dtype));
    header.put(offset);
    declared.push_back({spec.name, bytes});
    const auto end = checked_add(offset, bytes + kAlignment - 1);
    if (!end) return refuse("tensor " + quoted_name(spec.name), "the tensors' sizes overflow 64 bits");
    offset = *end / kAlignment * kAlignment;
  }
  return declared;
}

}  // namespace

struct GgufWriter::State {
  TensorStream stream;
};

GgufWriter::GgufWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufWriter::GgufWriter(GgufWriter&&) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&&) noexcept = default;
GgufWriter::~GgufWriter() = default;

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufPairs& metadata,
                                      std::vector<TensorSpec> tensors, Overwrite overwrite) {
  if (auto status = check_pairs(metadata); !status) return tl::unexpected<Error>(status.error().within(path));
  if (auto status = check_specs(tensors); !status) return tl::unexpected<Error>(status.error().within(path));
  HeaderBuilder header;
  for (const char c : {'G', 'G', 'U', 'F'}) header.put(c);
  header.put(kVersion);
  header.put(uint64_t{tensors.size()});
  header.put(uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    header.put_string(key);
    std::visit(
        [&](const auto& v) {
          header.put_type(type_of<std::decay_t<decltype(v)>>());
          header.put_value(v);
        },
        value);
  }
  auto declared = declare(tensors, header);
  if (!declared) return tl::unexpected<Error>(declared.error().within(path));
  header.pad();
  if (header.bytes().size() > kGgufHeaderBytesMax)
    return refuse(path, "the header is over the limit of 128 MiB");
  ASSIGN_OR_RETURN(TensorStream stream,
                   TensorStream::create(path, overwrite, header.bytes(), std::move(*declared), kAlignment));
  return GgufWriter(std::make_unique<State>(State{std::move(stream)}));
}

Status GgufWriter::append(std::string_view tensor, std::span<const uint8_t> bytes) {
  return state_->stream.append(tensor, bytes);
}

Status GgufWriter::append_hole(std::string_view tensor) { return state_->stream.append_hole(tensor); }

Status GgufWriter::finish() { return state_->stream.finish(); }

}  // namespace mlxf::formats
