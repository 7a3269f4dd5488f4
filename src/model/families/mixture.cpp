#include <algorithm>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

struct Dimensions {
  uint32_t experts = 0, width = 0, hidden = 0;
};

// Where the experts of one layer are.
struct Layout {
  enum class Kind : uint8_t { kEach, kStacked, kFused };
  Kind kind = Kind::kEach;
  std::string module;       // kStacked: of the stacked matrices.
  bool transposed = false;  // kFused: stored [in, out],
  bool alternates = false;  // and rows of gate and up take turns.
};

Result<Layout> find_layout(const Source& source, uint32_t index, const MoeNames& names) {
  Layout layout;
  layout.kind = Layout::Kind::kFused;
  layout.alternates = names.fused_alternates && !source.gguf;
  const std::string fused = source.layer(index, names.block + ".experts.gate_up_proj", "ffn_gate_up_exps");
  // Block formats run along the contracted dimension.
  if (!source.gguf && source.has(fused + "_blocks")) return layout;
  layout.transposed = names.fused_transposed && !source.gguf;
  if (source.has(fused)) return layout;
  layout = {};
  layout.kind = Layout::Kind::kStacked;
  for (const char* module : {"switch_mlp", "experts"}) {
    layout.module = names.block + "." + module + ".";
    if (source.has(source.layer(index, layout.module + "gate_proj", "ffn_gate_exps"))) return layout;
  }
  const std::string first = source.layer(index, names.block + ".experts.0." + names.gate, "ffn_gate_exps");
  if (!source.gguf && source.has(first)) return Layout{};
  return fail(ErrorCode::kNotFound, source.manifest->path + " has no tensor " + first +
                                        ".weight, which the experts of layer " + std::to_string(index) +
                                        " need");
}

ExpertSource fused_expert(const Source& source, uint32_t index, const MoeNames& names, const Layout& layout,
                          const Dimensions& d, uint32_t e) {
  const std::string base = names.block + ".experts.";
  ExpertSource expert;
  expert.gate = {source.layer(index, base + "gate_up_proj", "ffn_gate_up_exps"),
                 d.width,
                 d.hidden,
                 e * 2 * d.width,
                 d.experts * 2 * d.width,
                 layout.alternates ? 2u : 1u,
                 layout.transposed};
  expert.up = expert.gate;
  expert.up.row_begin += layout.alternates ? 1 : d.width;
  expert.down = {source.layer(index, base + "down_proj", "ffn_down_exps"),
                 d.hidden,
                 d.width,
                 e * d.hidden,
                 d.experts * d.hidden,
                 1,
                 layout.transposed};
  return expert;
}

ExpertSource expert_source(const Source& source, uint32_t index, const MoeNames& names, const Layout& layout,
                           const Dimensions& d, uint32_t e) {
  if (layout.kind == Layout::Kind::kFused) return fused_expert(source, index, names, layout, d, e);
  const auto matrix = [&](const std::string& stacked, const std::string& own, const char* gguf, uint32_t rows,
                          uint32_t cols) {
    if (layout.kind == Layout::Kind::kStacked)
      return MatrixSource{source.layer(index, layout.module + stacked, gguf), rows, cols, e * rows,
                          d.experts * rows};
    const std::string name = names.block + ".experts." + std::to_string(e) + "." + own;
    return MatrixSource{source.layer(index, name, ""), rows, cols, 0, rows};
  };
  ExpertSource expert;
  expert.gate = matrix("gate_proj", names.gate, "ffn_gate_exps", d.width, d.hidden);
  expert.up = matrix("up_proj", names.up, "ffn_up_exps", d.width, d.hidden);
  expert.down = matrix("down_proj", names.down, "ffn_down_exps", d.hidden, d.width);
  return expert;
}

}  // namespace

Result<MoeSpec> mixture(const Source& source, const ModelSpec& spec, uint32_t index, const MoeNames& names,
                        uint32_t width, bool normalise_top_k) {
  MoeSpec moe;
  moe.width = width;
  moe.normalise_top_k = normalise_top_k;
  const char* field =
      find_member(source.config, "num_experts") != nullptr ? "num_experts" : "num_local_experts";
  Dimensions d{0, width, spec.hidden};
  ASSIGN_OR_RETURN(d.experts, source.count(field, 0, 65536));
  ASSIGN_OR_RETURN(moe.top_k, source.count("num_experts_per_tok", 0, 1024));
  if (moe.top_k > d.experts)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": num_experts_per_tok " +
                                         std::to_string(moe.top_k) + " is more than the " +
                                         std::to_string(d.experts) + " experts");
  if (uint64_t{2} * d.experts * std::max(width, spec.hidden) > INT32_MAX)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": " + std::to_string(d.experts) +
                                         " experts of width " + std::to_string(width) + " are too many");
  moe.router = {source.layer(index, names.block + "." + names.router, "ffn_gate_inp"), d.experts, spec.hidden,
                0, d.experts};
  // Before a list is made as long as the file claims: routers and experts must be there in that number.
  const formats::TensorEntry* router = source.manifest->find(moe.router.name + ".weight");
  if (router == nullptr || router->shape.empty() || router->shape.front() != d.experts)
    return fail(router == nullptr ? ErrorCode::kNotFound : ErrorCode::kCorrupt,
                source.manifest->path + ": tensor " + moe.router.name +
                    ".weight must exist with one row for each of the " + std::to_string(d.experts) +
                    " experts");
  ASSIGN_OR_RETURN(const Layout layout, find_layout(source, index, names));
  moe.experts.reserve(d.experts);
  for (uint32_t e = 0; e < d.experts; ++e)
    moe.experts.push_back(expert_source(source, index, names, layout, d, e));
  return moe;
}

Result<ExpertGroups> expert_groups(const Source& source, const MoeSpec& moe, ExpertGroups groups) {
  const auto experts = static_cast<uint32_t>(moe.experts.size());
  ASSIGN_OR_RETURN(groups.count, source.count("n_group", groups.count, 65536));
  ASSIGN_OR_RETURN(groups.used, source.count("topk_group", groups.used, 65536));
  const uint32_t size = experts / groups.count;
  const uint32_t least = groups.score == ExpertGroups::Score::kTwoLargest ? 2 : 1;
  if (experts % groups.count != 0 || groups.used > groups.count || uint64_t{groups.used} * size < moe.top_k ||
      size < least)
    return fail(ErrorCode::kCorrupt,
                source.manifest->path + ": " + std::to_string(moe.top_k) + " of " + std::to_string(experts) +
                    " experts cannot be chosen from topk_group " + std::to_string(groups.used) +
                    " of n_group " + std::to_string(groups.count) + " groups");
  return groups;
}

}  // namespace mlxf::model
