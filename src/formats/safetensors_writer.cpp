#include "formats/safetensors_writer.h"

#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/json.h"
#include "formats/name_index.h"
#include "formats/name_text.h"
#include "formats/safetensors_header.h"
#include "formats/tensor_stream.h"

namespace mlxf::formats {
namespace {

Status check_specs(const std::vector<TensorSpec>& tensors) {
  const auto refuse = [](const TensorSpec& spec, const std::string& why) {
    return fail(ErrorCode::kInvalidArgument, "tensor " + quoted_name(spec.name) + ": " + why);
  };
  if (tensors.size() > kSafetensorsTensorsMax) return fail(ErrorCode::kInvalidArgument, "too many tensors");
  for (const TensorSpec& spec : tensors) {
    if (const char* fault = name_fault(spec.name, kSafetensorsNameBytesMax))
      return refuse(spec, std::string("its name ") + fault);
    if (spec.name == "__metadata__") return refuse(spec, "the format reserves this name");
    if (!safetensors_name_of(spec.dtype))
      return refuse(spec, "safetensors has no type " + std::string(traits(spec.dtype).name));
    if (spec.shape.size() > kSafetensorsDimensionsMax) return refuse(spec, "has too many dimensions");
  }
  NameIndex index;
  if (const auto twice =
          index.build(tensors.size(), [&](size_t i) { return std::string_view(tensors[i].name); }))
    return refuse(tensors[twice->second], "is declared twice");
  return {};
}

}  // namespace

struct SafetensorsWriter::State {
  TensorStream stream;
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, std::vector<TensorSpec> tensors,
                                                    const std::map<std::string, std::string>& metadata,
                                                    Overwrite overwrite, uint64_t data_alignment) {
  if (auto status = check_specs(tensors); !status)
    return tl::unexpected<Error>(std::move(status).error().within(path));
  // Written member by member, because a Json object would sort tensors by name.
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + dump_json(Json(metadata));
  std::vector<DeclaredTensor> declared;
  declared.reserve(tensors.size());
  uint64_t end = 0;
  for (TensorSpec& spec : tensors) {
    auto bytes = tensor_bytes(spec);
    if (!bytes) return tl::unexpected<Error>(std::move(bytes).error().within(path));
    const auto sum = checked_add(end, *bytes);
    if (!sum) return fail(ErrorCode::kInvalidArgument, path + ": the tensors' sizes overflow 64 bits");
    if (header.size() > 1) header += ',';
    header += dump_json(Json(spec.name)) + ":{\"dtype\":\"" + std::string(*safetensors_name_of(spec.dtype)) +
              "\",\"shape\":" + dump_json(Json(spec.shape)) + ",\"data_offsets\":[" + std::to_string(end) +
              "," + std::to_string(*sum) + "]}";
    end = *sum;
    declared.push_back({std::move(spec.name), *bytes});
  }
  header += '}';
  const uint64_t before_data = sizeof(uint64_t) + header.size();
  header.append((data_alignment - before_data % data_alignment) % data_alignment, ' ');
  if (header.size() > kSafetensorsHeaderBytesMax)
    return fail(ErrorCode::kInvalidArgument, path + ": the header is over the format's limit of 100 MB");
  const uint64_t header_bytes = header.size();
  std::vector<uint8_t> bytes(sizeof header_bytes + header.size());
  std::memcpy(bytes.data(), &header_bytes, sizeof header_bytes);
  std::memcpy(bytes.data() + sizeof header_bytes, header.data(), header.size());
  ASSIGN_OR_RETURN(TensorStream stream, TensorStream::create(path, overwrite, bytes, std::move(declared), 1));
  return SafetensorsWriter(std::make_unique<State>(State{std::move(stream)}));
}

Status SafetensorsWriter::append(std::string_view tensor, std::span<const uint8_t> bytes) {
  return state_->stream.append(tensor, bytes);
}

Status SafetensorsWriter::finish() { return state_->stream.finish(); }

}  // namespace mlxf::formats
