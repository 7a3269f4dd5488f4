#include "convert/pack_plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <utility>

#include "model/families/families.h"
#include "weights/record.h"
#include "weights/stored_matrix.h"

namespace mlxf::convert {
namespace {

using formats::ModelManifest;
using formats::TensorEntry;

constexpr uint64_t kTrunkFileBytesMax = uint64_t{5} << 30;

// How families call the matrices of an expert that is stored by itself: gate, up, down.
using Names = std::array<std::string, 3>;
const Names kNamings[] = {{"gate_proj", "up_proj", "down_proj"}, {"w1", "w3", "w2"}};

uint64_t widened(uint64_t offset, uint64_t bytes) {
  return (offset % kPackAlignment + bytes + kPackAlignment - 1) / kPackAlignment * kPackAlignment;
}

std::array<const model::MatrixSource*, 3> matrices_of(const model::ExpertSource& expert) {
  return {&expert.gate, &expert.up, &expert.down};
}

bool is_slice(const model::MatrixSource& matrix) {
  return matrix.stored_rows != 0 && matrix.stored_rows != matrix.rows;
}

// The module's name of a matrix of expert `expert`, as if it were stored by itself.
Result<std::string> own_name(const model::MatrixSource& matrix, size_t expert, const std::string& name) {
  if (!is_slice(matrix)) return matrix.name;
  for (const char* stack : {".switch_mlp.", ".experts."})
    if (const size_t at = matrix.name.rfind(stack); at != std::string::npos)
      return matrix.name.substr(0, at) + ".experts." + std::to_string(expert) + "." + name;
  return fail(ErrorCode::kUnsupported,
              "the experts in tensor " + matrix.name + " have no names of their own in this architecture");
}

class Planner {
 public:
  Planner(const ModelManifest& manifest, const model::ModelSpec& spec, const Names& names)
      : manifest_(manifest), spec_(spec), names_(names) {
    plan_.config = manifest.config;
  }

  Result<PackPlan> plan() {
    std::vector<PackFile> layers;
    for (size_t layer = 0; layer < spec_.layers.size(); ++layer)
      if (const auto* moe = std::get_if<model::MoeSpec>(&spec_.layers[layer].ffn)) {
        ASSIGN_OR_RETURN(PackFile file, plan_layer(layer, *moe));
        layers.push_back(std::move(file));
      }
    plan_trunk();
    std::move(layers.begin(), layers.end(), std::back_inserter(plan_.files));
    for (size_t i = 0; i < plan_.files.size(); ++i) {
      char name[64];
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, plan_.files.size());
      plan_.files[i].name = name;
      plan_.bytes += plan_.files[i].bytes;
    }
    return std::move(plan_);
  }

 private:
  Result<PackFile> plan_layer(size_t layer, const model::MoeSpec& moe) {
    PackFile file;
    for (size_t e = 0; e < moe.experts.size(); ++e) {
      const uint64_t begin = file.bytes;
      std::vector<weights::RecordSlice> slices;
      const auto matrices = matrices_of(moe.experts[e]);
      for (size_t m = 0; m < matrices.size(); ++m) {
        if (matrices[m]->transposed || matrices[m]->row_step != 1)
          return fail(ErrorCode::kUnsupported, "tensor " + matrices[m]->name +
                                                   ": experts stored [in, out], or whose rows of gate and up "
                                                   "alternate, cannot be packed");
        weights::RecordSlice slice;
        ASSIGN_OR_RETURN(slice.stored, weights::find_matrix(manifest_, matrices[m]->name));
        slice.row_begin = matrices[m]->row_begin;
        slice.rows = matrices[m]->rows;
        ASSIGN_OR_RETURN(const std::string name, own_name(*matrices[m], e, names_[m]));
        RETURN_IF_ERROR(add_matrix(*matrices[m], slice, name, file));
        slices.push_back(slice);
      }
      const std::string number = std::to_string(layer) + "." + std::to_string(e);
      file.extents.push_back(
          {"layer " + std::to_string(layer) + " expert " + std::to_string(e), begin, file.bytes - begin});
      count(weights::make_record(slices), file.bytes - begin);
      if (const uint64_t over = file.bytes % kPackAlignment; over != 0)
        add_piece(
            {{"padding." + number, DType::kU8, {kPackAlignment - over}}, nullptr, 0, kPackAlignment - over},
            file);
    }
    return file;
  }

  Status add_matrix(const model::MatrixSource& source, const weights::RecordSlice& slice,
                    const std::string& name, PackFile& file) {
    const MatrixView& w = slice.stored.layout;
    const bool whole = !is_slice(source);
    if (!whole && w.format == WeightFormat::kF8E4M3)
      return fail(ErrorCode::kUnsupported, "tensor " + source.name + ": stacked f8 experts cannot be packed");
    const auto add = [&](const TensorEntry* tensor, const std::string& tensor_name, uint64_t row_bytes) {
      if (tensor == nullptr) return;
      used_.insert(tensor);
      PackPiece piece;
      piece.source = tensor;
      piece.spec = {tensor_name, tensor->dtype, tensor->shape};
      piece.bytes = tensor->bytes;
      if (!whole) {
        piece.offset = slice.row_begin * row_bytes;
        piece.bytes = slice.rows * row_bytes;
        piece.spec.shape = {slice.rows, tensor->shape.back()};
      }
      add_piece(std::move(piece), file);
    };
    // A matrix that keeps its name keeps its tensors' names, whatever they are.
    const auto named = [&](const TensorEntry* tensor, const char* suffix) {
      return whole && tensor != nullptr ? tensor->name : name + suffix;
    };
    const weights::StoredMatrix& stored = slice.stored;
    add(stored.data, named(stored.data, ".weight"), w.row_bytes);
    add(stored.scales, named(stored.scales, ".scales"), w.scale_row_bytes);
    add(stored.biases, named(stored.biases, ".biases"), w.scale_row_bytes);
    if (!whole) rename_settings(source.name, name);
    return {};
  }

  // Quantisation settings of a stack's own are those of each of its experts.
  void rename_settings(const std::string& from, const std::string& to) {
    for (const char* field : {"quantization", "quantization_config"}) {
      const Json* settings = find_member(plan_.config, field);
      const Json* own = settings != nullptr ? find_member(*settings, from) : nullptr;
      if (own == nullptr) continue;
      const Json copy = *own;
      plan_.config[field][to] = copy;
    }
  }

  void add_piece(PackPiece piece, PackFile& file) {
    file.bytes += piece.bytes;
    file.pieces.push_back(std::move(piece));
  }

  void count(const weights::Record& record, uint64_t bytes) {
    ++plan_.experts;
    plan_.reads_before += record.extents.size();
    for (const weights::RecordExtent& extent : record.extents)
      plan_.read_bytes_before += widened(extent.offset, extent.bytes);
    plan_.read_bytes_after += widened(0, bytes);
  }

  // All tensors that no expert uses, as they are.
  void plan_trunk() {
    for (const TensorEntry& tensor : manifest_.tensors) {
      if (used_.count(&tensor) != 0) continue;
      if (plan_.files.empty() || plan_.files.back().bytes + tensor.bytes > kTrunkFileBytesMax)
        plan_.files.emplace_back();
      PackFile& file = plan_.files.back();
      file.extents.push_back({tensor.name, file.bytes, tensor.bytes});
      add_piece({{tensor.name, tensor.dtype, tensor.shape}, &tensor, 0, tensor.bytes}, file);
    }
  }

  const ModelManifest& manifest_;
  const model::ModelSpec& spec_;
  const Names& names_;
  PackPlan plan_;
  std::set<const TensorEntry*> used_;
};

// What the loader will see.
ModelManifest manifest_of(const PackPlan& plan, const ModelManifest& source) {
  ModelManifest manifest;
  manifest.path = source.path + " (packed)";
  manifest.config = plan.config;
  for (const PackFile& file : plan.files) {
    uint64_t offset = 0;
    for (const PackPiece& piece : file.pieces) {
      manifest.tensors.push_back({piece.spec.name, piece.spec.dtype, piece.spec.shape,
                                  static_cast<uint32_t>(manifest.files.size()), offset, piece.bytes});
      offset += piece.bytes;
    }
    manifest.files.push_back(file.name);
    manifest.file_bytes.push_back(offset);
  }
  const auto& tensors = manifest.tensors;
  // A clash is found when the files are written.
  static_cast<void>(manifest.tensor_index.build(
      tensors.size(), [&tensors](size_t i) { return std::string_view(tensors[i].name); }));
  return manifest;
}

bool same_layout(const MatrixView& a, const MatrixView& b) {
  return a.format == b.format && a.bits == b.bits && a.group == b.group && a.scale_type == b.scale_type &&
         a.cols == b.cols && a.row_bytes == b.row_bytes && a.scale_row_bytes == b.scale_row_bytes;
}

// The loader must find every expert in the plan, whole and encoded as before.
Status check_loads(const PackPlan& plan, const ModelManifest& source, const model::ModelSpec& spec) {
  const ModelManifest packed = manifest_of(plan, source);
  ASSIGN_OR_RETURN(const model::ModelSpec found, model::make_spec(packed));
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    const auto* before = std::get_if<model::MoeSpec>(&spec.layers[layer].ffn);
    const auto* after = std::get_if<model::MoeSpec>(&found.layers[layer].ffn);
    if (before == nullptr) continue;
    for (size_t e = 0; e < before->experts.size(); ++e)
      for (size_t m = 0; m < 3; ++m) {
        ASSIGN_OR_RETURN(const auto was,
                         weights::find_matrix(source, matrices_of(before->experts[e])[m]->name));
        const model::MatrixSource& now = *matrices_of(after->experts[e])[m];
        ASSIGN_OR_RETURN(const auto is, weights::find_matrix(packed, now.name));
        if (is_slice(now) || !same_layout(was.layout, is.layout))
          return fail(ErrorCode::kUnsupported,
                      "tensor " + now.name + " would be read differently from the packed form");
      }
  }
  return {};
}

}  // namespace

Result<PackPlan> plan_pack(const ModelManifest& manifest) {
  if (manifest.container == formats::Container::kGguf)
    return fail(ErrorCode::kUnsupported, manifest.path +
                                             ": GGUF files are not packed: an expert lies in three extents, "
                                             "which are read nearly as fast as one");
  ASSIGN_OR_RETURN(const model::ModelSpec spec, model::make_spec(manifest));
  const bool mixture = std::any_of(spec.layers.begin(), spec.layers.end(), [](const model::LayerSpec& layer) {
    return std::holds_alternative<model::MoeSpec>(layer.ffn);
  });
  if (!mixture)
    return fail(ErrorCode::kUnsupported,
                manifest.path + ": is not a mixture of experts, so there is nothing to pack");
  Status status;
  for (const Names& names : kNamings) {
    ASSIGN_OR_RETURN(PackPlan plan, Planner(manifest, spec, names).plan());
    status = check_loads(plan, manifest, spec);
    if (status) return plan;
  }
  return tl::unexpected<Error>(status.error().within(manifest.path + " cannot be packed"));
}

}  // namespace mlxf::convert
