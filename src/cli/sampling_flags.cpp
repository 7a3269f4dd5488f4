#include <charconv>
#include <chrono>

#include "cli/commands.h"
#include "engine/sampling_defaults.h"

namespace mlxf::cli {
namespace {

// "ID=BIAS", where the bias may be -inf.
Result<std::pair<TokenId, float>> parse_bias(const std::string& text) {
  const size_t equals = text.find('=');
  TokenId id = 0;
  if (equals != std::string::npos) {
    const auto [end, problem] = std::from_chars(text.data(), text.data() + equals, id);
    char* rest = nullptr;
    const float bias = std::strtof(text.c_str() + equals + 1, &rest);
    if (problem == std::errc() && end == text.data() + equals && rest != text.c_str() + equals + 1 &&
        *rest == '\0')
      return std::pair{id, bias};
  }
  return fail(ErrorCode::kInvalidArgument,
              "--logit-bias " + text + ": expected TOKEN_ID=BIAS, e.g. 151643=-100");
}

template <typename Value>
void set(Value& target, const std::optional<Value>& flag) {
  if (flag) target = *flag;
}

}  // namespace

void SamplingFlags::add_to(CLI::App& command) {
  command.add_option("--temp", temperature, "Temperature; 0 takes the likeliest token always")
      ->group("Sampling");
  command.add_option("--top-k", top_k, "Keep the k likeliest tokens (0: all)")->group("Sampling");
  command.add_option("--top-p", top_p, "Keep the likeliest tokens that reach this probability")
      ->group("Sampling");
  command.add_option("--min-p", min_p, "Keep tokens this likely, relative to the likeliest")
      ->group("Sampling");
  command.add_option("--typical-p", typical_p, "Locally typical sampling (1: off)")->group("Sampling");
  command.add_option("--repeat-penalty", repeat_penalty, "Penalty on tokens seen before (1: off)")
      ->group("Sampling");
  command.add_option("--repeat-last-n", repeat_last_n, "Tokens that the penalties look back on (0: all)")
      ->group("Sampling");
  command.add_option("--presence-penalty", presence_penalty, "Subtracted once from tokens of the answer")
      ->group("Sampling");
  command
      .add_option("--frequency-penalty", frequency_penalty, "Subtracted for each occurrence in the answer")
      ->group("Sampling");
  command.add_option("--logit-bias", logit_bias, "TOKEN_ID=BIAS, may be given several times")
      ->group("Sampling");
  command.add_option("--seed", seed, "Same seed, same answer (default: from the clock)")->group("Sampling");
}

Result<decode::SamplingParams> SamplingFlags::resolve(const formats::ModelManifest& manifest) const {
  ASSIGN_OR_RETURN(decode::SamplingParams params, engine::default_sampling(manifest));
  set(params.temperature, temperature);
  set(params.top_p, top_p);
  set(params.min_p, min_p);
  set(params.typical_p, typical_p);
  set(params.top_k, top_k);
  set(params.repetition_penalty, repeat_penalty);
  set(params.presence_penalty, presence_penalty);
  set(params.frequency_penalty, frequency_penalty);
  set(params.repeat_last_n, repeat_last_n);
  for (const std::string& text : logit_bias) {
    ASSIGN_OR_RETURN(const auto bias, parse_bias(text));
    params.logit_bias.push_back(bias);
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  params.seed = seed ? *seed : static_cast<uint64_t>(now.count()) & 0xffffffff;
  return params;
}

}  // namespace mlxf::cli
