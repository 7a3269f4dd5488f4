// synth: random weights in a real model's exact shape.
#include <memory>

#include "cli/commands.h"
#include "convert/synth.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string shape;
  std::string format;
  uint32_t layers = 0;
  double skew = 0.0;
  uint64_t seed = 1;
  std::string out;
};

Status run(const Flags& flags) {
  convert::SynthOptions options;
  ASSIGN_OR_RETURN(options.shape, convert::find_shape(flags.shape));
  if (!flags.format.empty()) {
    ASSIGN_OR_RETURN(options.format, convert::parse_synth_format(flags.format));
  }
  if (flags.layers != 0) options.layers = flags.layers;
  options.routing_skew = flags.skew;
  options.seed = flags.seed;
  options.out = flags.out;
  return convert::synthesise(options, progress_line("writing"));
}

}  // namespace

void add_synth(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("synth", "Write random weights in a real model's exact shape, for measuring speed");
  command->add_option("--shape", flags->shape, convert::shape_names())->required();
  command->add_option(
      "--format", flags->format,
      "q4_k_m, q8_0, q4_0, bf16 (GGUF), mxfp4 (GGUF, gpt-oss alone and by default); mlx4, mlx8 "
      "(folders, shapes up to mixtral-8x7b) [q4_k_m]");
  command->add_option("--layers", flags->layers, "Fewer layers than the shape has")
      ->check(CLI::Range(1, 1024));
  command->add_option("--routing-skew", flags->skew, "How uneven the experts are used (0: evenly)")
      ->check(CLI::Range(0.0, 10.0));
  command->add_option("--seed", flags->seed, "Other weights")->capture_default_str();
  command->add_option("-o,--output", flags->out, "File (GGUF) or folder (MLX) to make")->required();
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
