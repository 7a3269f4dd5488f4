#include "hub/ollama_manifest.h"

#include <algorithm>
#include <optional>

#include "base/json.h"

namespace mlxf::hub {
namespace {

constexpr std::string_view kModelLayer = "application/vnd.ollama.image.model";
constexpr JsonLimits kLimits = {.bytes_max = 1 << 20, .depth_max = 32};

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

Result<OllamaBlob> parse_ollama_manifest(std::string_view text) {
  ASSIGN_OR_RETURN(const Json manifest, parse_json(text, kLimits));
  const Json* layers = find_member(manifest, "layers");
  if (layers == nullptr || !layers->is_array())
    return fail(ErrorCode::kCorrupt, "the manifest has no layers");
  std::optional<OllamaBlob> found;
  for (const Json& layer : *layers) {
    if (find_string(layer, "mediaType").value_or("") != kModelLayer) continue;
    if (found) return fail(ErrorCode::kUnsupported, "its weights are in more than one file");
    const std::string digest = find_string(layer, "digest").value_or("");
    const int64_t size = find_int(layer, "size").value_or(-1);
    constexpr std::string_view kPrefix = "sha256:";
    if (digest.size() != kPrefix.size() + 64 || digest.compare(0, kPrefix.size(), kPrefix) != 0 ||
        !is_hex(std::string_view(digest).substr(kPrefix.size())) || size < 0)
      return fail(ErrorCode::kCorrupt, "the manifest's model layer has no digest or size that makes sense");
    found = OllamaBlob{"sha256-" + digest.substr(kPrefix.size()), static_cast<uint64_t>(size)};
  }
  if (!found) return fail(ErrorCode::kUnsupported, "it has no weights in GGUF");
  return *found;
}

}  // namespace mlxf::hub
