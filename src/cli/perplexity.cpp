// perplexity: how well a model predicts a text: exp of the mean negative log-likelihood per token.
//
// The file is tokenised once, without BOS; windows of --ctx tokens do not overlap and each begins with an empty cache;
// every token but a window's first counts. A tail shorter than two tokens is left out.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "formats/safetensors_reader.h"
#include "formats/safetensors_writer.h"
#include "text/tokenizer.h"

namespace mlxf::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string file;
  uint32_t context = 512;
  uint64_t tokens = 0;
  std::string against;
  std::string save;
  bool json = false;
};

struct Score {
  double nll = 0.0;  // Sum, in nats.
  uint64_t tokens = 0;
  double kl = 0.0;  // Sum of KL(reference || model).
  uint64_t kl_rows = 0, same_first = 0;
};

double log_sum_exp(const float* logits, uint32_t vocab) {
  const float largest = *std::max_element(logits, logits + vocab);
  double sum = 0.0;
  for (uint32_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
  return largest + std::log(sum);
}

void compare(const float* reference, const float* logits, uint32_t vocab, Score& score) {
  const double reference_total = log_sum_exp(reference, vocab), total = log_sum_exp(logits, vocab);
  double kl = 0.0;
  for (uint32_t i = 0; i < vocab; ++i) {
    const double log_p = reference[i] - reference_total;
    kl += std::exp(log_p) * (log_p - (logits[i] - total));
  }
  score.kl += kl;
  ++score.kl_rows;
  score.same_first += std::max_element(reference, reference + vocab) - reference ==
                      std::max_element(logits, logits + vocab) - logits;
}

// Logits f32 [rows, vocab] of the text's first `rows` tokens, in windows as here.
Result<std::vector<float>> load_reference(const std::string& path, uint32_t vocab) {
  ASSIGN_OR_RETURN(formats::FloatTensor tensor, formats::load_tensor_f32(path, "logits"));
  if (tensor.shape.size() != 2 || tensor.shape[1] != vocab)
    return fail(ErrorCode::kInvalidArgument, path + ": tensor logits must be [tokens, " +
                                                 std::to_string(vocab) + "], as this model's vocabulary");
  return std::move(tensor.values);
}

Status save_logits(const std::string& path, const std::vector<float>& rows, uint64_t vocab) {
  const formats::TensorSpec spec{"logits", DType::kF32, {rows.size() / vocab, vocab}};
  ASSIGN_OR_RETURN(auto writer,
                   formats::SafetensorsWriter::create(path, {spec}, {}, formats::Overwrite::kRefuse));
  RETURN_IF_ERROR(
      writer.append("logits", {reinterpret_cast<const uint8_t*>(rows.data()), rows.size() * sizeof(float)}));
  return writer.finish();
}

Status print(const Flags& flags, const Score& score, double seconds) {
  if (score.tokens == 0)
    return fail(ErrorCode::kInvalidArgument, flags.file + ": too short: at least two tokens are needed");
  const double nll = score.nll / static_cast<double>(score.tokens);
  Json out = {{"nll", nll},
              {"perplexity", std::exp(nll)},
              {"tokens", score.tokens},
              {"tok_s", static_cast<double>(score.tokens) / seconds}};
  if (score.kl_rows != 0) {
    out["kl"] = score.kl / static_cast<double>(score.kl_rows);
    out["kl_tokens"] = score.kl_rows;
    out["same_first"] = static_cast<double>(score.same_first) / static_cast<double>(score.kl_rows);
  }
  if (flags.json) {
    std::printf("%s\n", dump_json(out).c_str());
    return {};
  }
  std::printf("perplexity %.4f  (%.5f nats per token over %llu tokens; %.0f tok/s)\n", std::exp(nll), nll,
              static_cast<unsigned long long>(score.tokens), static_cast<double>(score.tokens) / seconds);
  if (score.kl_rows != 0)
    std::printf("against %s: mean KL %.6f nats, same first choice %.2f %% of %llu tokens\n",
                flags.against.c_str(), out["kl"].get<double>(), 100.0 * out["same_first"].get<double>(),
                static_cast<unsigned long long>(score.kl_rows));
  return {};
}

Status run(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::string text, read_text(flags.file));
  engine::EngineOptions options;
  options.with_tokenizer = true;
  options.context_tokens = flags.context;
  ASSIGN_OR_RETURN(const auto engine, flags.model.open(options));
  model::Model& model = engine->model();
  const uint32_t vocab = model.spec().vocab;
  const text::Tokenizer& tokenizer = engine->tokenizer();
  ASSIGN_OR_RETURN(std::vector<TokenId> ids, tokenizer.encode(text, {false, false}));
  if (flags.tokens != 0 && flags.tokens < ids.size()) ids.resize(flags.tokens);
  std::vector<float> reference;
  if (!flags.against.empty()) {
    ASSIGN_OR_RETURN(reference, load_reference(flags.against, vocab));
  }
  const uint64_t reference_rows = reference.size() / vocab;
  const auto progress = progress_line("perplexity");
  const auto start = std::chrono::steady_clock::now();
  Score score;
  std::vector<float> logits(uint64_t{flags.context} * vocab), saved;
  for (size_t at = 0; at + 1 < ids.size(); at += flags.context) {
    const size_t count = std::min<size_t>(flags.context, ids.size() - at);
    const auto sequence = model.make_sequence(flags.context);
    const model::Chunk chunk{sequence.get(), {ids.data() + at, count}, true};
    RETURN_IF_ERROR(model.forward({&chunk, 1}, logits.data()));
    for (size_t i = 0; i < count; ++i) {
      const float* row = logits.data() + i * vocab;
      if (i + 1 < count) {
        score.nll += log_sum_exp(row, vocab) - row[ids[at + i + 1]];
        ++score.tokens;
      }
      if (at + i < reference_rows) compare(reference.data() + (at + i) * vocab, row, vocab, score);
    }
    if (!flags.save.empty())
      saved.insert(saved.end(), logits.begin(), logits.begin() + static_cast<ptrdiff_t>(count * vocab));
    if (progress) progress(at + count, ids.size());
  }
  if (!flags.save.empty()) RETURN_IF_ERROR(save_logits(flags.save, saved, vocab));
  return print(flags, score, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace

void add_perplexity(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  flags->model.add_to(*command, ModelFlags::Default::kBundled);
  command->add_option("-f,--file", flags->file, "The text; - is stdin")->required();
  command->add_option("--ctx", flags->context, "Tokens per window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("--tokens", flags->tokens, "Only the text's first tokens (0: all)");
  command->add_option("--against", flags->against,
                      "Reference logits (from --save): prints the KL divergence to them");
  command->add_option("--save", flags->save,
                      "Write the logits as safetensors: 4 bytes per token and vocabulary entry");
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
