#include "convert/quantize.h"

#include <charconv>
#include <utility>

#include "convert/quantize_gguf.h"
#include "convert/quantize_mlx.h"
#include "convert/source_model.h"

namespace mlxf::convert {
namespace {

tl::unexpected<Error> refuse(std::string message) {
  return fail(ErrorCode::kInvalidArgument, std::move(message));
}

bool is_group(uint32_t group) { return group == 32 || group == 64 || group == 128; }

// The bits in "mlx4"; 0 when it is none of MLX's.
uint32_t mlx_bits(std::string_view name) {
  for (const uint32_t bits : {2u, 3u, 4u, 5u, 6u, 8u}) {
    if (name == "mlx" + std::to_string(bits)) return bits;
  }
  return 0;
}

}  // namespace

Result<QuantizeType> parse_quantize_type(std::string_view name) {
  if (const uint32_t bits = mlx_bits(name)) return QuantizeType{.gguf = {}, .mlx_bits = bits};
  constexpr std::pair<std::string_view, GgufMix> kGguf[] = {{"q4_0", GgufMix::kQ4_0},
                                                            {"q8_0", GgufMix::kQ8_0},
                                                            {"q4_k", GgufMix::kQ4KM},
                                                            {"bf16", GgufMix::kBF16},
                                                            {"f16", GgufMix::kF16}};
  for (const auto& [text, mix] : kGguf) {
    if (name == text) return QuantizeType{.gguf = mix, .mlx_bits = 0};
  }
  return refuse("unknown type '" + std::string(name) +
                "'; there are mlx2, mlx3, mlx4, mlx5, mlx6, mlx8 and, for GGUF, q4_0, q8_0, q4_k, bf16, f16");
}

Result<Override> parse_override(std::string_view text, uint32_t group) {
  const auto wrong = [&](const std::string& why) {
    return refuse("override '" + std::string(text) + "': " + why +
                  "; write for example lm_head=mlx8, down_proj=mlx6:32 or router=none");
  };
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) return wrong("it is not PATTERN=TYPE");
  Override rule{.pattern = std::string(text.substr(0, equals)), .format = {}};
  std::string_view type = text.substr(equals + 1);
  if (type == "none") return rule;
  const size_t colon = type.find(':');
  if (colon != std::string_view::npos) {
    const std::string_view digits = type.substr(colon + 1);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), group);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() || !is_group(group))
      return wrong("the group is not 32, 64 or 128");
    type = type.substr(0, colon);
  }
  const uint32_t bits = mlx_bits(type);
  if (bits == 0) return wrong("the type is not mlx2, mlx3, mlx4, mlx5, mlx6, mlx8 or none");
  rule.format = AffineFormat{.bits = bits, .group = group};
  return rule;
}

Result<QuantizeReport> quantize(const QuantizeOptions& options, compute::ThreadPool& pool,
                                const ProgressFn& progress) {
  if (!is_group(options.group)) return refuse("the group must be 32, 64 or 128");
  ASSIGN_OR_RETURN(const SourceModel model, SourceModel::open(options.model));
  if (options.type.gguf) return quantize_to_gguf(options, model, pool, progress);
  return quantize_to_mlx(options, model, pool, progress);
}

}  // namespace mlxf::convert
