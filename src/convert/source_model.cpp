#include "convert/source_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

struct ExpertName {
  std::string stacked;
  uint64_t expert = 0;
};

// "….mlp.experts.7.up_proj.weight" → {"….mlp.switch_mlp.up_proj.weight", 7}; Mixtral calls gate, down and up
// w1, w2 and w3.
std::optional<ExpertName> split_expert(const std::string& name) {
  constexpr std::string_view kMarker = ".experts.";
  const size_t at = name.find(kMarker);
  if (at == std::string::npos) return std::nullopt;
  const char* digits = name.data() + at + kMarker.size();
  uint64_t expert = 0;
  const auto parsed = std::from_chars(digits, name.data() + name.size(), expert);
  if (parsed.ec != std::errc() || parsed.ptr == name.data() + name.size() || *parsed.ptr != '.')
    return std::nullopt;
  std::string rest(parsed.ptr + 1, name.data() + name.size());
  constexpr std::pair<std::string_view, std::string_view> kMixtral[] = {
      {"w1.", "gate_proj."}, {"w2.", "down_proj."}, {"w3.", "up_proj."}};
  for (const auto& [from, to] : kMixtral) {
    if (rest.rfind(from, 0) == 0) rest = std::string(to) + rest.substr(from.size());
  }
  // Where the experts stand in the layer itself (gemma4), mlx-lm's name for all of them has another middle.
  const bool in_layer = at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9';
  return ExpertName{name.substr(0, at) + (in_layer ? ".experts.switch_glu." : ".switch_mlp.") + rest, expert};
}

bool is_readable(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

void widen(DType dtype, const uint8_t* bytes, std::span<float> out) {
  if (dtype == DType::kF32) {
    std::memcpy(out.data(), bytes, out.size() * sizeof(float));
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
    out[i] = dtype == DType::kF16 ? f32_from_f16(bits) : f32_from_bf16(bits);
  }
}

std::string folder_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return path;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

Status check_stack(const SourceTensor& stack) {
  for (const formats::TensorEntry* part : stack.parts) {
    if (part == nullptr)
      return fail(ErrorCode::kCorrupt, stack.name + ": the numbers of its experts have a gap");
    if (part->dtype != stack.dtype || part->shape != stack.parts[0]->shape)
      return fail(ErrorCode::kCorrupt, part->name + ": differs in shape or type from the other experts");
  }
  return {};
}

}  // namespace

Result<SourceModel> SourceModel::open(const std::string& path) {
  SourceModel model;
  ASSIGN_OR_RETURN(formats::ModelManifest manifest, formats::open_model(path));
  model.manifest_ = std::make_unique<formats::ModelManifest>(std::move(manifest));
  if (model.manifest_->container != formats::Container::kSafetensors)
    return fail(ErrorCode::kUnsupported,
                path + ": is GGUF; quantise from the original 16-bit safetensors instead");
  if (model.config().contains("quantization") || model.config().contains("quantization_config"))
    return fail(ErrorCode::kUnsupported,
                path + ": is quantised already; start from the original 16-bit model");
  model.folder_ = folder_of(path);
  for (const std::string& file : model.manifest_->files) {
    ASSIGN_OR_RETURN(platform::File opened, platform::File::open(file));
    model.files_.push_back(std::move(opened));
  }
  RETURN_IF_ERROR(model.collect());
  return model;
}

Status SourceModel::collect() {
  constexpr uint64_t kExpertsMax = 65536;
  std::map<std::string, size_t> stacks;
  for (const formats::TensorEntry& entry : manifest_->tensors) {
    if (!is_readable(entry.dtype))
      return fail(ErrorCode::kUnsupported, entry.name + ": is " + std::string(traits(entry.dtype).name) +
                                               "; only BF16, F16 and F32 weights are quantised");
    const auto expert = split_expert(entry.name);
    if (!expert) {
      tensors_.push_back({entry.name, entry.dtype, entry.shape, {&entry}});
      continue;
    }
    if (expert->expert >= kExpertsMax)
      return fail(ErrorCode::kCorrupt, entry.name + ": an expert's number is out of range");
    const auto [found, is_new] = stacks.try_emplace(expert->stacked, tensors_.size());
    if (is_new) tensors_.push_back({expert->stacked, entry.dtype, {}, {}});
    SourceTensor& stack = tensors_[found->second];
    if (stack.parts.size() <= expert->expert) stack.parts.resize(expert->expert + 1, nullptr);
    stack.parts[expert->expert] = &entry;
  }
  for (const auto& [name, index] : stacks) {
    SourceTensor& stack = tensors_[index];
    RETURN_IF_ERROR(check_stack(stack));
    stack.shape = {stack.parts.size()};
    stack.shape.insert(stack.shape.end(), stack.parts[0]->shape.begin(), stack.parts[0]->shape.end());
  }
  return {};
}

const SourceTensor* SourceModel::find(std::string_view name) const {
  const auto found =
      std::find_if(tensors_.begin(), tensors_.end(), [&](const SourceTensor& t) { return t.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

Status SourceModel::read_rows(const SourceTensor& tensor, uint64_t row_begin, std::span<float> out) const {
  const uint64_t cols = tensor.cols();
  const uint64_t part_rows = tensor.rows() / tensor.parts.size();
  const uint64_t element_bytes = traits(tensor.dtype).block_bytes;
  std::vector<uint8_t> bytes;
  while (!out.empty()) {
    CHECK(part_rows != 0);
    const formats::TensorEntry& part = *tensor.parts[row_begin / part_rows];
    const uint64_t first = row_begin % part_rows;
    const uint64_t rows = std::min(part_rows - first, out.size() / cols);
    bytes.resize(rows * cols * element_bytes);
    RETURN_IF_ERROR(files_[part.file].read_exact(part.offset + first * cols * element_bytes, bytes));
    widen(tensor.dtype, bytes.data(), out.first(rows * cols));
    out = out.subspan(rows * cols);
    row_begin += rows;
  }
  return {};
}

Status SourceModel::read_bytes(const SourceTensor& tensor, uint64_t offset, std::span<uint8_t> out) const {
  const uint64_t part_bytes = tensor.parts[0]->bytes;
  while (!out.empty()) {
    const formats::TensorEntry& part = *tensor.parts[offset / part_bytes];
    const uint64_t first = offset % part_bytes;
    const uint64_t bytes = std::min<uint64_t>(part_bytes - first, out.size());
    RETURN_IF_ERROR(files_[part.file].read_exact(part.offset + first, out.first(bytes)));
    out = out.subspan(bytes);
    offset += bytes;
  }
  return {};
}

}  // namespace mlxf::convert
