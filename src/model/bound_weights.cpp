#include "model/bound_weights.h"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

namespace mlxf::model {
namespace {

// Collects what to load, then fills in the views once the addresses are known.
class Binder {
 public:
  Binder(weights::ResidentWeights& weights, const LeftOut& left_out)
      : weights_(weights), left_out_(left_out) {}

  // Matrices declared from now on belong to `layer`; of one that is left out, the vectors alone are read.
  void enter_layer(size_t layer) {
    skips_ = std::binary_search(left_out_.layers.begin(), left_out_.layers.end(), layer);
  }
  [[nodiscard]] bool skips_layer() const { return skips_; }
  [[nodiscard]] bool skips_experts() const { return left_out_.experts; }

  // kFloats: rows may go side by side, but floats are not quantised.
  enum class Keep : uint8_t { kMayConvert, kFloats, kAsStored };

  // Declares `source`; `view` receives its rows in finish().
  Status add(const MatrixSource& source, MatrixView& view, Keep keep = Keep::kMayConvert) {
    if (source.name.empty() || skips_) return {};
    ASSIGN_OR_RETURN(const uint32_t handle, source.transposed ? weights_.add_transposed(source.name)
                                            : keep == Keep::kAsStored || source.row_step != 1
                                                ? weights_.add_matrix_as_stored(source.name)
                                                : weights_.add_matrix(source.name));
    if (source.by_row || source.row_begin % kRowsSideBySide != 0 || source.rows % kRowsSideBySide != 0)
      weights_.keep_rows_apart(handle);
    if (keep == Keep::kFloats) weights_.keep_floats(handle);
    pending_.push_back({handle, &source, &view});
    return {};
  }

  Status add(const VectorSource& source, Vector& vector) {
    ASSIGN_OR_RETURN(vector, read_vector(weights_, source));
    return {};
  }

  Status finish() {
    for (const Pending& p : pending_) {
      const MatrixView& stored = weights_.matrix(p.handle);
      const uint32_t stored_rows = p.source->stored_rows != 0 ? p.source->stored_rows : p.source->rows;
      if (stored.rows != stored_rows || stored.cols != p.source->cols)
        return fail(ErrorCode::kCorrupt,
                    "tensor " + p.source->name + " has " + std::to_string(stored.rows) + " rows of " +
                        std::to_string(stored.cols) + ", but the configuration implies " +
                        std::to_string(stored_rows) + " rows of " + std::to_string(p.source->cols));
      *p.view = stored.row_slice(p.source->row_begin, p.source->rows, p.source->row_step);
    }
    return {};
  }

 private:
  struct Pending {
    uint32_t handle;
    const MatrixSource* source;
    MatrixView* view;
  };
  weights::ResidentWeights& weights_;
  LeftOut left_out_;
  bool skips_ = false;
  std::vector<Pending> pending_;
};

// A kind whose spec and bound form list the same matrices and vectors.
template <typename Spec, typename Bound>
Status bind(Binder& binder, const Spec& spec, Bound& bound) {
  const auto sources = spec.matrices();
  const auto views = bound.matrices();
  static_assert(sources.size() == views.size());
  for (size_t i = 0; i < sources.size(); ++i) RETURN_IF_ERROR(binder.add(*sources[i], *views[i]));
  const auto vector_sources = spec.vectors();
  const auto vectors = bound.vectors();
  static_assert(vector_sources.size() == vectors.size());
  for (size_t i = 0; i < vectors.size(); ++i) RETURN_IF_ERROR(binder.add(*vector_sources[i], *vectors[i]));
  return {};
}

Status bind(Binder& binder, const DeltaNetSpec& spec, BoundDeltaNet& bound) {
  RETURN_IF_ERROR((bind<DeltaNetSpec, BoundDeltaNet>(binder, spec, bound)));
  arrange_vectors(spec, bound);
  return {};
}

Status bind(Binder& binder, const MoeSpec& spec, BoundMoe& bound) {
  // Routers stay in their stored precision: a flipped choice costs more than their few bytes.
  RETURN_IF_ERROR(binder.add(spec.router, bound.router, Binder::Keep::kAsStored));
  RETURN_IF_ERROR(binder.add(spec.shared_gate, bound.shared_gate, Binder::Keep::kAsStored));
  bound.experts.resize(spec.experts.size());
  for (size_t e = 0; e < spec.experts.size() && !binder.skips_experts(); ++e) {
    RETURN_IF_ERROR(binder.add(spec.experts[e].gate, bound.experts[e].gate));
    RETURN_IF_ERROR(binder.add(spec.experts[e].up, bound.experts[e].up));
    RETURN_IF_ERROR(binder.add(spec.experts[e].down, bound.experts[e].down));
  }
  if (spec.shared) RETURN_IF_ERROR(bind(binder, *spec.shared, bound.shared));
  const auto vector_sources = spec.vectors();
  const auto vectors = bound.vectors();
  for (size_t i = 0; i < vectors.size(); ++i) RETURN_IF_ERROR(binder.add(*vector_sources[i], *vectors[i]));
  for (float& weight : bound.router_norm) weight *= spec.router_norm_scale;
  return {};
}

Status bind(Binder& binder, const AltupSpec& spec, BoundAltup& bound) {
  bound.projections.resize(spec.projections.size());
  bound.merge.resize(spec.merge.size());
  for (size_t i = 0; i < spec.projections.size(); ++i) {
    RETURN_IF_ERROR(binder.add(spec.projections[i], bound.projections[i]));
    RETURN_IF_ERROR(binder.add(spec.merge[i], bound.merge[i]));
  }
  return {};
}

Status bind(Binder& binder, const PerLayerInputsSpec& spec, BoundPerLayerInputs& bound, bool with_table) {
  if (with_table) RETURN_IF_ERROR(binder.add(spec.table, bound.table, Binder::Keep::kAsStored));
  RETURN_IF_ERROR(binder.add(spec.projection, bound.projection));
  return binder.add(spec.norm, bound.norm);
}

Status bind_layer(Binder& binder, const LayerSpec& spec, BoundLayer& bound) {
  RETURN_IF_ERROR(binder.add(spec.mixer_norm, bound.mixer_norm));
  RETURN_IF_ERROR(binder.add(spec.mixer_post_norm, bound.mixer_post_norm));
  RETURN_IF_ERROR(binder.add(spec.ffn_norm, bound.ffn_norm));
  RETURN_IF_ERROR(binder.add(spec.ffn_post_norm, bound.ffn_post_norm));
  const auto bind_kind = [&binder](const auto& kind, auto& alternatives) {
    using Bound = typename std::remove_cvref_t<decltype(kind)>::Bound;
    return bind(binder, kind, alternatives.template emplace<Bound>());
  };
  RETURN_IF_ERROR(std::visit([&](const auto& kind) { return bind_kind(kind, bound.mixer); }, spec.mixer));
  RETURN_IF_ERROR(std::visit([&](const auto& kind) { return bind_kind(kind, bound.ffn); }, spec.ffn));
  if (spec.laurel) RETURN_IF_ERROR(bind(binder, *spec.laurel, bound.laurel));
  if (spec.altup) RETURN_IF_ERROR(bind(binder, *spec.altup, bound.altup));
  if (spec.per_layer) RETURN_IF_ERROR(bind(binder, *spec.per_layer, bound.per_layer));
  return binder.add(spec.output_scale, bound.output_scale);
}

// Takes the matrices that `spec` names from the front of `matrices`.
template <typename Spec, typename Bound>
void take_matrices(const Spec& spec, std::span<const MatrixView>& matrices, Bound& bound) {
  const auto sources = spec.matrices();
  const auto views = bound.matrices();
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i]->name.empty()) continue;
    *views[i] = matrices.front();
    matrices = matrices.subspan(1);
  }
}

}  // namespace

std::vector<const MatrixView*> BoundLayer::matrices() const {
  std::vector<const MatrixView*> list;
  const auto append = [&list](const auto& kind) {
    for (const MatrixView* matrix : kind.matrices()) list.push_back(matrix);
  };
  std::visit(append, mixer);
  std::visit(append, ffn);
  append(laurel);
  append(altup);
  append(per_layer);
  return list;
}

void set_matrices(const LayerSpec& spec, std::span<const MatrixView> matrices, BoundLayer& bound) {
  std::visit(
      [&](const auto& mixer) {
        using Bound = typename std::remove_cvref_t<decltype(mixer)>::Bound;
        take_matrices(mixer, matrices, *std::get_if<Bound>(&bound.mixer));
      },
      spec.mixer);
  take_matrices(*std::get_if<MlpSpec>(&spec.ffn), matrices, *std::get_if<BoundMlp>(&bound.ffn));
  if (spec.laurel) take_matrices(*spec.laurel, matrices, bound.laurel);
  if (spec.altup) take_matrices(*spec.altup, matrices, bound.altup);
  if (spec.per_layer) take_matrices(*spec.per_layer, matrices, bound.per_layer);
}

Result<Vector> read_vector(const weights::ResidentWeights& weights, const VectorSource& source) {
  if (source.name.empty()) return Vector{};
  ASSIGN_OR_RETURN(Vector values, weights.read_f32(source.name));
  const uint64_t stored = source.stored != 0 ? source.stored : uint64_t{source.size} * source.step;
  if (values.size() != stored)
    return fail(ErrorCode::kCorrupt, "tensor " + source.name + " has " + std::to_string(values.size()) +
                                         " values, but the configuration implies " + std::to_string(stored));
  if (source.size < stored) {
    for (uint32_t i = 0; i < source.size; ++i) values[i] = values[uint64_t{i} * source.step + source.first];
    values.resize(source.size);
  }
  if (source.add_one)
    for (float& value : values) value += 1.0f;
  return values;
}

Result<BoundWeights> bind_weights(const formats::ModelManifest& manifest, const ModelSpec& spec,
                                  const weights::ResidentWeights::Options& options, const LeftOut& left_out,
                                  LayerMemory memory) {
  BoundWeights bound;
  bound.resident = std::make_unique<weights::ResidentWeights>(manifest);
  bound.layers.resize(spec.layers.size());
  Binder binder(*bound.resident, left_out);
  // A table that is the output matrix, too, is read by row once a token and multiplied whole.
  const bool tied = spec.head.name == spec.embedding.name;
  if (!left_out.embedding)
    RETURN_IF_ERROR(
        binder.add(spec.embedding, bound.embedding, tied ? Binder::Keep::kFloats : Binder::Keep::kAsStored));
  RETURN_IF_ERROR(
      binder.add(spec.head, bound.head, tied ? Binder::Keep::kFloats : Binder::Keep::kMayConvert));
  RETURN_IF_ERROR(binder.add(spec.final_norm, bound.final_norm));
  if (spec.altup) RETURN_IF_ERROR(bind(binder, *spec.altup, bound.altup));
  if (spec.per_layer_inputs)
    RETURN_IF_ERROR(bind(binder, *spec.per_layer_inputs, bound.per_layer_inputs, !left_out.per_layer_table));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    binder.enter_layer(i);
    if (memory == LayerMemory::kApart)
      bound.layer_parts.push_back(binder.skips_layer() ? 0 : bound.resident->begin_part());
    RETURN_IF_ERROR(bind_layer(binder, spec.layers[i], bound.layers[i]));
  }
  RETURN_IF_ERROR(bound.resident->load(options));
  RETURN_IF_ERROR(binder.finish());
  return bound;
}

}  // namespace mlxf::model
