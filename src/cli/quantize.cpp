// quantize: a 16-bit checkpoint in few bits, as an MLX folder or a GGUF file.
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "cli/models.h"
#include "convert/quantize.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string model;
  std::string out;
  std::string type = "mlx4";
  uint32_t group = 64;
  std::string scale_type = "auto";
  std::string encoder = "refined";
  std::vector<std::string> overrides;
  uint64_t shard_mib = 5120;
  uint32_t threads = 0;
  bool json = false;
};

void print(const Flags& flags, const convert::QuantizeReport& report) {
  const double bits = report.quantized_weights == 0 ? 0.0
                                                    : 8.0 * static_cast<double>(report.written_bytes) /
                                                          static_cast<double>(report.quantized_weights);
  if (flags.json) {
    const Json line = {{"source_bytes", report.source_bytes},
                       {"written_bytes", report.written_bytes},
                       {"quantized_weights", report.quantized_weights},
                       {"relative_error", report.relative_error}};
    std::printf("%s\n", dump_json(line).c_str());
    return;
  }
  std::printf("%s: %.1f MB from %.1f MB, %.2f bits per quantised weight in all, relative error %.4f\n",
              flags.out.c_str(), static_cast<double>(report.written_bytes) / 1e6,
              static_cast<double>(report.source_bytes) / 1e6, bits, report.relative_error);
}

Status run(const Flags& flags) {
  convert::QuantizeOptions options;
  ASSIGN_OR_RETURN(const NamedModel found, named_model(flags.model));
  options.model = found.path;
  options.out = flags.out;
  ASSIGN_OR_RETURN(options.type, convert::parse_quantize_type(flags.type));
  options.group = flags.group;
  if (flags.scale_type == "bf16") options.scale_type = DType::kBF16;
  if (flags.scale_type == "f16") options.scale_type = DType::kF16;
  options.encoder = flags.encoder == "mlx" ? convert::AffineEncoder::kMlx : convert::AffineEncoder::kRefined;
  for (const std::string& text : flags.overrides) {
    ASSIGN_OR_RETURN(convert::Override rule, convert::parse_override(text, flags.group));
    options.overrides.push_back(std::move(rule));
  }
  options.shard_bytes_max = flags.shard_mib << 20;
  const uint32_t threads =
      flags.threads != 0 ? flags.threads : std::max(1u, std::thread::hardware_concurrency());
  compute::ThreadPool pool(threads);
  ASSIGN_OR_RETURN(const convert::QuantizeReport report,
                   convert::quantize(options, pool, progress_line("quantising")));
  print(flags, report);
  return {};
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("quantize", "Write a 16-bit model in few bits");
  command
      ->add_option("-m,--model", flags->model,
                   "Folder with config.json and 16-bit safetensors, or the name of a cached model")
      ->required();
  command->add_option("-o,--output", flags->out, "Folder (MLX) or file (GGUF) to make")->required();
  command
      ->add_option("--type", flags->type,
                   "mlx2, mlx3, mlx4, mlx5, mlx6, mlx8 (folder); q4_0, q8_0, q4_k, bf16, f16 (GGUF)")
      ->capture_default_str();
  command->add_option("--group", flags->group, "Weights per scale, MLX only: 32, 64 or 128")
      ->check(CLI::IsMember({32, 64, 128}))
      ->capture_default_str();
  command
      ->add_option("--scale-type", flags->scale_type,
                   "MLX only: type of scales and biases; auto: the weight's own")
      ->check(CLI::IsMember({"auto", "bf16", "f16"}))
      ->capture_default_str();
  command
      ->add_option("--encoder", flags->encoder, "MLX only: refined: least squared error; mlx: MLX's own rule")
      ->check(CLI::IsMember({"refined", "mlx"}))
      ->capture_default_str();
  command->add_option(
      "--override", flags->overrides,
      "PATTERN=TYPE[:GROUP] for tensors whose name contains PATTERN; repeatable, first match wins");
  command->add_option("--shard-mib", flags->shard_mib, "MLX only: largest file in MiB")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("-t,--threads", flags->threads, "Threads (default: all processors)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", flags->json, "Report as JSON");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
