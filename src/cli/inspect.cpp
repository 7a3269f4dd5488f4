// inspect: what a model consists of, from its headers alone.
#include <cstdio>
#include <map>
#include <memory>

#include "base/json.h"
#include "cli/models.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string path;
  bool json = false;
};

Status run(const Flags& flags) {
  ASSIGN_OR_RETURN(const NamedModel found, named_model(flags.path));
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(found.path));
  std::map<std::string, std::pair<uint64_t, uint64_t>> by_type;  // Tensors and bytes.
  uint64_t total = 0;
  for (const formats::TensorEntry& tensor : manifest.tensors) {
    auto& [count, bytes] = by_type[std::string(traits(tensor.dtype).name)];
    ++count;
    bytes += tensor.bytes;
    total += tensor.bytes;
  }
  const bool gguf = manifest.container == formats::Container::kGguf;
  const std::string architecture = gguf ? manifest.metadata.find_string("general.architecture").value_or("?")
                                        : find_string(manifest.config, "model_type").value_or("?");
  if (flags.json) {
    Json out = {{"container", gguf ? "gguf" : "safetensors"},
                {"architecture", architecture},
                {"files", manifest.files},
                {"tensor_bytes", total}};
    for (const formats::TensorEntry& tensor : manifest.tensors)
      out["tensors"].push_back({{"name", tensor.name},
                                {"type", traits(tensor.dtype).name},
                                {"shape", tensor.shape},
                                {"file", tensor.file},
                                {"offset", tensor.offset},
                                {"bytes", tensor.bytes}});
    std::printf("%s\n", dump_json(out, 2).c_str());
    return {};
  }
  std::printf("%s: %s, architecture %s, %zu file(s), %zu tensors, %.2f GB\n", flags.path.c_str(),
              gguf ? "GGUF" : "safetensors", architecture.c_str(), manifest.files.size(),
              manifest.tensors.size(), static_cast<double>(total) / 1e9);
  for (const auto& [type, sum] : by_type)
    std::printf("  %-8s %6llu tensors %10.3f GB\n", type.c_str(), static_cast<unsigned long long>(sum.first),
                static_cast<double>(sum.second) / 1e9);
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "Show a model's tensors and their bytes by type");
  command
      ->add_option("model", flags->path,
                   "A folder with safetensors, a GGUF file, or the name of a cached model")
      ->required();
  command->add_flag("--json", flags->json, "Every tensor, for machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
