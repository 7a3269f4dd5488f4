// trace record: runs a text through a mixture of experts and writes down which experts each token chose.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "model/families/families.h"
#include "model/weight_stream.h"
#include "weights/routing_trace.h"

namespace mlxf::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string prompt, file, out;
  uint32_t generate = 0;
  uint32_t context = 512;
  uint32_t tokens = 0;
  uint64_t seed = 1;
  bool force = false;
};

// Runs tokens through the model; the passes of one thread, each with its own check of what was written.
class Recorder {
 public:
  Recorder(engine::Engine& engine, weights::TraceWriter& writer)
      : model_(engine.model()), writer_(writer), logits_(model_.spec().vocab) {
    model_.observe_routing([this, places = model::trace_layers(model_.spec())](
                               uint32_t layer, uint32_t row, std::span<const int32_t> experts) {
      writer_.observe(places[layer], row, experts);
    });
  }
  ~Recorder() { model_.observe_routing({}); }

  void begin_window(uint32_t context) { sequence_ = model_.make_sequence(context); }
  Status append(std::span<const TokenId> tokens) {
    for (size_t at = 0; at < tokens.size(); at += model_.chunk_tokens()) {
      if (interrupted()) return fail(ErrorCode::kCancelled, "interrupted; no trace was written");
      const auto part = tokens.subspan(at, std::min<size_t>(model_.chunk_tokens(), tokens.size() - at));
      const model::Chunk chunk{sequence_.get(), part, false};
      RETURN_IF_ERROR(model_.forward({&chunk, 1}, logits_.data()));
      RETURN_IF_ERROR(writer_.end_pass(static_cast<uint32_t>(part.size())));
    }
    return {};
  }
  // Continues with `count` sampled tokens.
  Status generate(uint32_t count, uint64_t seed) {
    decode::SamplingParams params;
    params.seed = seed;
    decode::Sampler sampler(params, model_.spec().vocab);
    for (uint32_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(const TokenId token, sampler.sample(logits_, sequence_->length()));
      sampler.accept(token);
      RETURN_IF_ERROR(append({&token, 1}));
    }
    return {};
  }

 private:
  model::Model& model_;
  weights::TraceWriter& writer_;
  std::unique_ptr<kv::Sequence> sequence_;
  std::vector<float> logits_;
};

// From the headers, before weights are read for nothing.
Result<weights::TraceShape> shape_of(const std::string& path) {
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(path));
  ASSIGN_OR_RETURN(const model::ModelSpec spec, model::make_spec(manifest));
  ASSIGN_OR_RETURN(weights::TraceShape shape, model::trace_shape(manifest, spec));
  if (shape.layers() == 0)
    return fail(ErrorCode::kInvalidArgument,
                "this model has no routed experts (" + spec.architecture + "): there is nothing to trace");
  return shape;
}

Status run(Flags flags) {
  ASSIGN_OR_RETURN(flags.model.path, flags.model.model_path());
  ASSIGN_OR_RETURN(const weights::TraceShape shape, shape_of(flags.model.path));
  std::string text = flags.prompt;
  if (!flags.file.empty()) {
    ASSIGN_OR_RETURN(text, read_text(flags.file));
  }
  engine::EngineOptions options;
  options.with_tokenizer = true;
  options.context_tokens = flags.context + flags.generate;
  ASSIGN_OR_RETURN(const auto engine, flags.model.open(options));
  const model::ModelSpec& spec = engine->model().spec();
  if (spec.context_max != 0 && options.context_tokens > spec.context_max)
    return fail(ErrorCode::kInvalidArgument, "the model's context is " + std::to_string(spec.context_max) +
                                                 " tokens: -c and -n together take " +
                                                 std::to_string(options.context_tokens));
  ASSIGN_OR_RETURN(std::vector<TokenId> ids, engine->tokenizer().encode(text, {false, false}));
  if (flags.tokens != 0 && flags.tokens < ids.size()) ids.resize(flags.tokens);
  if (ids.empty()) return fail(ErrorCode::kInvalidArgument, "the text is empty: give at least one token");
  const uint64_t total = ids.size() + flags.generate;
  ASSIGN_OR_RETURN(auto writer, weights::TraceWriter::create(flags.out, shape, total,
                                                             flags.force ? formats::Overwrite::kReplace
                                                                         : formats::Overwrite::kRefuse));
  watch_interrupts();
  const auto progress = progress_line("tracing");
  Recorder recorder(*engine, writer);
  for (size_t at = 0; at < ids.size(); at += flags.context) {
    const std::span<const TokenId> window(ids.data() + at, std::min<size_t>(flags.context, ids.size() - at));
    recorder.begin_window(options.context_tokens);
    RETURN_IF_ERROR(recorder.append(window));
    if (progress) progress(at + window.size(), total);
  }
  RETURN_IF_ERROR(recorder.generate(flags.generate, flags.seed));
  RETURN_IF_ERROR(writer.finish());
  std::printf("%s: %llu tokens, %u layers, %u experts each\n", flags.out.c_str(),
              static_cast<unsigned long long>(total), shape.layers(), shape.top_k);
  return {};
}

}  // namespace

void add_trace_record(CLI::App& trace, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = trace.add_subcommand("record", "Write down which experts each token of a text chooses");
  flags->model.add_to(*command, ModelFlags::Default::kBundled);
  CLI::Option* prompt = command->add_option("-p,--prompt", flags->prompt, "The text");
  CLI::Option* file = command->add_option("-f,--file", flags->file, "Read the text from a file; - is stdin");
  file->excludes(prompt);
  command->add_option("-o,--output", flags->out, "The trace to write (safetensors)")->required();
  command->add_option("-n,--generate", flags->generate, "Go on with this many sampled tokens after the text")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  command->add_option("-c,--context", flags->context, "Tokens per window of the text")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--tokens", flags->tokens, "Only the text's first tokens (0: all)");
  command->add_option("--seed", flags->seed, "Of the sampled tokens")->capture_default_str();
  command->add_flag("--force", flags->force, "Replace an existing trace");
  command->callback([=, &action] {
    const bool given = prompt->count() != 0 || file->count() != 0;
    action = [flags, given]() -> Status {
      if (!given)
        return fail(ErrorCode::kInvalidArgument, "trace record needs a text: give -p TEXT or -f FILE");
      return run(*flags);
    };
  });
}

}  // namespace mlxf::cli
