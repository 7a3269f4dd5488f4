// logits: the model's logits for given token ids, written as safetensors. Needs no tokenizer.
#include <algorithm>
#include <charconv>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cli/commands.h"
#include "formats/safetensors_writer.h"

namespace mlxf::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::vector<TokenId> ids;
  std::string out;
  std::string rope_frequencies = "f32";
  bool hidden = false;
  bool overwrite = false;
};

// Prompts run in pieces of this many tokens, as everywhere: it bounds the scratch memory and changes no bit.
constexpr size_t kChunkTokens = 512;

std::span<const uint8_t> bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

Status write(const Flags& flags, const std::vector<float>& logits, uint64_t vocab,
             const std::vector<std::vector<float>>& hidden, uint64_t width) {
  const uint64_t tokens = flags.ids.size();
  std::vector<formats::TensorSpec> specs = {{"logits", DType::kF32, {tokens, vocab}}};
  if (flags.hidden) specs.push_back({"hidden", DType::kF32, {hidden.size(), tokens, width}});
  ASSIGN_OR_RETURN(auto writer,
                   formats::SafetensorsWriter::create(
                       flags.out, specs, {},
                       flags.overwrite ? platform::Overwrite::kReplace : platform::Overwrite::kRefuse));
  RETURN_IF_ERROR(writer.append("logits", bytes_of(logits)));
  if (flags.hidden)
    for (const std::vector<float>& layer : hidden) RETURN_IF_ERROR(writer.append("hidden", bytes_of(layer)));
  return writer.finish();
}

// Empty for the number of a token.
std::string problem_of_id(const std::string& text) {
  TokenId id = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), id);
  const bool fits = problem == std::errc() && end == text.data() + text.size() && id >= 0;
  return fits ? "" : "'" + text + "' is no token id, which are whole numbers from 0 on: 1,2,3";
}

Status run(const Flags& flags) {
  engine::EngineOptions options;
  options.context_tokens = static_cast<uint32_t>(flags.ids.size());
  options.bf16_rope_frequencies = flags.rope_frequencies == "bf16";
  ASSIGN_OR_RETURN(const auto engine, flags.model.open(options));
  model::Model& model = engine->model();
  const auto sequence = model.make_sequence(static_cast<uint32_t>(flags.ids.size()));
  const uint64_t vocab = model.spec().vocab;
  std::vector<float> logits(flags.ids.size() * vocab);
  std::vector<std::vector<float>> hidden(flags.hidden ? model.spec().layers.size() + 1 : 0);
  model::HiddenObserver observer;
  if (flags.hidden)
    observer = [&hidden](uint32_t layer, const float* rows, uint32_t tokens, uint32_t width) {
      hidden[layer].insert(hidden[layer].end(), rows, rows + uint64_t{tokens} * width);
    };
  for (size_t at = 0; at < flags.ids.size(); at += kChunkTokens) {
    const size_t n = std::min(kChunkTokens, flags.ids.size() - at);
    const model::Chunk chunk{sequence.get(), {flags.ids.data() + at, n}, true};
    RETURN_IF_ERROR(model.forward({&chunk, 1}, logits.data() + at * vocab, observer));
  }
  return write(flags, logits, vocab, hidden, model.spec().hidden);
}

}  // namespace

void add_logits(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("logits", "Write the logits for given token ids (needs no tokenizer)");
  flags->model.add_to(*command);
  command->add_option("--ids", flags->ids, "Token ids: 1,2,3")
      ->required()
      ->delimiter(',')
      ->check(CLI::Validator(problem_of_id, ""));
  command->add_option("-o,--output", flags->out, "Safetensors file: logits f32 [tokens, vocab]")->required();
  command->add_flag("--hidden", flags->hidden, "Also hidden f32 [layers + 1, tokens, width]");
  command->add_flag("--overwrite", flags->overwrite, "Replace an existing file");
  command
      ->add_option("--rope-frequencies", flags->rope_frequencies,
                   "bf16: round them, to compare with a reference that was cast to bf16 whole")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
