#include "weights/routing_trace.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "formats/safetensors_reader.h"

namespace mlxf::weights {
namespace {

constexpr uint64_t kIdsMax = uint64_t{1} << 30;
constexpr uint32_t kExpertsMax = 1 << 16;

template <typename T>
std::span<const uint8_t> bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// The values of an integer tensor of the given type; empty when the file has none of that name.
template <typename T>
Result<std::vector<T>> integers(const std::string& path, const std::vector<formats::TensorEntry>& tensors,
                                const char* name, DType type, size_t dimensions) {
  std::vector<T> values;
  for (const formats::TensorEntry& tensor : tensors) {
    if (tensor.name != name) continue;
    if (tensor.dtype != type || tensor.shape.size() != dimensions)
      return fail(ErrorCode::kCorrupt, path + ": tensor " + name + " must be " +
                                           std::string(traits(type).name) + " of " +
                                           std::to_string(dimensions) + " dimensions");
    if (tensor.bytes / sizeof(T) > kIdsMax)
      return fail(ErrorCode::kUnsupported, path + ": tensor " + name + " is too long for a routing trace");
    ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, formats::read_safetensors_tensor(path, name));
    values.resize(bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  }
  return values;
}

// Sorts each choice and checks its ids; fills in the experts where the file does not say.
Status check_ids(RoutingTrace& trace, bool counts_experts) {
  TraceShape& shape = trace.shape;
  for (uint64_t token = 0; token < trace.tokens; ++token)
    for (uint32_t layer = 0; layer < shape.layers(); ++layer) {
      int32_t* begin = trace.ids.data() + (token * shape.layers() + layer) * shape.top_k;
      std::sort(begin, begin + shape.top_k);
      const auto where = [&] {
        return "token " + std::to_string(token) + ", layer " + std::to_string(layer);
      };
      if (std::adjacent_find(begin, begin + shape.top_k) != begin + shape.top_k)
        return fail(ErrorCode::kCorrupt, where() + ": the same expert twice");
      const int32_t last = begin[shape.top_k - 1];
      if (begin[0] < 0 || last >= static_cast<int32_t>(counts_experts ? kExpertsMax : shape.experts[layer]))
        return fail(ErrorCode::kCorrupt, where() + ": expert " +
                                             std::to_string(begin[0] < 0 ? begin[0] : last) +
                                             ", but there are " + std::to_string(shape.experts[layer]));
      if (counts_experts)
        shape.experts[layer] = std::max(shape.experts[layer], static_cast<uint32_t>(last) + 1);
    }
  return {};
}

}  // namespace

Result<RoutingTrace> load_trace(const std::string& path) {
  ASSIGN_OR_RETURN(const auto tensors, formats::read_safetensors_header(path));
  const auto routing = std::find_if(tensors.begin(), tensors.end(),
                                    [](const formats::TensorEntry& t) { return t.name == "routing"; });
  if (routing == tensors.end())
    return fail(ErrorCode::kCorrupt, path + ": holds no tensor routing; is it a routing trace?");
  RoutingTrace trace;
  ASSIGN_OR_RETURN(trace.ids, integers<int32_t>(path, tensors, "routing", DType::kI32, 3));
  const std::vector<uint64_t>& dims = routing->shape;
  if (trace.ids.empty() || dims[1] > 4096 || dims[2] > 4096)
    return fail(ErrorCode::kCorrupt, path + ": tensor routing must be [tokens, layers, top_k]");
  trace.tokens = dims[0];
  trace.shape.top_k = static_cast<uint32_t>(dims[2]);
  ASSIGN_OR_RETURN(const auto experts, integers<int32_t>(path, tensors, "experts", DType::kI32, 1));
  ASSIGN_OR_RETURN(const auto bytes, integers<int64_t>(path, tensors, "expert_bytes", DType::kI64, 1));
  if ((!experts.empty() && experts.size() != dims[1]) || (!bytes.empty() && bytes.size() != dims[1]))
    return fail(ErrorCode::kCorrupt, path + ": experts and expert_bytes must have one value per layer");
  trace.shape.experts.assign(dims[1], 0);
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 1 || experts[i] > static_cast<int32_t>(kExpertsMax))
      return fail(ErrorCode::kCorrupt, path + ": experts: " + std::to_string(experts[i]) + " in a layer");
    trace.shape.experts[i] = static_cast<uint32_t>(experts[i]);
  }
  for (const int64_t size : bytes) {
    if (size < 1 || size > int64_t{1} << 40)
      return fail(ErrorCode::kCorrupt, path + ": expert_bytes: " + std::to_string(size));
    trace.shape.expert_bytes.push_back(static_cast<uint64_t>(size));
  }
  if (const Status status = check_ids(trace, experts.empty()); !status)
    return tl::unexpected<Error>(status.error().within(path));
  return trace;
}

Result<TraceWriter> TraceWriter::create(const std::string& path, const TraceShape& shape, uint64_t tokens,
                                        formats::Overwrite overwrite) {
  const uint64_t layers = shape.layers();
  std::vector<formats::TensorSpec> tensors;
  if (!shape.expert_bytes.empty()) tensors.push_back({"expert_bytes", DType::kI64, {layers}});
  tensors.push_back({"experts", DType::kI32, {layers}});
  tensors.push_back({"routing", DType::kI32, {tokens, layers, shape.top_k}});
  ASSIGN_OR_RETURN(auto file, formats::SafetensorsWriter::create(path, tensors, {}, overwrite));
  if (!shape.expert_bytes.empty()) RETURN_IF_ERROR(file.append("expert_bytes", bytes_of(shape.expert_bytes)));
  RETURN_IF_ERROR(file.append("experts", bytes_of(shape.experts)));
  return TraceWriter(std::move(file), shape);
}

void TraceWriter::observe(uint32_t layer, uint32_t row, std::span<const int32_t> experts) {
  const size_t at = (size_t{row} * layers_ + layer) * top_k_;
  if (pass_.size() < (size_t{row} + 1) * layers_ * top_k_) pass_.resize((size_t{row} + 1) * layers_ * top_k_);
  std::copy(experts.begin(), experts.end(), pass_.begin() + static_cast<ptrdiff_t>(at));
}

Status TraceWriter::end_pass(uint32_t tokens) {
  pass_.resize(size_t{tokens} * layers_ * top_k_);
  RETURN_IF_ERROR(file_.append("routing", bytes_of(pass_)));
  pass_.clear();
  return {};
}

Status TraceWriter::finish() { return file_.finish(); }

}  // namespace mlxf::weights
